"""Models on the gateway's disk, as the console and scripts see, fetch and delete them. The hub is a stand-in; a real
`mlx-gateway pull` asks it, by its own package."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.admin import disk
from gateway.admin.disk import Pulls, delete, render_local, with_fits
from gateway.command.pulling.hub import search
from shared.config import Settings
from shared.errors import ConfigError, InvalidRequestError, RouteNotFoundError
from shared.registry import Fleet, HostRecord, ModelRecord
from tests.support.gateway import until
from tests.support.hub_stand_in import HubStandIn, serving_hub

MODEL = {"config.json": b"{}", "model.safetensors": b"w" * 50_000, "tokenizer.json": b"{ }"}
CONFIG = b"""{"model_type": "qwen3", "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
"head_dim": 8}"""
KNOWN = {**MODEL, "config.json": CONFIG}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandIn]:
    stand_in = HubStandIn({"maker/model": MODEL, "maker/other": MODEL, "maker/known": KNOWN})
    with serving_hub(stand_in) as url:
        for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "LMSTUDIO_MODELS_DIR"):
            monkeypatch.delenv(name, raising=False)
        for name, value in (("HF_ENDPOINT", url), ("HF_HOME", str(tmp_path / "hf")), ("HOME", str(tmp_path))):
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        yield stand_in


def play(folder: Path, scenario: Callable[[Pulls], Awaitable[None]]) -> None:
    async def main() -> None:
        pulls = Pulls(Settings(state_dir=folder / "state"))
        try:
            await scenario(pulls)
        finally:
            await pulls.aclose()

    asyncio.run(main())


def pretend(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """That fetching is this: it lasts as long, or fails as, a test needs it."""
    plan = 'echo \'{"lines": ["one file"], "size_bytes": 9}\''
    monkeypatch.setattr(disk, "_pull_command", lambda flag, *_: ["sh", "-c", plan if flag == "--json" else script])


def told(pulls: Pulls, model: str = "maker/model") -> dict[str, Any]:
    found: dict[str, Any] = pulls.render()["pulls"][model]
    return found


def lay(folder: Path, name: str, data: bytes = b"w" * 100) -> Path:
    model = folder / "hf" / "hub" / f"models--{name.replace('/', '--')}"
    (model / "blobs").mkdir(parents=True)
    (model / "blobs" / "1").write_bytes(data)
    snapshot = model / "snapshots" / "a"
    snapshot.mkdir(parents=True)
    for file in ("config.json", "model.safetensors"):
        (snapshot / file).symlink_to(model / "blobs" / "1")
    return model


@pytest.mark.slow
def test_the_hub_is_searched_by_words_whatever_they_begin_with(tmp_path: Path, hub: HubStandIn) -> None:
    async def scenario(pulls: Pulls) -> None:
        found = (await pulls.search("MODEL maker"))["models"]
        assert found == [{"model": "maker/model", "kind": "mlx", "downloads": 7, "changed": "2026-11-01"}]
        assert (await pulls.search("--yes"))["models"] == []

    play(tmp_path, scenario)


def test_a_search_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package itself tries an address that is away again and again, for half a minute: its error is played."""
    pytest.importorskip("huggingface_hub", reason="it comes with the extra mlx")

    class Away:
        def list_models(self, **_: object) -> list[object]:
            raise OSError("no route to the hub\nand more")

    monkeypatch.setattr("huggingface_hub.HfApi", Away)
    with pytest.raises(ConfigError, match=r"the hub could not be searched: no route to the hub$"):
        search("model")


def test_fit_is_said_of_each_mac_whose_memory_is_known() -> None:
    sizes = {"small": 8e9, "middle": 16e9, "large": 64e9}
    hosts = [HostRecord(host=name, pid=1, figures={"memory_total_bytes": size}) for name, size in sizes.items()]
    told = with_fits({"size_bytes": 10e9}, Fleet(hosts=(*hosts, HostRecord(host="silent", pid=1))))
    assert {each["host"]: each["fit"] for each in told["fits"]} == {"small": "no", "middle": "tight", "large": "fits"}


QWEN3_8B = {"token_bytes": 147_456, "windows": [], "state_bytes": 0}
GPT_OSS = {"token_bytes": 24_576, "windows": [[128, 2048]] * 12, "state_bytes": 0}


def fits_of(size_bytes: float, cache: dict[str, Any] | None, **sizes: float) -> dict[str, dict[str, Any]]:
    plan = {"size_bytes": int(size_bytes), "lines": ["one"], "cache": cache}
    hosts = tuple(HostRecord(host=name, pid=1, figures={"memory_total_bytes": size}) for name, size in sizes.items())
    told = with_fits(plan, Fleet(hosts=(*hosts, HostRecord(host="silent", pid=1))))
    assert (told["lines"], "cache" in told) == (["one"], False)
    return {each["host"]: each for each in told["fits"]}


