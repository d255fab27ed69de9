"""What is deployed with docker-compose or by a Procfile is what those programs take, and belongs together.

No container is started here: that images pull and start is proven on a machine with a Docker daemon alone.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from gateway.command.cli import build_parser, main
from shared.config import Settings, environment_name
from tests.support.processes import REPOSITORY

COMPOSE = REPOSITORY / "docker-compose.yml"
SERVICES = yaml.safe_load(COMPOSE.read_text())["services"]
EXAMPLE = dict(re.findall(r"^(\w+)=(.*)$", (REPOSITORY / ".env.example").read_text(), re.MULTILINE))


def test_there_are_the_four_services_and_no_worker() -> None:
    assert set(SERVICES) == {"redis", "gateway", "prometheus", "grafana"}


def test_every_variable_of_the_file_is_in_the_example_and_no_other() -> None:
    asked = set(re.findall(r"\$\{(\w+)", COMPOSE.read_text()))
    assert asked <= set(EXAMPLE)
    assert set(EXAMPLE) - asked == {"REDIS_WORKER_PASSWORD"}, "which hosts need, and no container does"


def test_every_file_that_is_mounted_is_there_or_is_made() -> None:
    mounts = [mount.split(":")[0] for service in SERVICES.values() for mount in service.get("volumes", ())]
    files = [REPOSITORY / mount for mount in mounts if mount.startswith("./")]
    assert len(files) >= 6
    assert [path.name for path in files if not path.exists()] in ([], ["users.acl"])


def test_the_gateway_is_given_settings_that_exist() -> None:
    known = {environment_name(name) for name in Settings.__slots__}
    assert set(SERVICES["gateway"]["environment"]) <= known


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="NO FILE WAS TRIED: docker-compose is missing")
def test_docker_compose_takes_the_file(tmp_path: Path) -> None:
    """Debian's docker-compose is one that knows neither `configs.content` nor the newest keys: they are left out here,
    and the schema of today has them."""
    text = COMPOSE.read_text()
    text = re.sub(r"\nconfigs:\n  key:\n    content: .*\n", "\nconfigs:\n  key:\n    file: ./key\n", text)
    (tmp_path / "docker-compose.yml").write_text(text)
    (tmp_path / ".env").write_text((REPOSITORY / ".env.example").read_text())
    said = subprocess.run(["docker-compose", "config", "-q"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    (tmp_path / ".env").write_text("")
    without = subprocess.run(["docker-compose", "config"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert without.returncode != 0, "a secret that is not set is no empty one"


def test_fresh_secrets_belong_together_and_are_never_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "secrets", str(tmp_path), "--state", str(tmp_path / "state")]) == 0
    made = dict(line.split("=", 1) for line in (tmp_path / ".env").read_text().splitlines())
    users = (tmp_path / "deploy" / "redis" / "users.acl").read_text()
    assert len(set(made.values())) == len(made) == 5
    for user in ("gateway", "worker"):
        digest = hashlib.sha256(made[f"REDIS_{user.upper()}_PASSWORD"].encode()).hexdigest()
        assert f"user {user} on #{digest} " in users
    assert "CHANGE-" not in users
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0
    before = (tmp_path / ".env").read_text()
    assert main(["config", "secrets", str(tmp_path), "--state", str(tmp_path / "state")]) == 1
    assert (tmp_path / ".env").read_text() == before
    assert "nothing was changed" in capsys.readouterr().err


def test_every_line_of_the_procfile_is_a_command_that_we_have() -> None:
    lines = re.findall(r"^(\w+): mlx-gateway (.*)$", (REPOSITORY / "Procfile").read_text(), re.MULTILINE)
    assert [name for name, _ in lines] == ["gateway", "host"]
    for _, words in lines:
        build_parser().parse_args(words.replace("$MODELS", "--model /models/qwen").split())


@pytest.mark.skipif(shutil.which("promtool") is None, reason="NO SCRAPE WAS CHECKED: promtool is missing")
def test_prometheus_takes_the_configuration_of_its_container(tmp_path: Path) -> None:
    folder = REPOSITORY / "deploy" / "prometheus"
    text = (folder / "compose.yml").read_text().replace("/etc/prometheus/", f"{tmp_path}/")
    (tmp_path / "prometheus.yml").write_text(text)
    (tmp_path / "mlx-gateway.key").write_text("key")
    shutil.copy(folder / "rules.yml", tmp_path)
    subprocess.run(["promtool", "check", "config", str(tmp_path / "prometheus.yml")], capture_output=True, check=True)
