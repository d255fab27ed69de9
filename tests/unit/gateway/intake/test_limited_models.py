"""Clients that may use some models only: what their names stand for, who is asked instead, what they are told."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from gateway.dialects.registry import VENDOR_NAMES
from gateway.intake.intake import Intake
from gateway.intake.tags import Tagger
from gateway.keys.holder import Holder
from gateway.models.fallbacks import Fallbacks
from gateway.models.names import ModelNames
from gateway.models.settings_files import Policies
from shared.config import load_settings
from shared.errors import GatewayError, ModelNotFoundError, PermissionDeniedError
from shared.registry import Fleet
from shared.request import GenerateRequest
from tests.support.fleet import fleet_of

ANNA = Holder(name="anna", role="user", tenant="anna", models=("small*",))
FILES = {
    "model_aliases.json": {"mine": "small-b", "secret": "big", "away": "nowhere", "strong": "big:careful"},
    "claude_routing.json": {
        "tiers": {"opus": "big", "haiku": "small-b"},
        "rules": [
            {"asked": ["mine"], "tools": False, "model": "nowhere"},
            {"asked": ["mine"], "tools": False, "model": "strong"},
            {"asked": ["mine"], "tools": False, "model": "small-a"},
        ],
        "fallbacks": {"small-a": ["big", "secret", "small-b"], "big": ["small-a"], "small-b": ["big"]},
    },
    "inference_settings.json": {"profiles": {"careful": {"temperature": 0.1}}},
}


@dataclass
class Served:
    snapshot: Fleet

    async def refresh(self) -> Fleet:
        return self.snapshot


@pytest.fixture
def intake(tmp_path: Path) -> Intake:
    for name, content in FILES.items():
        (tmp_path / name).write_text(json.dumps(content))
    policies = Policies(replace(load_settings(environ={}), config_dir=tmp_path))
    names = ModelNames(policies, Served(fleet_of("big", "small-a", "small-b")), VENDOR_NAMES, lambda: "big")
    return Intake(names, policies, Tagger(b"k" * 32), Fallbacks(policies.fallbacks, VENDOR_NAMES, lambda: 0.0))


def model_of(intake: Intake, name: str, holder: Holder = ANNA) -> str:
    """As every route asks for it."""
    request = asyncio.run(intake.take(GenerateRequest(id="r", model=name, messages=()), holder.limit))
    holder.check_model(request.model, asked=name)
    return request.model


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("small-a", "small-a"),
        ("mine", "small-b"),
        ("claude-haiku-4", "small-b"),
        ("current-model", "small-a"),  # others used `big` last
        ("claude-something-new", "small-a"),
        ("", "small-a"),
    ],
)
def test_names_that_leave_the_choice_stand_for_what_may_be_used(intake: Intake, name: str, model: str) -> None:
    assert model_of(intake, name) == model


@pytest.mark.parametrize("name", ["big", "secret", "claude-opus-4-5", "opus", "strong", "big:careful", "anthropic/big"])
def test_no_name_leads_to_what_may_not_be_used_and_none_tells_what_it_stands_for(intake: Intake, name: str) -> None:
    with pytest.raises(PermissionDeniedError) as refused:
        model_of(intake, name)
    assert repr(name) in str(refused.value)
    assert "big" not in str(refused.value).replace(repr(name), "")
    assert model_of(intake, name, Holder(name="ben", role="user")) == "big"


@pytest.mark.parametrize("name", ["nope", "away", "small-a:nope"])
def test_names_of_nothing_tell_of_no_model_that_may_not_be_used(intake: Intake, name: str) -> None:
    with pytest.raises(ModelNotFoundError) as unknown:
        model_of(intake, name)
    assert "small-a, small-b, mine" in str(unknown.value)
    assert not any(word in str(unknown.value) for word in ("big", "secret", "strong"))


def test_who_may_use_nothing_that_is_served_is_told_so(intake: Intake) -> None:
    other = Holder(name="carl", role="user", models=("other",))
    for name in ("current-model", "claude-sonnet-4", "nope"):
        with pytest.raises(GatewayError) as refused:
            model_of(intake, name, other)
        assert not any(word in str(refused.value) for word in ("big", "small", "secret"))


def test_nobody_is_asked_instead_whom_a_key_may_not_use(intake: Intake) -> None:
    def chain(name: str, holder: Holder = ANNA) -> tuple[str, ...]:
        return asyncio.run(intake.chain(name, holder.limit)).names

    assert chain("small-a") == ("small-a", "small-b")
    assert chain("small-b") == ("small-b",)
    assert chain("big") == ("big", "small-a"), "who is asked first refuses"
    assert chain("small-a", Holder()) == ("small-a", "big", "secret", "small-b")


def test_no_rule_leads_to_nowhere_or_to_what_a_key_may_not_use(intake: Intake) -> None:
    def ruled(name: str, holder: Holder) -> int:
        rule = asyncio.run(intake.ruled(GenerateRequest(id="r", model=name, messages=()), holder.limit))
        return rule.number if rule else 0

    assert (ruled("mine", Holder()), ruled("mine", ANNA), ruled("opus", ANNA)) == (2, 3, 0)
    assert "rule 1 of claude_routing.json leads nowhere" in "\n".join(intake.names.dead())
