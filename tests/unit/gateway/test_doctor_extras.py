"""Which extras the models of a machine need, and whether they are there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.command.checks.extras import check_extras
from gateway.command.checks.finding import Finding
from gateway.command.doctor import examine
from shared.config import load_settings
from shared.extras import EYES
from shared.registry import EngineName, ModelSpec
from worker.engines.mlx.eyes.families import FAMILIES

SEES = {"model_type": "qwen3_vl", "vision_config": {"depth": 2}}


def model(folder: Path, name: str, config: object | None = None, engine: EngineName = "mlx") -> ModelSpec:
    (folder / name).mkdir()
    if config is not None:
        (folder / name / "config.json").write_text(json.dumps(config))
    return ModelSpec(id=name, source=str(folder / name), engine=engine)


def found(*models: ModelSpec, there: tuple[str, ...] = (), programs: tuple[str, ...] = ()) -> dict[str, Finding]:
    told = check_extras(models, has_extra=there.__contains__, has_program=lambda name: name in programs)
    return {each.subject: each for each in told}


def test_a_model_made_to_see_needs_an_extra_and_reads_text_without(tmp_path: Path) -> None:
    seeing, blind = model(tmp_path, "eyes", SEES), model(tmp_path, "blind", {"model_type": "qwen3"})
    (missing,) = found(seeing, blind).values()
    assert (missing.subject, missing.is_fine, missing.is_needed) == ("extra vision", False, False)
    assert "eyes" in missing.text
    assert "blind" not in missing.text
    assert "vision" in missing.text.rpartition("mlx-gateway[")[2], "the line that installs it"
    assert found(seeing, there=("vision",))["extra vision"].is_fine


def test_an_engine_without_its_extra_is_a_fault(tmp_path: Path) -> None:
    heard, said = model(tmp_path, "heard", engine="transcription"), model(tmp_path, "said", engine="speech")
    missing = found(heard, said)["extra voice"]
    assert (missing.is_fine, missing.is_needed) == (False, True)
    assert "heard, said" in missing.text
    assert found(heard, there=("voice",))["extra voice"].is_fine


def test_gguf_files_need_an_extra_unless_a_server_is_there(tmp_path: Path) -> None:
    file = ModelSpec(id="file", source="/models/m.gguf", engine="gguf")
    folder = model(tmp_path, "folder")
    (tmp_path / "folder" / "m.gguf").touch()
    assert "file, folder" in found(file, folder)["extra gguf"].text
    assert found(file, folder, programs=("llama-server",)) == {}


@pytest.mark.parametrize(
    "config",
    [
        None,
        [],
        {},
        {"model_type": "muse_spark", "vision_config": {}},
        {"model_type": [], "vision_config": {"depth": 2}},
    ],
)
def test_no_model_that_needs_none_has_a_line(tmp_path: Path, config: object) -> None:
    elsewhere = ModelSpec(id="far", source="http://127.0.0.1:1", engine="remote")
    assert found(model(tmp_path, "plain", config), elsewhere, ModelSpec(id="gone", source="maker/gone")) == {}


def test_families_that_see_are_those_of_the_engine() -> None:
    assert FAMILIES.keys() == EYES


@pytest.mark.slow
def test_doctor_tells_it_of_the_models_that_settings_files_name(tmp_path: Path) -> None:
    model(tmp_path, "eyes", SEES)
    settings = replace(load_settings({"config_dir": tmp_path}, environ={}), state_dir=tmp_path)
    (tmp_path / "models.json").write_text(json.dumps({"models": [{"source": str(tmp_path / "eyes")}]}))
    tiers = {"haiku": {"model": str(tmp_path / "m"), "backend": "speech"}}
    (tmp_path / "claude_routing.json").write_text(json.dumps({"tiers": tiers}))
    told = {each.subject: each.text for each in examine(settings)}
    assert "eyes" in told["extra vision"]
    assert str(tmp_path / "m") in told["extra voice"]
