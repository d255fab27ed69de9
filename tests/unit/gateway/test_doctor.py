"""What `doctor` finds on a machine."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

from gateway.command.doctor import examine, find_models
from shared.config import load_settings


def _model(folder: Path, *, weights: bool = True) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    if weights:
        (folder / "model.safetensors").touch()


def test_models_are_found_under_the_names_that_up_takes(tmp_path: Path) -> None:
    hub, studio = tmp_path / "hub", tmp_path / "studio"
    _model(hub / "models--org--one" / "snapshots" / "abc")
    _model(hub / "models--org--half-downloaded" / "snapshots" / "abc", weights=False)
    _model(studio / "maker" / "two")
    assert find_models((hub,), (studio, tmp_path / "absent")) == ["maker/two", "org/one"]


def test_a_port_that_is_taken_is_a_fault_and_a_missing_model_is_not(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = replace(load_settings({"port": taken.getsockname()[1]}, environ={}), state_dir=tmp_path)
        findings = {finding.subject: finding for finding in examine(settings)}
    assert not findings["port"].is_fine
    assert findings["port"].is_needed
    assert findings["redis"].is_fine
    assert findings["python"].is_fine
    assert not findings["models"].is_needed


def test_a_settings_file_that_cannot_be_used_is_a_fault_and_a_misspelt_one_a_remark(tmp_path: Path) -> None:
    settings = load_settings({"config_dir": tmp_path, "state_dir": tmp_path}, environ={})
    (tmp_path / "model_alias.json").write_text("{}")
    remark = next(finding for finding in examine(settings) if finding.subject == "settings")
    assert (remark.is_fine, remark.is_needed) == (False, False)
    (tmp_path / "inference_settings.json").write_text('{"defaults": {"temprature": 1}}')
    (tmp_path / "model_aliases.json").write_text('{"a": ')
    fault = next(finding for finding in examine(settings) if finding.subject == "settings")
    assert (fault.is_fine, fault.is_needed) == (False, True)
    assert all(word in fault.text for word in ("temprature", "model_aliases.json", "model_alias.json"))
