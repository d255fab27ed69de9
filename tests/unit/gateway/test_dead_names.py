"""Names in the settings files that lead nowhere are found before a client asks for them."""

from __future__ import annotations

from gateway.dialects.registry import VENDOR_NAMES
from gateway.models.dead_names import find_dead_names
from gateway.models.resolve import Routes
from shared.registry import Fleet, HostRecord, ModelRecord, Stranger
from shared.routing import Target

FLEET = Fleet(
    hosts=(
        HostRecord(
            host="mac",
            pid=1,
            models=(
                ModelRecord(id="qwen", source="maker/Qwen", state="ready"),
                ModelRecord(id="broken", source="b", state="failed", reason="no weights"),
            ),
        ),
    )
)


def dead(routes: Routes, fleet: Fleet = FLEET) -> list[str]:
    return list(find_dead_names(fleet, routes, VENDOR_NAMES))


def test_an_alias_a_pattern_a_tier_and_a_default_that_lead_nowhere_are_told() -> None:
    routes = Routes(
        aliases={"gpt-4o": "qwenn", "gpt-*": "qwen-old"}, tiers={"haiku": Target(model="small")}, default_model="none"
    )
    lines = dead(routes)
    assert [word for word in ("'gpt-4o'", "'gpt-*'", "'haiku'", "default") if any(word in line for line in lines)] == [
        "'gpt-4o'",
        "'gpt-*'",
        "'haiku'",
        "default",
    ]
    assert all("there are: qwen" in line for line in lines)


def test_a_fallback_that_leads_nowhere_is_told_and_one_of_a_model_that_is_not_there_is_what_it_is_for() -> None:
    instead = {"opus": ["qwen", "qwne"], "gone": ["qwen"]}
    (line,) = find_dead_names(FLEET, Routes(), VENDOR_NAMES, instead=instead)
    assert "the fallback 'qwne' of 'opus' in claude_routing.json leads nowhere" in line


def test_defaults_of_a_model_that_nobody_serves_are_told() -> None:
    (line,) = find_dead_names(FLEET, Routes(), VENDOR_NAMES, sampled=["", "qwen", "broken", "qwne"])
    assert "'qwne'" in line


def test_names_that_lead_to_a_model_are_not_told_by_id_by_source_or_through_others() -> None:
    routes = Routes(
        aliases={"a": "qwen", "b": "maker/Qwen", "c": "a", "d*": "c", "x": "haiku"}, tiers={"haiku": Target(model="c")}
    )
    assert dead(routes) == []


def test_a_model_that_failed_to_load_tells_that_itself() -> None:
    assert dead(Routes(aliases={"a": "broken"})) == []


def test_nothing_is_told_while_nothing_is_served_or_not_everybody_is_understood() -> None:
    routes = Routes(aliases={"a": "gone"})
    stranger = Stranger(kind="host", name="other", reason="another secret")
    assert dead(routes, Fleet()) == []
    assert dead(routes, Fleet(hosts=FLEET.hosts, strangers=(stranger,))) == []
