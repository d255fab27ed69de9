"""Services: what launchd and systemd are given, by their own tools where they are here.

`launchctl` is stood in for by a recorder; that launchd takes the list and starts the agent is proven on a Mac alone.
"""

from __future__ import annotations

import plistlib
import shutil
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.command.cli import main
from gateway.command.service import launchd, systemd
from gateway.command.service.manage import install, keeper_of, restart, status, uninstall
from gateway.command.service.unit import KINDS, Unit
from shared.config import Settings, service_folder
from shared.errors import ConfigError
from shared.redis_server import RedisServer
from shared.service import tell_ready

ODD = {"MLX_GATEWAY_API_KEY": 'a"b\\c $d %e', "REDIS_URL": "redis://u:p@h:1/0"}


def unit_of(tmp_path: Path, kind: str = "stack", program: str = "/usr/bin/true") -> Unit:
    return Unit(
        kind=kind,  # type: ignore[arg-type]
        program=Path(program),
        arguments=("--state", str(tmp_path), "--model", "/models/a b"),
        state_dir=tmp_path,
        stop_s=Settings().drain_s + 20,
        environment=ODD,
    )


class Recorder:
    """Stands in for launchctl and systemctl."""

    def __init__(self, status: int = 0) -> None:
        self.said: list[list[str]] = []
        self.status = status

    def __call__(self, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        self.said.append(list(words))
        return subprocess.CompletedProcess(words, self.status, "state = running", "no such domain")


@pytest.mark.parametrize("kind", KINDS)
def test_the_property_list_is_one_that_launchd_knows(kind: str, tmp_path: Path) -> None:
    plist = plistlib.loads(launchd.render_plist(unit_of(tmp_path, kind)))
    assert list(launchd.faults_of(plist)) == []
    assert plist["ProgramArguments"][0] == "/usr/bin/true"
    assert plist["ProgramArguments"][-1] == "/models/a b"
    assert plist["EnvironmentVariables"] == ODD
    assert plist["KeepAlive"] == {"SuccessfulExit": False}


def test_launchd_waits_longer_than_a_drain_takes(tmp_path: Path) -> None:
    plist = plistlib.loads(launchd.render_plist(unit_of(tmp_path)))
    assert plist["ExitTimeOut"] > Settings().drain_s + 8


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"RunAtLaod": True}, "RunAtLaod is no key"),
        ({"ExitTimeOut": "30"}, "ExitTimeOut is a str"),
        ({"ProgramArguments": ["mlx-gateway"]}, "not absolute"),
        ({"ProcessType": "Foreground"}, "ProcessType"),
        ({"EnvironmentVariables": {"A": 1}}, "no text"),
        ({"Label": ""}, "Label is missing"),
    ],
)
def test_the_table_of_keys_finds_what_launchd_would_not_take(
    change: dict[str, object], fault: str, tmp_path: Path
) -> None:
    plist = {**plistlib.loads(launchd.render_plist(unit_of(tmp_path))), **change}
    assert any(fault in said for said in launchd.faults_of(plist))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="NO UNIT WAS VERIFIED: systemd-analyze is missing")
@pytest.mark.parametrize("is_system", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_systemd_takes_the_unit(kind: str, is_system: bool, tmp_path: Path) -> None:
    unit = unit_of(tmp_path, kind)
    path = tmp_path / systemd.unit_name(unit)
    path.write_text(systemd.render_unit(unit, is_system=is_system, user="root"))
    systemd.environment_path(unit).write_text(systemd.render_environment(unit.environment))
    said = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True, check=False
    )
    assert (said.returncode, said.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="NO UNIT WAS RATED: systemd-analyze is missing")
