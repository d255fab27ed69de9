from __future__ import annotations

import pytest

from gateway.dialects.registry import VENDOR_NAMES
from gateway.models.resolve import Routes, parse_aliases, resolve
from shared.errors import ConfigError, ModelNotFoundError, ModelUnavailableError, OverloadedError
from shared.registry import Fleet, HostRecord, ModelRecord
from shared.routing import Target, parse_tiers
from tests.support.fleet import fleet_of, host, lease

FLEET = fleet_of("coder", "tiny")


def model_of(name: str, fleet: Fleet = FLEET, routes: Routes | None = None, last_used: str = "") -> str:
    return resolve(name, fleet, routes or Routes(), last_used=last_used, vendors=VENDOR_NAMES).model


def test_an_exact_id_is_itself() -> None:
    assert model_of("tiny") == "tiny"


def test_the_discovery_prefix_is_taken_off() -> None:
    assert model_of("anthropic/tiny") == "tiny"


def test_an_id_that_really_begins_with_the_prefix_is_found_first() -> None:
    assert model_of("anthropic/tiny", fleet_of("anthropic/tiny", "tiny")) == "anthropic/tiny"


@pytest.mark.parametrize("source", ["/models/Qwen3-4B", "mlx-community/Qwen3-4B"])
def test_the_source_stands_for_the_id(source: str) -> None:
    fleet = Fleet(hosts=(host(ModelRecord(id="qwen", state="available", source=source)),))
    assert model_of(source, fleet) == "qwen"
    assert model_of(f"anthropic/{source}", fleet) == "qwen"


def test_an_exact_id_beats_an_alias_of_the_same_name() -> None:
    assert model_of("tiny", routes=Routes(aliases={"tiny": "coder"})) == "tiny"


def test_an_exact_alias_beats_a_pattern() -> None:
    assert model_of("claude-x", routes=Routes(aliases={"claude-*": "coder", "claude-x": "tiny"})) == "tiny"


def test_the_longest_pattern_wins() -> None:
    aliases = {"claude-*": "coder", "claude-haiku-*": "tiny"}
    assert model_of("claude-haiku-4", routes=Routes(aliases=aliases)) == "tiny"
    assert model_of("claude-opus-4", routes=Routes(aliases=aliases)) == "coder"


def test_an_alias_may_stand_for_an_alias() -> None:
    assert model_of("a", routes=Routes(aliases={"a": "b", "b": "tiny"})) == "tiny"


def test_aliases_in_a_circle_are_reported_instead_of_followed_for_ever() -> None:
    with pytest.raises(ModelNotFoundError, match="'a' stands for"):
        model_of("a", routes=Routes(aliases={"a": "b", "b": "a"}))


def test_an_alias_of_something_that_is_not_served_says_so() -> None:
    with pytest.raises(ModelNotFoundError, match=r"'a' stands for 'gone', which is not served; there are: coder, tiny"):
        model_of("a", routes=Routes(aliases={"a": "gone"}))


@pytest.mark.parametrize(
    "name",
    [
        "haiku",
        "Haiku[1m]",
        "anthropic/haiku",
        "claude-haiku-4-5-20251001",
        "claude-3-5-haiku-latest",
        "anthropic/Claude-Haiku-5[1m]",
        "us.anthropic.claude-haiku-4-5-20251001-v1:0",
        "claude-3-haiku@20240307",
    ],
)
def test_a_tier_is_a_word_behind_the_vendors_or_the_whole_name(name: str) -> None:
    assert model_of(name, routes=Routes(tiers={"haiku": Target(model="tiny")})) == "tiny"


@pytest.mark.parametrize(
    "name",
    [
        "affable-7b",
        "opus-v1.2-7b",
        "my-haiku",
        "magnum-opus",
        "claudette-7b",
        "not-claude-opus",
        "opuscule",
        "haiku/opus",
    ],
)
def test_a_name_that_only_looks_like_a_tier_is_unknown(name: str) -> None:
    tiers = dict.fromkeys(("haiku", "sonnet", "opus", "fable"), Target(model="tiny"))
    with pytest.raises(ModelNotFoundError):
        model_of(name, routes=Routes(tiers=tiers, default_model="tiny"))


@pytest.mark.parametrize("name", ["claude-affable-7", "claude-opuscule-1", "claude-3-haikus"])
def test_a_vendors_name_without_a_tiers_word_is_the_default_and_not_the_tier(name: str) -> None:
    tiers = dict.fromkeys(("haiku", "opus", "fable"), Target(model="tiny"))
    assert model_of(name, routes=Routes(tiers=tiers, default_model="coder")) == "coder"


def test_of_tiers_the_one_that_says_most_wins() -> None:
    tiers = {"opus": Target(model="tiny"), "opus-4-1": Target(model="coder")}
    assert model_of("claude-opus-4-1-20250805", routes=Routes(tiers=tiers)) == "coder"
    assert model_of("opus-4-1", routes=Routes(tiers=tiers)) == "coder"
    assert model_of("claude-opus-4-12", routes=Routes(tiers=tiers)) == "tiny"


def test_a_tier_carries_its_backend_and_draft_model() -> None:
    routes = Routes(tiers=parse_tiers({"tiers": {"opus": {"model": "coder", "backend": "mlx", "draft_model": "tiny"}}}))
    assert resolve("claude-opus-4", FLEET, routes, vendors=VENDOR_NAMES) == Target(
        model="coder", backend="mlx", draft_model="tiny"
    )


