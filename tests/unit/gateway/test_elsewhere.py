"""Commands against a gateway of another machine: which one they ask, and what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.command.elsewhere import checked_url, status_lines, use, used_url
from gateway.command.ends import FAILED, NOT_RUNNING, NOT_THERE, UNUSABLE, exit_status
from gateway.command.served import refusal
from shared.config import Settings
from shared.errors import ConfigError
from shared.private_files import write_private


@pytest.mark.parametrize("text", ["studio.local:8080", "http://", "http://studio/v1", "ftp://studio"])
def test_what_is_no_address_of_a_gateway_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected the address of a gateway"):
        checked_url(text)


def test_a_gateway_is_used_until_another_is(tmp_path: Path) -> None:
    assert used_url(tmp_path) == ""
    write_private(tmp_path / "gateway.json", b'{"url": "http://studio.local:8080/"}')
    assert used_url(tmp_path) == "http://studio.local:8080"
    assert use(Settings(state_dir=tmp_path), "local") == "commands ask what runs on this machine"
    assert used_url(tmp_path) == ""


def test_a_gateway_that_does_not_answer_is_not_used(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no gateway answers") as told:
        use(Settings(state_dir=tmp_path), "http://127.0.0.1:1")
    assert exit_status(told.value) == NOT_RUNNING
    assert used_url(tmp_path) == ""


@pytest.mark.parametrize(
    ("status", "ends"),
    [
        (400, UNUSABLE), (401, UNUSABLE), (403, UNUSABLE), (404, NOT_THERE), (405, UNUSABLE), (429, FAILED),
        (500, FAILED), (503, FAILED), (504, FAILED), (529, FAILED),
    ],
)  # fmt: skip
def test_what_a_gateway_refuses_ends_as_the_table_of_exit_statuses_says(status: int, ends: int) -> None:
    error = refusal("http://studio:8080", status, {"error": {"message": "why"}})
    assert error.message.startswith("http://studio:8080: why")
    assert exit_status(error) == ends


def test_a_file_that_names_no_gateway_is_named(tmp_path: Path) -> None:
    write_private(tmp_path / "gateway.json", b"[]")
    with pytest.raises(ConfigError, match=r"gateway\.json cannot be read"):
        used_url(tmp_path)


def test_the_status_of_a_fleet_is_told_as_lines() -> None:
    answer = {
        "hosts": [{"name": "studio", "models": [{"id": "qwen", "state": "failed", "reason": "no such folder"}]}],
        "workers": [{"name": "studio.echo.1", "model": "echo", "state": "ready", "in_flight": 2}],
        "strangers": [{"kind": "host", "name": "mac2", "reason": "wire version 2"}],
    }
    assert list(status_lines(answer, "http://studio:8080")) == [
        "gateway  http://studio:8080",
        "host     studio",
        "  qwen is failed (no such folder)",
        "worker   studio.echo.1  echo  ready  2 requests",
        "host     mac2  gets no work: wire version 2",
    ]
