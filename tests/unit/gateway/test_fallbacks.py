"""Who answers where a model cannot."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.dialects.registry import VENDOR_NAMES
from gateway.models.fallbacks import Fallbacks, parse_fallbacks
from shared.errors import ConfigError, InvalidRequestError, OverloadedError, PromptTooLongError


class _Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def _fallbacks(clock: _Clock, **table: Any) -> Fallbacks:
    parsed = parse_fallbacks({"fallbacks": table})
    return Fallbacks(lambda: parsed, VENDOR_NAMES, clock)


def test_the_next_is_asked_for_errors_that_another_may_not_have() -> None:
    chain = _fallbacks(_Clock(), big=["small", "far"]).of("big")
    assert chain.names == ("big", "small", "far")
    asked = []
    for name in chain:
        asked.append(name)
        if not chain.goes_on(name, OverloadedError("full")):
            break
    assert asked == ["big", "small", "far"]
    other = _fallbacks(_Clock(), big=["small"]).of("big")
    assert next(iter(other)) == "big"
    assert not other.goes_on("big", InvalidRequestError("wrong"))


def test_error_classes_can_be_chosen() -> None:
    chain = _fallbacks(_Clock(), big={"models": ["long"], "on": ["prompt_too_long"]}).of("big")
    next(iter(chain))
    assert chain.goes_on("big", PromptTooLongError("long"))
    assert not chain.goes_on("big", OverloadedError("full"))


def test_what_failed_is_not_asked_first_until_it_has_cooled_down() -> None:
    clock = _Clock()
    fallbacks = _fallbacks(clock, big={"models": ["small"], "cool_down_s": 10})
    next(iter(chain := fallbacks.of("big")))
    assert chain.goes_on("big", OverloadedError("full"))
    assert fallbacks.of("big").names == ("small",)
    clock.now_s += 10
    assert fallbacks.of("big").names == ("big", "small")
    for name in ("big", "small"):
        fallbacks.failed(name, 10)
    assert fallbacks.of("big").names == ("big", "small")  # all of them are: as if none were
    fallbacks.worked("small")
    assert fallbacks.of("big").names == ("small",)


def test_a_tier_an_alias_and_what_it_stands_for_have_chains() -> None:
    fallbacks = _fallbacks(_Clock(), opus=["a"], qwen=["b"])
    assert fallbacks.of("claude-opus-4-1").names == ("claude-opus-4-1", "a")
    assert fallbacks.of("my-alias", "qwen").names == ("my-alias", "b")
    alone = fallbacks.of("other", "m")
    assert next(iter(alone)) == "other"
    assert not alone.goes_on("other", OverloadedError("full"))


@pytest.mark.parametrize(
    "entry",
    [[], "small", [1], {"models": ["a"], "on": ["sometimes"]}, {"models": ["a"], "cool_down_s": -1}, {"model": "a"}],
)
def test_chains_that_cannot_be_meant_are_refused(entry: Any) -> None:
    with pytest.raises(ConfigError, match=r"claude_routing\.json: fallbacks of 'big'"):
        parse_fallbacks({"fallbacks": {"big": entry}})
