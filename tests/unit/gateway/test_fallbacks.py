"""Who answers where a model cannot."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.dialects.registry import VENDOR_NAMES
from gateway.models.fallbacks import Chain, Fallbacks, parse_fallbacks
from shared.errors import ConfigError, InvalidRequestError, OverloadedError, PromptTooLongError


class _Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def _fallbacks(clock: _Clock, **table: Any) -> Fallbacks:
    parsed = parse_fallbacks({"fallbacks": table})
    return Fallbacks(lambda: parsed, VENDOR_NAMES, clock)


def _chain(fallbacks: Fallbacks, name: str, model: str = "", **others: str) -> Chain:
    """`others` are the models that stand behind other names."""
    return fallbacks.of(name, fallbacks.instead(name, model), {name: model, **others})


def test_the_next_is_asked_for_errors_that_another_may_not_have() -> None:
    chain = _chain(_fallbacks(_Clock(), big=["small", "far"]), "big")
    assert chain.names == ("big", "small", "far")
    asked = []
    for name in chain:
        asked.append(name)
        if not chain.goes_on(name, OverloadedError("full")):
            break
    assert asked == ["big", "small", "far"]
    other = _chain(_fallbacks(_Clock(), big=["small"]), "big")
    assert next(iter(other)) == "big"
    assert not other.goes_on("big", InvalidRequestError("wrong"))


def test_error_classes_can_be_chosen() -> None:
    chain = _chain(_fallbacks(_Clock(), big={"models": ["long"], "on": ["prompt_too_long"]}), "big")
    next(iter(chain))
    assert chain.goes_on("big", PromptTooLongError("long"))
    assert not chain.goes_on("big", OverloadedError("full"))


def test_what_failed_is_not_asked_first_until_it_has_cooled_down() -> None:
    clock = _Clock()
    fallbacks = _fallbacks(clock, big={"models": ["small"], "cool_down_s": 10})
    next(iter(chain := _chain(fallbacks, "big")))
    assert chain.goes_on("big", OverloadedError("full"))
    assert _chain(fallbacks, "big").names == ("small",)
    clock.now_s += 10
    assert _chain(fallbacks, "big").names == ("big", "small")
    for name in ("big", "small"):
        fallbacks.failed(name, 10)
    assert _chain(fallbacks, "big").names == ("big", "small")  # all of them are: as if none were
    fallbacks.worked("small")
    assert _chain(fallbacks, "big").names == ("small",)


def test_a_tier_an_alias_and_what_it_stands_for_have_chains() -> None:
    fallbacks = _fallbacks(_Clock(), opus=["a"], qwen=["b"])
    assert _chain(fallbacks, "claude-opus-4-1").names == ("claude-opus-4-1", "a")
    assert _chain(fallbacks, "my-alias", "qwen").names == ("my-alias", "b")
    alone = _chain(fallbacks, "other", "m")
    assert next(iter(alone)) == "other"
    assert not alone.goes_on("other", OverloadedError("full"))


def test_a_tiers_name_may_be_written_as_its_vendor_writes_it() -> None:
    assert _fallbacks(_Clock(), Opus=["small"]).instead("claude-opus-4-5").models == ("small",)


def test_it_is_the_model_that_cools_down_whatever_it_is_called_and_no_other_that_takes_its_name() -> None:
    fallbacks = _fallbacks(_Clock(), opus=["small"], reviewer=["small"])
    next(iter(chain := _chain(fallbacks, "opus", "away", small="s")))
    assert chain.goes_on("opus", OverloadedError("full"))
    assert _chain(fallbacks, "reviewer", "away", small="s").names == ("small",)
    assert _chain(fallbacks, "opus", "another", small="s").names == ("opus", "small")
    chain.worked("opus")
    assert _chain(fallbacks, "reviewer", "away", small="s").names == ("reviewer", "small")


def test_an_error_about_a_request_cools_nobody_down() -> None:
    fallbacks = _fallbacks(_Clock(), big={"models": ["long"], "on": ["prompt_too_long", "overloaded"]})
    next(iter(chain := _chain(fallbacks, "big")))
    assert chain.goes_on("big", PromptTooLongError("long"))
    assert _chain(fallbacks, "big").names == ("big", "long")


@pytest.mark.parametrize(
    "entry",
    [[], "small", [1], {"models": ["a"], "on": ["sometimes"]}, {"models": ["a"], "cool_down_s": -1}, {"model": "a"}],
)
def test_chains_that_cannot_be_meant_are_refused(entry: Any) -> None:
    with pytest.raises(ConfigError, match=r"claude_routing\.json: fallbacks of 'big'"):
        parse_fallbacks({"fallbacks": {"big": entry}})