def test_fit_is_that_of_weights_and_of_the_cache_for_as_many_tokens_as_one_has_in_mind() -> None:
    told = fits_of(4.6e9, QWEN3_8B, small=6e9, middle=16e9, large=64e9)
    assert {host: each["fit"] for host, each in told.items()} == {"small": "no", "middle": "fits", "large": "fits"}
    by_tokens = {host: [one["fit"] for one in each["contexts"]] for host, each in told.items()}
    assert by_tokens["small"] == ["no"] * 5
    assert by_tokens["middle"] == ["fits", "fits", "tight", "tight", "tight"], "8k, 32k, 64k, 128k, 256k"
    assert by_tokens["large"] == ["fits"] * 5
    assert [one["cache_bytes"] for one in told["large"]["contexts"]][:2] == [8192 * 147_456, 32_768 * 147_456]
    usable_bytes = 16e9 * 0.75 - 4.6e9 * 1.1
    assert told["middle"]["most_tokens"] == int(usable_bytes // 147_456)
    assert told["small"]["most_tokens"] == 0


def test_windows_are_counted_as_far_as_they_reach() -> None:
    told = fits_of(12.1e9, GPT_OSS, middle=24e9)
    assert told["middle"]["contexts"][0]["cache_bytes"] == 8192 * 24_576 + 12 * 128 * 2048


def test_without_a_known_cache_weights_alone_are_compared() -> None:
    told = fits_of(4.6e9, None, middle=16e9)
    assert told["middle"] == {"host": "middle", "fit": "fits", "usable_bytes": 12_000_000_000}


def fleet(source: str) -> Fleet:
    record = ModelRecord(id="m", source=source, state="ready")
    return Fleet(hosts=(HostRecord(host="studio", pid=1, models=(record,)),))


@pytest.mark.slow
def test_a_model_is_looked_at_fetched_followed_and_then_lies_here(tmp_path: Path, hub: HubStandIn) -> None:
    async def scenario(pulls: Pulls) -> None:
        plan = await pulls.plan("maker/model", "")
        assert "3 files" in plan["lines"][0]
        assert plan["cache_unknown"] == "what a model of the type 'None' keeps is known once it is loaded"
        known = await pulls.plan("maker/known", "")
        assert known["cache"] == {"token_bytes": 2 * 2 * 2 * 8 * 2, "windows": [], "state_bytes": 0}
        assert pulls.render() == {"pulls": {}}
        await pulls.start("maker/model", "")
        before = pulls.stamp()
        await until(lambda: told(pulls)["state"] != "fetching", "it is fetched", deadline_s=60)
        assert (told(pulls)["state"], told(pulls)["fetched_bytes"]) == ("done", told(pulls)["total_bytes"]), told(pulls)
        assert pulls.stamp() != before
        lying = render_local(Fleet())["models"]["maker/model"]
        assert (lying["kind"], lying["is_whole"], lying["is_served"]) == ("mlx", True, False)

    play(tmp_path, scenario)
    assert {each.name for each in tmp_path.glob("hf/hub/models--*")} == {"models--maker--model"}, (
        "looking leaves nothing"
    )


def test_what_is_fetched_can_be_cancelled(tmp_path: Path, hub: HubStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "exec sleep 60")

    async def scenario(pulls: Pulls) -> None:
        await pulls.start("maker/model", "")
        assert (await pulls.start("maker/model", ""))["lines"] == ["maker/model is fetched already"]
        pulls.cancel("maker/model")
        await until(lambda: not pulls.is_fetched("maker/model"), "it has ended")
        assert told(pulls)["state"] == "cancelled"
        with pytest.raises(RouteNotFoundError):
            pulls.cancel("maker/model")

    play(tmp_path, scenario)


def test_one_that_fails_says_why(tmp_path: Path, hub: HubStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "echo begun; echo the disk is full >&2; exit 1")

    async def scenario(pulls: Pulls) -> None:
        await pulls.start("maker/model", "")
        await until(lambda: told(pulls)["state"] == "failed", "it has ended")
        assert told(pulls)["reason"] == "the disk is full"

    play(tmp_path, scenario)


@pytest.mark.parametrize(
    "model", ["", "model", "--help", "-q/x", "../x", "maker/..", "a/b/c", "a/b;c", "maker/model\n"]
)
def test_what_is_no_id_of_the_hub_is_refused_before_anything_is_asked(
    tmp_path: Path, hub: HubStandIn, model: str
) -> None:
    async def scenario(pulls: Pulls) -> None:
        with pytest.raises(InvalidRequestError):
            await pulls.start(model, "")
        with pytest.raises(InvalidRequestError):
            await pulls.start("maker/model", "--yes")

    play(tmp_path, scenario)
    assert hub.asked == []


def test_a_model_that_the_hub_does_not_have_is_told_so(tmp_path: Path, hub: HubStandIn) -> None:
    async def scenario(pulls: Pulls) -> None:
        with pytest.raises(ConfigError, match="no model"):
            await pulls.start("maker/nothing", "")
        assert pulls.render() == {"pulls": {}}

    play(tmp_path, scenario)


def test_a_model_is_deleted_unless_it_is_served(tmp_path: Path, hub: HubStandIn) -> None:
    served, free = lay(tmp_path, "maker/served"), lay(tmp_path, "maker/free")
    by_path = lay(tmp_path, "maker/path")
    for there, name in ((fleet("maker/served"), "maker/served"), (fleet(f"{by_path}/snapshots/a"), "maker/path")):
        assert render_local(there)["models"][name]["is_served"]
        with pytest.raises(InvalidRequestError, match="is served"):
            delete(name, there)
    assert "is deleted" in delete("maker/free", fleet("maker/served"))
    assert (served.exists(), by_path.exists(), free.exists()) == (True, True, False)


@pytest.mark.parametrize("name", ["../..", "/", "maker/../../x", "nothing"])
def test_nothing_else_is_deleted(tmp_path: Path, hub: HubStandIn, name: str) -> None:
    model = lay(tmp_path, "maker/model")
    with pytest.raises(ConfigError):
        delete(name, Fleet())
    assert model.exists()