def test_a_pattern_beats_a_tier() -> None:
    routes = Routes(aliases={"claude-*": "coder"}, tiers={"haiku": Target(model="tiny")})
    assert model_of("claude-haiku-4", routes=routes) == "coder"


def test_a_tier_may_name_an_alias() -> None:
    routes = Routes(aliases={"fast": "tiny"}, tiers={"haiku": Target(model="fast")})
    assert model_of("claude-haiku-4", routes=routes) == "tiny"


def test_current_model_is_the_last_one_used_while_it_is_served() -> None:
    assert model_of("current-model", last_used="tiny") == "tiny"
    assert model_of("current-model", last_used="gone") == "coder"
    assert model_of("current-model") == "coder"


def test_an_alias_may_stand_for_the_current_model() -> None:
    assert model_of("local", routes=Routes(aliases={"local": "current-model"}), last_used="tiny") == "tiny"


@pytest.mark.parametrize("name", ["claude-sonnet-4-5", "claude-next-9", "anthropic/claude-opus-5", "opusplan"])
def test_unknown_claude_names_mean_the_default(name: str) -> None:
    assert model_of(name, routes=Routes(default_model="tiny")) == "tiny"


def test_without_a_default_the_first_ready_model_is_it() -> None:
    fleet = Fleet(
        workers=(lease("slow", state="loading"), lease("tiny")),
        hosts=(host(ModelRecord(id="another", state="available")),),
    )
    assert model_of("claude-opus-4", fleet) == "tiny"


def test_with_nothing_ready_the_default_is_a_model_that_can_be_loaded() -> None:
    fleet = Fleet(hosts=(host(ModelRecord(id="b", state="available"), ModelRecord(id="a", state="failed")),))
    assert model_of("claude-opus-4", fleet) == "b"


def test_any_other_unknown_name_is_an_error_that_lists_what_exists() -> None:
    routes = Routes(aliases={"fast": "tiny", "gpt-*": "coder"})
    with pytest.raises(ModelNotFoundError, match=r"model 'qwen' does not exist; there are: coder, tiny, fast$"):
        model_of("qwen", routes=routes)


@pytest.mark.parametrize("name", ["qwen", "claude-opus-4", "current-model", "fast"])
def test_while_nothing_is_served_the_client_may_try_again(name: str) -> None:
    with pytest.raises(OverloadedError, match="no worker or host") as raised:
        model_of(name, Fleet(), Routes(aliases={"fast": "tiny"}))
    assert raised.value.retry_after_s


@pytest.mark.parametrize("name", ["bad", "/models/bad", "claude-opus-4"])
def test_a_model_that_failed_to_load_gives_the_hosts_reason(name: str) -> None:
    failed = ModelRecord(id="bad", state="failed", source="/models/bad", reason="no config.json in /models/bad")
    with pytest.raises(ModelUnavailableError, match=r"no config\.json"):
        model_of(name, Fleet(hosts=(host(failed),)))


def test_a_model_that_another_host_can_serve_has_not_failed() -> None:
    hosts = (
        host(ModelRecord(id="m", state="failed", reason="no memory")),
        HostRecord(host="b", pid=2, models=(ModelRecord(id="m", state="ready"),)),
    )
    assert model_of("m", Fleet(hosts=hosts)) == "m"


def test_alias_files_may_have_a_heading_or_not() -> None:
    assert parse_aliases({"a": "b"}) == parse_aliases({"aliases": {"a": "b"}}) == {"a": "b"}


@pytest.mark.parametrize("data", [[], {"a": 1}, {"a": ""}, {"aliases": {"a": None}}])
def test_alias_files_that_can_not_be_used_are_refused(data: object) -> None:
    with pytest.raises(ConfigError, match=r"model_aliases\.json"):
        parse_aliases(data)


@pytest.mark.parametrize(
    "data", [[], {"tiers": []}, {"tiers": {"opus": {}}}, {"tiers": {"opus": {"model": "m", "backend": 1}}}]
)
def test_routing_files_that_can_not_be_used_are_refused(data: object) -> None:
    with pytest.raises(ConfigError, match=r"claude_routing\.json"):
        parse_tiers(data)


def test_names_that_lead_nowhere_are_not_offered() -> None:
    routes = Routes(aliases={"dead": "gone", "good": "second", "second": "tiny", "round": "round"})
    with pytest.raises(ModelNotFoundError, match=r"there are: coder, tiny, good, second$"):
        model_of("nobody", routes=routes)


def test_an_alias_for_a_model_with_a_profile_is_offered_and_profiles_are_named_where_one_is_asked_for() -> None:
    routes = Routes(aliases={"reviewer": "tiny:careful", "odd": "gone:careful"}, profiles=("careful",))
    with pytest.raises(ModelNotFoundError, match=r"'nobody' does not exist; there are: coder, tiny, reviewer$"):
        model_of("nobody", routes=routes)
    with pytest.raises(
        ModelNotFoundError, match=r"'tiny:hasty' does not exist \(there are the profiles careful\); there"
    ):
        model_of("tiny:hasty", routes=routes)


def test_what_a_client_sent_as_a_name_is_shown_in_part() -> None:
    with pytest.raises(ModelNotFoundError) as raised:
        model_of("x" * 2_000_000)
    assert len(raised.value.message) < 400
