"""What `mlx-gateway launch` starts each agent with."""

from __future__ import annotations

import json
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from gateway.command.agents.base import ServedModels, Setting, Start
from gateway.command.agents.registry import AGENTS
from shared.errors import ConfigError

URL, KEY = "http://studio.local:8080", "a key with 'quotes'"
NAMES = sorted(AGENTS)


def setting(folder: Path, *, key: str = KEY, **models: Any) -> Setting:
    served = {"main": "maker/qwen", "context_tokens": 65_536, "reads_images": True, "reasons": True} | models
    return Setting(url=URL, key=key, models=ServedModels(**served), folder=folder / "agents")


def values_of_codex(start: Start) -> dict[str, Any]:
    """The settings that its `-c` flags make, as it reads them: TOML, where it is any."""
    pairs = [word for flag, word in zip(start.arguments, start.arguments[1:], strict=False) if flag == "-c"]
    return tomllib.loads("\n".join(pairs))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("key", [KEY, ""])
def test_every_agent_is_told_where_with_which_key_and_for_which_model(name: str, key: str, tmp_path: Path) -> None:
    start = AGENTS[name].prepare(setting(tmp_path, key=key))
    files = [path.read_text() for path in (tmp_path / "agents").glob("*")]
    told = " ".join([*start.arguments, *start.environment.values(), *files])
    assert URL in told
    assert "maker/qwen" in told
    assert (KEY in start.environment.values()) == bool(key), "a key is never an argument, which others can see"
    assert not any(KEY in text for text in (*start.arguments, *files))


@pytest.mark.parametrize("name", NAMES)
def test_the_window_is_told_and_none_is_made_up(name: str, tmp_path: Path) -> None:
    def told(folder: Path, context_tokens: int) -> str:
        start = AGENTS[name].prepare(setting(folder, context_tokens=context_tokens))
        files = [path.read_text() for path in (folder / "agents").glob("*")]
        return " ".join([*start.environment.values(), *files])

    assert "54321" in told(tmp_path / "known", 54_321)
    unknown = told(tmp_path / "unknown", 0)
    assert not any(f"{word}: 0" in unknown.replace('"', "") for word in ("context_window", "contextWindow", "context"))


@pytest.mark.parametrize("name", NAMES)
def test_a_shell_gets_the_same(name: str, tmp_path: Path) -> None:
    """Variables, and a function of the program's name that passes on what a person says."""
    program = tmp_path / "bin" / AGENTS[name].program
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nprintf "%s\\0" "$@"\nprintf "\\0"\nenv -0\n')
    program.chmod(0o755)
    start = AGENTS[name].prepare(setting(tmp_path))
    script = f"{start.script(AGENTS[name].program)}\n{AGENTS[name].program} 'its own'"
    path = {"PATH": f"{program.parent}:/usr/bin:/bin"}
    said = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True, env=path).stdout
    arguments, _, environment = said.partition("\0\0")
    assert arguments.split("\0") == [*start.arguments, "its own"]
    found = dict(entry.split("=", 1) for entry in environment.split("\0") if "=" in entry)
    assert found.items() >= start.environment.items()


def test_codex_knows_the_model_from_a_catalogue_of_ours(tmp_path: Path) -> None:
    start = AGENTS["codex"].prepare(setting(tmp_path))
    values = values_of_codex(start)
    assert start.arguments[:2] == ("-m", "maker/qwen")
    provider = values["model_providers"][values["model_provider"]]
    assert (provider["base_url"], provider["wire_api"]) == (f"{URL}/v1", "responses")
    assert start.environment == {provider["env_key"]: KEY}
    assert provider["stream_idle_timeout_ms"] > 1_000_000
    (entry,) = json.loads(Path(values["model_catalog_json"]).read_text())["models"]
    assert (entry["slug"], entry["context_window"]) == ("maker/qwen", 65_536)
    assert entry["input_modalities"] == ["text", "image"]
    assert 200 < len(entry["base_instructions"]) < 4000


def test_codex_is_refused_a_window_in_which_it_would_only_compact(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="15000 tokens; Codex needs 16000"):
        AGENTS["codex"].prepare(setting(tmp_path, context_tokens=15_000))
    AGENTS["codex"].prepare(setting(tmp_path, context_tokens=16_000))


def test_a_model_without_eyes_is_shown_no_images(tmp_path: Path) -> None:
    start = AGENTS["codex"].prepare(setting(tmp_path, reads_images=False))
    (entry,) = json.loads(Path(values_of_codex(start)["model_catalog_json"]).read_text())["models"]
    assert entry["input_modalities"] == ["text"]


def test_opencode_gets_one_variable_that_switches_its_clocks_off(tmp_path: Path) -> None:
    start = AGENTS["opencode"].prepare(setting(tmp_path))
    content = json.loads(start.environment["OPENCODE_CONFIG_CONTENT"])
    (provider,) = content["provider"].values()
    assert (provider["options"]["headerTimeout"], provider["options"]["chunkTimeout"]) == (False, False)
    assert provider["models"]["maker/qwen"]["limit"] == {"context": 65_536, "output": 16_384}
    assert content["model"] == content["small_model"], "titles are no other vendor's"


def test_the_extension_for_pi_is_one_that_node_reads(tmp_path: Path) -> None:
    AGENTS["pi"].prepare(setting(tmp_path))
    (extension,) = (tmp_path / "agents").glob("pi*.js")
    text = extension.read_text()
    assert "process.env.MLX_GATEWAY_API_KEY" in text
    provider = json.loads(text[text.index('{\n  "') : text.rindex(";\n  pi.register")])
    assert provider["models"][0]["contextWindow"] == 65_536


def test_a_word_with_quotes_stays_one_for_codex_and_for_a_shell(tmp_path: Path) -> None:
    folder = tmp_path / 'a "folder" of \\ mine'
    start = AGENTS["codex"].prepare(Setting(url=URL, key="", models=ServedModels(main="m"), folder=folder))
    assert values_of_codex(start)["model_catalog_json"].startswith(str(folder))
    assert shlex.split(start.script("codex").removeprefix("codex() { command ").removesuffix(' "$@"; }')) == [
        "codex",
        *start.arguments,
    ]
