"""Named ways to ask a model."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.dialects.registry import VENDOR_NAMES
from gateway.models.profiles import parse_profiles
from gateway.models.resolve import Routes, resolve
from gateway.models.sampling import fill_sampling, parse_sampling
from shared.errors import ConfigError, ModelNotFoundError
from shared.messages import Message, TextPart
from shared.registry import Fleet, HostRecord, ModelRecord
from shared.request import GenerateRequest, ReasoningOptions, SamplingParams
from shared.routing import parse_tiers
from shared.work import Generate
from worker.serving.default_system import with_default_system

SETTINGS = {
    "defaults": {"top_p": 0.9},
    "models": {"qwen": {"temperature": 0.7, "top_k": 5}},
    "profiles": {"careful": {"temperature": 0.2, "thinking": True, "effort": "high", "system": "Be brief."}},
}
USER = Message(role="user", parts=(TextPart(text="hi"),))


def _fleet(*models: str) -> Fleet:
    records = tuple(ModelRecord(id=model, state="ready") for model in models)
    return Fleet(hosts=(HostRecord(host="h", pid=1, models=records),))


def _resolved(name: str, *models: str, **aliases: str) -> tuple[str, str]:
    tiers = parse_tiers({"tiers": {"opus": {"model": "qwen", "profile": "careful"}, "haiku": "qwen"}})
    routes = Routes(aliases=aliases, tiers=tiers, default_model="qwen", profiles=parse_profiles(SETTINGS))
    target = resolve(name, _fleet("qwen", *models), routes, vendors=VENDOR_NAMES)
    return target.model, target.profile


def test_a_profile_stands_behind_a_name_of_any_kind() -> None:
    assert _resolved("qwen:careful") == ("qwen", "careful")
    assert _resolved("reviewer", reviewer="qwen:careful") == ("qwen", "careful")
    assert _resolved("alias:careful", alias="qwen") == ("qwen", "careful")
    assert _resolved("claude-opus-4-1") == ("qwen", "careful")
    assert _resolved("claude-haiku-4:careful") == ("qwen", "careful")
    assert _resolved("qwen") == ("qwen", "")


def test_a_name_with_a_colon_of_its_own_stays_what_it_is() -> None:
    assert _resolved("qwen:8b", "qwen:8b") == ("qwen:8b", "")
    assert _resolved("qwen:careful", "qwen:careful") == ("qwen:careful", "")
    with pytest.raises(ModelNotFoundError):
        _resolved("qwen:carefull")


def test_the_client_comes_before_the_profile_and_that_before_the_model() -> None:
    profile, tables = parse_profiles(SETTINGS)["careful"], parse_sampling(SETTINGS)
    filled = fill_sampling(SamplingParams(), tables, "qwen", profile.sampling)
    assert (filled.temperature, filled.top_k, filled.top_p) == (0.2, 5, 0.9)
    assert fill_sampling(SamplingParams(temperature=1.0), tables, "qwen", profile.sampling).temperature == 1.0


def test_thinking_is_the_clients_where_it_says_something() -> None:
    profile = parse_profiles(SETTINGS)["careful"]
    left_open = profile.fill(GenerateRequest(id="r", model="m", messages=(USER,)))
    assert (left_open.reasoning.enabled, left_open.reasoning.effort) == (True, "high")
    silent = ReasoningOptions(enabled=False, is_asked=False)  # what Messages without `thinking` mean
    assert profile.fill(GenerateRequest(id="r", model="m", messages=(USER,), reasoning=silent)).reasoning.enabled
    said = GenerateRequest(id="r", model="m", messages=(USER,), reasoning=ReasoningOptions(enabled=False, effort="low"))
    assert (profile.fill(said).reasoning.enabled, profile.fill(said).reasoning.effort) == (False, "low")


def test_the_profiles_system_text_heads_a_conversation_that_has_none() -> None:
    profile = parse_profiles(SETTINGS)["careful"]
    request = profile.fill(GenerateRequest(id="r", model="m", messages=(USER,)))
    told = with_default_system(Generate(request=request)).request.messages
    assert told == (Message(role="system", parts=(TextPart(text="Be brief."),)), USER)
    own = Message(role="system", parts=(TextPart(text="mine"),))
    has_own = profile.fill(GenerateRequest(id="r", model="m", messages=(own, USER)))
    assert with_default_system(Generate(request=has_own)).request.messages == (own, USER)


@pytest.mark.parametrize(
    "entry", [[], {"thinking": "yes"}, {"effort": "huge"}, {"budget_tokens": -1}, {"system": 1}, {"temprature": 1}]
)
def test_profiles_that_cannot_be_meant_are_refused(entry: Any) -> None:
    with pytest.raises(ConfigError, match=r"inference_settings\.json: profile 'p'"):
        parse_profiles({"profiles": {"p": entry}})
