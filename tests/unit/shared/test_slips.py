"""What was set and nobody reads is told, with what was meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shared.config import load_settings
from shared.slips import find_slips

TIERS = ("haiku", "sonnet", "opus")


def slips(folder: Path, files: dict[str, object], environ: dict[str, str] | None = None) -> list[str]:
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return list(find_slips(load_settings({"config_dir": folder}, environ={}), TIERS, environ or {}))


@pytest.mark.parametrize(
    ("environ", "meant"),
    [
        ({"MLX_GATEWAY_CAPACTIY": "4"}, "MLX_GATEWAY_CAPACITY"),
        ({"MLX_GATEWAY_MAX_QEUE": "4"}, "MLX_GATEWAY_MAX_QUEUE"),
        ({"MLX_CACHE_MAX_SLOT": "4"}, "MLX_CACHE_MAX_SLOTS"),
        ({"MLX_GATEWAY_CACHE_MAX_SLOTS": "4"}, "MLX_CACHE_MAX_SLOTS"),
    ],
)
def test_a_misspelt_variable_is_told_with_the_one_that_was_meant(
    tmp_path: Path, environ: dict[str, str], meant: str
) -> None:
    (line,) = slips(tmp_path, {}, environ)
    assert next(iter(environ)) in line
    assert line.endswith(f"did you mean {meant}?")


def test_variables_that_are_read_and_those_of_others_are_not_told(tmp_path: Path) -> None:
    environ = {"MLX_GATEWAY_CAPACITY": "4", "MLX_CACHE_MAX_SLOTS": "2", "REDIS_URL": "redis://", "MLX_METAL": "1"}
    assert slips(tmp_path, {}, environ) == []


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"model_alias.json": {}}, "did you mean model_aliases.json?"),
        ({"claude-routing.json": {}}, "did you mean claude_routing.json?"),
        ({"claude_routing.json": {"tiers": {"hiaku": "m"}}}, "did you mean haiku?"),
        ({"claude_routing.json": {"tier": {"haiku": "m"}}}, "did you mean tiers?"),
        ({"claude_routing.json": {"tiers": {"opus": {"model": "m", "draftmodel": "d"}}}}, "did you mean draft_model?"),
        ({"models.json": {"models": [{"source": "m", "lod": "on-demand"}]}}, "did you mean load?"),
        ({"models.json": {"models": [{"source": "m", "option": {}}]}}, "did you mean options?"),
        ({"models.json": {"models": ["m"], "default": "m"}}, "nothing reads 'default'"),
        (
            {
                "claude_routing.json": {"tiers": {"opus": {"model": "m", "profile": "carefull"}}},
                "inference_settings.json": {"profiles": {"careful": {}}},
            },
            "did you mean careful?",
        ),
        ({"claude_routing.json": {"tiers": {"opus": {"model": "m", "profile": "p"}}}}, "has no profile 'p'"),
        ({"gguf_config.json": {"slot": 4}}, "did you mean slots?"),
        ({"gguf_config.json": {"models": {"m.gguf": {"slot": 4}}}}, "model 'm.gguf': nothing reads 'slot'"),
    ],
)
def test_a_misspelt_file_key_or_tier_is_told(tmp_path: Path, files: dict[str, object], told: str) -> None:
    (line,) = slips(tmp_path, files)
    assert told in line


def test_settings_that_are_right_have_no_slips(tmp_path: Path) -> None:
    files = {
        "models.json": {
            "keep_alive": "5m",
            "models": [
                "m",
                {"id": "n", "source": "s", "engine": "mlx", "load": "start", "options": {}},
                {"source": "p", "keep_alive": 0, "pinned": True},
            ],
        },
        "claude_routing.json": {"tiers": {"Haiku": "m", "opus": {"model": "m", "backend": "", "draft_model": "d"}}},
        "model_aliases.json": {"a": "m"},
        "inference_settings.json": {"defaults": {}},
    }
    assert slips(tmp_path, files) == []


def test_a_file_that_does_not_parse_is_left_to_those_who_read_it(tmp_path: Path) -> None:
    (tmp_path / "models.json").write_text("{")
    assert slips(tmp_path, {}) == []


def test_what_the_gguf_engine_reads_is_no_slip(tmp_path: Path) -> None:
    good = {"slots": 4, "models": {"m.gguf": {"slots": 2, "draft": "d.gguf"}}}
    assert slips(tmp_path, {"gguf_config.json": good}) == []
