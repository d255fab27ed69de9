"""A patch brings one state to the next (RFC 7396)."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.admin.merging import known, merge_patch

NAMES = st.sampled_from("abcd")
VALUES = st.recursive(
    st.integers() | st.text(max_size=3) | st.booleans() | st.lists(st.integers(), max_size=3),
    lambda inner: st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
STATES = st.dictionaries(NAMES, VALUES, max_size=4)


def applied(target: Any, patch: Any) -> Any:
    """As section 2 of the RFC writes it down."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = applied(result.get(name), value)
    return result


@given(before=STATES, after=STATES)
def test_a_patch_applied_to_what_was_gives_what_is(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert applied(before, merge_patch(before, after)) == after


@given(state=STATES)
def test_where_nothing_changed_there_is_nothing_to_say(state: dict[str, Any]) -> None:
    assert merge_patch(state, dict(state)) == {}


def test_only_what_changed_is_said() -> None:
    before = {"rows": {"a": {"n": 1, "m": 2}, "b": {"n": 1}}, "same": [1]}
    after = {"rows": {"a": {"n": 2, "m": 2}, "c": {"n": 3}}, "same": [1]}
    assert merge_patch(before, after) == {"rows": {"a": {"n": 2}, "b": None, "c": {"n": 3}}}
    assert known(a=None, b=0, c="") == {"b": 0, "c": ""}
