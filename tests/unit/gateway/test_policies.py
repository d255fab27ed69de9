"""What a gateway knows of its settings files while a person edits them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gateway.models.settings_files import Policies
from shared.config import load_settings
from shared.registry import Fleet, GatewayRecord, HostRecord

BROKEN = {"not JSON": "{", "not what it should be": '{"defaults": {"temperature": "warm"}}'}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_file_that_cannot_be_used_is_told_once_and_known_for_as_long_as_it_is_so(
    tmp_path: Path, content: str
) -> None:
    path, told = tmp_path / "inference_settings.json", list[str]()
    path.write_text('{"defaults": {"temperature": 0.5}}')
    policies = Policies(replace(load_settings(environ={}), config_dir=tmp_path), tell=told.append)
    assert policies.faults() == ()
    path.write_text(content)
    for _ in range(3):
        (fault,) = policies.faults()
        assert "inference_settings.json" in fault
        assert policies.sampling() == {"": {"temperature": 0.5}}, "the last good content"
    assert told == [fault]
    path.write_text('{"defaults": {"temperature": 0.6}}')
    assert policies.faults() == ()
    assert policies.sampling() == {"": {"temperature": 0.6}}
    path.write_text(content)
    policies.routes()
    policies.sampling()
    assert len(told) == 2, "again, when it is broken again"


def test_faults_of_several_files_are_told_each(tmp_path: Path) -> None:
    policies = Policies(replace(load_settings(environ={}), config_dir=tmp_path))
    for name in ("model_aliases.json", "claude_routing.json", "inference_settings.json"):
        (tmp_path / name).write_text("[")
    assert len(policies.faults()) == 3


def test_a_fleet_says_who_finds_fault_with_which_file() -> None:
    fleet = Fleet(
        hosts=(HostRecord(host="mac", pid=1, faults=("a", "b")),),
        gateways=(GatewayRecord(gateway="gw1", pid=2, faults=("b",)), GatewayRecord(gateway="gw2", pid=3)),
    )
    assert fleet.faults() == {"a": ("mac",), "b": ("mac", "gw1")}