def test_systemd_finds_the_unit_well_hardened(tmp_path: Path) -> None:
    unit = replace(unit_of(tmp_path, "gateway"), arguments=())
    path = tmp_path / systemd.unit_name(unit)
    path.write_text(systemd.render_unit(unit, is_system=True, user="nobody"))
    words = ["systemd-analyze", "security", "--offline=true", "--threshold=40", "--no-pager", str(path)]
    said = subprocess.run(words, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout + said.stderr


def test_a_service_may_write_its_settings_and_has_a_folder_for_sockets_that_commands_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = replace(unit_of(tmp_path / "a b"), arguments=("--config", "/settings", "--engine", "mlx"))
    text = systemd.render_unit(unit, is_system=False)
    assert f'ReadWritePaths="{tmp_path}/a b" /settings\n' in text
    assert "RuntimeDirectory=mlx-gateway-stack\n" in text
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    with RedisServer() as redis:
        assert redis.folder.parent == tmp_path
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "of another"))  # left over from who started us
    assert service_folder() == ""


def test_systemd_waits_longer_than_a_drain_takes_and_starts_again_after_failures(tmp_path: Path) -> None:
    text = systemd.render_unit(unit_of(tmp_path), is_system=False)
    assert "TimeoutStopSec=28\n" in text
    assert "Restart=on-failure\n" in text
    assert "Type=notify\n" in text
    assert "ExecStart=/usr/bin/true up --state" in text
    assert '"/models/a b"' in text


@pytest.mark.parametrize("platform", ["darwin", "linux"])
def test_a_service_is_installed_shown_and_removed(
    platform: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    unit = unit_of(tmp_path / "state")
    keeper = keeper_of(unit, platform=platform, home=tmp_path / "home")
    recorder = Recorder()
    with pytest.raises(ConfigError, match="no such service"):
        status(keeper, recorder)
    install(unit, keeper, recorder)
    assert recorder.said == [list(words) for words in keeper.install]
    assert all(path.stat().st_mode & 0o077 == 0 for path in keeper.files)
    assert "running" in status(keeper, recorder)
    restart(keeper, recorder)
    assert recorder.said[-1] == list(keeper.restart[-1])
    install(unit, keeper, recorder)  # again: the new files take the place of the old
    assert uninstall(keeper, recorder) == [str(path) for path in keeper.files]
    assert not any(path.exists() for path in keeper.files)
    with pytest.raises(ConfigError, match="no such service"):
        uninstall(keeper, recorder)


def test_what_the_keeper_says_of_a_failure_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    unit = unit_of(tmp_path / "state")
    keeper = keeper_of(unit, platform="darwin", home=tmp_path / "home")
    with pytest.raises(ConfigError, match=r"launchctl bootstrap .*no such domain"):
        install(unit, keeper, Recorder(status=5))


def test_a_machine_without_the_keeper_says_so_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    unit = unit_of(tmp_path / "state")
    keeper = keeper_of(unit, platform="linux", home=tmp_path / "home")
    with pytest.raises(ConfigError, match="systemctl is not here"):
        install(unit, keeper)
    assert not (tmp_path / "home").exists()


def test_files_that_cannot_be_written_are_told_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    unit = unit_of(tmp_path / "state")
    (tmp_path / "home").write_text("no folder")
    with pytest.raises(ConfigError, match=r"mlx-gateway-stack\.service cannot be written"):
        install(unit, keeper_of(unit, platform="linux", home=tmp_path / "home"), Recorder())
    (tmp_path / "file").write_text("no folder")
    unit = unit_of(tmp_path / "file" / "state")
    with pytest.raises(ConfigError, match=r"the folder .* cannot be used"):
        install(unit, keeper_of(unit, platform="linux", home=tmp_path), Recorder())


def test_the_files_can_be_shown_before_anything_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    words = ["service", "install", "host", "--print", "--model", "/models/m", "--state", str(tmp_path / "state")]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "host --state" in said
    assert "/models/m" in said
    assert list(tmp_path.iterdir()) == []


def test_a_process_tells_its_keeper_that_it_is_ready(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        tell_ready(str(path))
        assert listener.recv(100) == b"READY=1"
    tell_ready(str(path))  # a keeper that has gone is no reason to fail
    tell_ready("")
