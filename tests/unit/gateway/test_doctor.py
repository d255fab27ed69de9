"""What `doctor` finds on a machine."""

from __future__ import annotations

import itertools
import socket
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from gateway.command.checks.port import check_port
from gateway.command.doctor import examine, find_models
from gateway.command.stack import listen
from shared.config import Settings, load_settings
from shared.fingerprints import ID_HEADER
from shared.membership import GATEWAY, Membership, write_membership


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


MEMBER = Membership(
    address="studio.local", port=8462, host="mini", generation=1, key="00", anyone="00", deployment="d", database=0,
    user="u", password="p", certificate="", private_key="", door_ca="", hosts_ca="",
)  # fmt: skip


def ports(settings: Settings, membership: Membership | None = None) -> tuple[bool, bool, str]:
    found = check_port(settings, membership, listen)
    return found.is_fine, found.is_needed, found.text


def test_a_host_needs_no_port_and_a_gateway_that_joined_does(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = replace(load_settings({"port": taken.getsockname()[1]}, environ={}), state_dir=tmp_path)
        is_fine, _, text = ports(settings, MEMBER)
        assert is_fine
        assert "studio.local" in text
        assert ports(settings, replace(MEMBER, role=GATEWAY))[:2] == (False, True)
        assert ports(replace(settings, redis_url="redis://other"))[:2] == (False, False), "it may be a host"


def test_a_gateway_of_ours_at_the_port_is_no_fault(tmp_path: Path) -> None:
    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header(ID_HEADER, "gw")
            self.end_headers()

    server = HTTPServer(("127.0.0.1", 0), Health)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        settings = replace(load_settings({"port": server.server_port}, environ={}), state_dir=tmp_path)
        assert ports(settings)[0]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_mac_that_joined_as_a_host_has_no_fault_for_want_of_a_redis_or_a_port(tmp_path: Path) -> None:
    write_membership(tmp_path, replace(MEMBER, address="127.0.0.1", port=1))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = replace(load_settings({"port": taken.getsockname()[1]}, environ={}), state_dir=tmp_path)
        found = itertools.takewhile(lambda finding: finding.subject != "mlx", examine(settings))
        findings = {finding.subject: finding for finding in found}
    assert findings["port"].is_fine
    assert findings["redis"].is_fine
    assert not findings["fleet"].is_fine
    assert "join again" in findings["fleet"].text, "its certificate is empty, as after a disk that was full"


@pytest.mark.slow
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
