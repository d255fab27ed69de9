"""Looking for servers of models, changing tiers, and modes."""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.command.modes import model_of_mode
from gateway.command.remotes import report, scan
from gateway.command.tiers import change_tier, set_tier
from shared.config import Settings
from shared.errors import ConfigError, ModelNotFoundError
from shared.fingerprints import Found
from shared.registry import Fleet, HostRecord, ModelRecord, ModelSpec, WorkerLease
from shared.remotes import Remote
from tests.support.mistralrs_stand_in import MistralRsStandIn
from tests.support.upstream_stand_ins import LmStudioStandIn, OllamaStandIn, OpenAiStandIn, StandIn, serving


class _Ours(StandIn):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def answer(self, handler: Any, path: str, body: Any) -> None:
        if path == "/health":
            handler.send({"status": "ok"}, x_mlx_gateway_id=self.name)
        else:
            handler.send({"error": "no key"}, 401)


class _Locked(StandIn):
    def answer(self, handler: Any, path: str, body: Any) -> None:
        handler.send({"error": "no key"}, 401)


class _Omni(OpenAiStandIn):
    """mlx-omni-server's two lists."""

    def answer(self, handler: Any, path: str, body: Any) -> None:
        super().answer(handler, path.removeprefix("/anthropic"), body)


def test_servers_are_told_by_what_they_answer_and_ourselves_left_out() -> None:
    """The stand-ins say of themselves what they are."""
    with (
        serving(OpenAiStandIn()) as openai,
        serving(LmStudioStandIn(loaded=4096)) as studio,
        serving(OllamaStandIn()) as ollama,
        serving(_Ours("gw1")) as ours,
        serving(_Ours("gw2")) as other,
        serving(_Locked()) as locked,
        serving(MistralRsStandIn()) as mistral,
        serving(_Omni()) as omni,
    ):
        urls = [openai, studio, ollama, ours, other, locked, mistral, omni, "http://127.0.0.1:9"]
        found = asyncio.run(scan(urls, ourselves=ours))
    assert [(each.url, each.profile) for each in found] == [
        (openai, "openai"),
        (studio, "lmstudio"),
        (ollama, "ollama"),
        (other, "mlx-gateway"),
        (locked, ""),
        (mistral, "mistralrs"),
        (omni, "mlx-omni-server"),
    ]
    assert found[2].models == ("far:cloud", "qwen:latest")
    assert found[5].models == ("qwen3",)


def test_what_is_found_is_told_with_the_entries_that_serve_it() -> None:
    found = [
        Found(url="http://a", profile="ollama", models=("qwen:8b",)),
        Found(url="http://b", profile="openai", models=("m",)),
        Found(url="http://c", profile=""),
    ]
    lines = report(found, [Remote(id="known", url="http://b/v1")])
    assert lines[0] == "http://a: ollama: qwen:8b"
    assert lines[1].endswith("(in remotes.json)")
    assert "wants a key" in lines[2]
    entry = {"id": "qwen-8b-ollama", "url": "http://a", "model": "qwen:8b", "profile": "ollama"}
    assert json.loads(lines[-1]) == {"remotes": [entry]}
    assert report([], []) == ["no server of models answers on this machine"]


def _fleet() -> Fleet:
    host = HostRecord(
        host="h", pid=1, models=(ModelRecord(id="big", state="ready"), ModelRecord(id="far", state="ready"))
    )
    lease = WorkerLease(worker="w", model="big", host="h", pid=1, epoch="e", state="ready", engine="gguf")
    return Fleet(hosts=(host,), workers=(lease,))


def test_a_tier_is_set_and_cleared_in_its_file_and_nothing_else_is_touched(tmp_path: Path) -> None:
    settings = Settings(config_dir=tmp_path)
    path = tmp_path / "claude_routing.json"
    path.write_text(json.dumps({"tiers": {"Haiku": "far", "opus": {"model": "far", "draft_model": "d"}}, "note": 1}))
    set_tier(settings, "opus", "big")
    assert json.loads(path.read_text()) == {"tiers": {"Haiku": "far", "opus": "big"}, "note": 1}
    options = argparse.Namespace(tier="haiku", model=None, clear=True)
    assert change_tier(settings, options, _fleet()) == 0
    assert json.loads(path.read_text()) == {"tiers": {"opus": "big"}, "note": 1}
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    with pytest.raises(ModelNotFoundError):
        change_tier(settings, argparse.Namespace(tier="opus", model="none", clear=False), _fleet())
    with pytest.raises(ConfigError, match="--config"):
        set_tier(Settings(), "opus", "big")


def test_a_mode_is_a_backends_model_or_a_name() -> None:
    listed = [ModelSpec(id="small", source="s", engine="mlx")]
    remotes = [Remote(id="studio", url="http://x", profile="lmstudio")]
    modes = {
        mode: model_of_mode(mode, _fleet(), listed, remotes) for mode in ("gguf", "mlx", "lmstudio", "remote", "far")
    }
    assert modes == {"gguf": "big", "mlx": "small", "lmstudio": "studio", "remote": "studio", "far": "far"}
    with pytest.raises(ConfigError, match="nothing is served by it; there are: big, far"):
        model_of_mode("ollama", _fleet(), listed, remotes)
