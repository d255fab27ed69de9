"""Schemas taken apart into alternatives: each once, however the unions refer to each other."""

from __future__ import annotations

from typing import Any

import pytest

from worker.formats.schemas import TYPES, branches, types


def mutual(count: int, **beside: Any) -> dict[str, Any]:
    """Unions of which each contains all others and one object of its own."""
    union = {
        f"u{own}": {
            **beside,
            "anyOf": [
                *({"$ref": f"#/$defs/u{other}"} for other in range(count) if other != own),
                {"type": "object", "required": [f"p{own}"]},
            ],
        }
        for own in range(count)
    }
    return {"$ref": "#/$defs/u0", "$defs": union}


@pytest.mark.parametrize("beside", [{}, {"description": "d"}])
def test_unions_that_contain_each_other_have_each_alternative_once(beside: dict[str, Any]) -> None:
    """Without memory there are as many ways through forty of them as there are orders of forty."""
    root = mutual(40, **beside)
    found = branches(root, root)
    assert {branch["required"][0] for branch in found} == {f"p{index}" for index in range(40)}
    assert {branch["type"] for branch in found} == {"object"}
    assert len(found) == 40


def test_a_union_of_itself_alone_has_no_alternative() -> None:
    root = {"$ref": "#/$defs/u", "$defs": {"u": {"anyOf": [{"$ref": "#/$defs/u"}]}}}
    assert branches(root, root) == []


def test_a_union_of_more_than_can_be_written_out_is_anything() -> None:
    schema = {"anyOf": [{"const": index} for index in range(100_000)]}
    assert branches(schema, schema) == [{"type": kind} for kind in TYPES]
    assert types(schema, schema) == frozenset(TYPES)
