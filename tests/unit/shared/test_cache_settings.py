"""What prefix caches may take, by a file: its names, its ranges, and what comes before it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.admin.about import render_about
from gateway.command.cli import main
from gateway.models.settings_files import Policies, find_faults
from shared.cache_settings import CACHE, FILE, cache_faults, parse_cache_settings, with_cache_settings
from shared.config import Settings, environment_name, load_settings, setting_sources
from shared.errors import ConfigError

SAID = {"cache_max_slots": 7, "ssd_cache_bytes": -1, "cache_bits": 8}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ({"cache_max_slot": 4}, "unknown option 'cache_max_slot'"),
        ({"cache_max_slot": 4}, "did you mean cache_max_slots?"),
        ({"MLX_CACHE_MAX_SLOTS": 4}, "MLX_CACHE_MAX_SLOTS is called 'cache_max_slots' in this file"),
        ({"cache_bits": 4}, "`cache_bits` 4: expected 0 or 8"),
        ({"cache_block_tokens": 0}, "`cache_block_tokens` 0: expected a whole number from 1"),
        ({"cache_max_slots": -1}, "`cache_max_slots` -1: expected a whole number from 0"),
        ({"cache_max_slots": True}, "`cache_max_slots` True"),
        ({"cache_bytes": 1.5}, "`cache_bytes` 1.5"),
        ({"cache_bytes": "8 GB"}, "`cache_bytes` '8 GB'"),
        ({"ssd_cache_bytes": -2}, "`ssd_cache_bytes` -2: expected a whole number from -1"),
        ([], "expected an object"),
        (None, "expected an object"),
    ],
)
def test_what_cannot_be_meant_is_told_with_its_place(text: Any, told: str) -> None:
    (line,) = cache_faults(text)
    assert line.startswith(f"{FILE}: ")
    assert told in line
    with pytest.raises(ConfigError):
        parse_cache_settings(text)


def test_each_setting_takes_what_its_variable_takes() -> None:
    usual = {name: getattr(Settings(), name) for name in CACHE}
    assert parse_cache_settings(usual) == usual
    assert parse_cache_settings(SAID) == SAID
    for name, option in CACHE.items():
        for value in option.among or (option.least, option.most):
            load_settings(environ={environment_name(name): str(int(value))})


def test_the_environment_comes_before_the_file_and_the_file_before_the_default() -> None:
    environ = {"MLX_CACHE_MAX_SLOTS": "4"}
    settings = load_settings({"cache_bits": 0, "ssd_cache_bytes": 5}, environ=environ)
    now = with_cache_settings(settings, SAID, setting_sources(settings, environ))
    assert (now.cache_max_slots, now.ssd_cache_bytes, now.cache_bits, now.cache_max_tokens) == (4, 5, 8, 65536)


def test_the_page_is_told_who_has_set_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_CACHE_MAX_SLOTS", "3")
    (tmp_path / FILE).write_text(json.dumps(SAID))
    settings = load_settings({"config_dir": tmp_path})
    policies = Policies(settings)
    told = render_about("gw", settings, policies.cache())
    assert told["cache"]["MLX_CACHE_MAX_SLOTS"]["value"] == 3
    assert told["given"]["MLX_CACHE_MAX_SLOTS"] == "environment"
    assert told["cache"]["MLX_GATEWAY_CACHE_BITS"]["value"] == 8
    assert told["given"]["MLX_GATEWAY_CACHE_BITS"] == FILE
    assert told["settings"]["MLX_GATEWAY_SSD_CACHE_BYTES"] == "-1"
    assert "MLX_CACHE_MAX_TOKENS" not in told["given"]
    assert {each["name"] for each in told["cache"].values()} == CACHE.keys()
    (tmp_path / FILE).write_text('{"cache_bits": 3}')
    assert policies.cache() == SAID, "the last good content"
    assert any(FILE in fault for fault in policies.faults())
    (tmp_path / FILE).unlink()
    assert policies.cache() == {}


def test_config_check_tells_every_fault_and_config_show_what_is_in_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--state", str(tmp_path / "state"), "--config", str(tmp_path)]
    (tmp_path / FILE).write_text(json.dumps({"cache_bits": 3, "memory_byte": 1}))
    assert len([*find_faults(load_settings({"config_dir": tmp_path}, environ={}))]) == 2
    assert main(["config", "check", *words]) == 1
    told = capsys.readouterr().err
    assert all(part in told for part in ("`cache_bits` 3", "did you mean memory_bytes?"))
    (tmp_path / FILE).write_text(json.dumps(SAID))
    assert main(["config", "check", *words]) == 0
    assert main(["config", "show", *words]) == 0
    assert "MLX_GATEWAY_CACHE_BITS=8\n" in capsys.readouterr().out


def test_the_documentation_has_each_name_with_its_variable() -> None:
    told = (Path(__file__).parents[3] / "docs" / "configuration.md").read_text()
    missing = [name for name in CACHE if f"| `{name}` | `{environment_name(name)}` |" not in told]
    assert missing == []
