"""The real Claude Code waits through a prefill of twelve minutes, and asks once.

Its clock runs sixty times as fast (libfaketime), and so do the gateway's signs of life and the echo engine: the twelve
minutes take twelve seconds. Without libfaketime they take twelve minutes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared.config import Settings
from tests.clients.claude_code import ClaudeCode, install_claude_code
from tests.support.recorder import Exchange, Recorder
from tests.support.served import served

pytestmark = [pytest.mark.claude, pytest.mark.slow, pytest.mark.timeout(3600)]

PREFILL_S = 720.0
GIVES_UP_S = 600.0  # after so long without an event that it parses
NEVER_S = 1e6
SETTINGS = Settings()
LIBRARIES = [
    path for place in ("lib/*/faketime", "lib/faketime") for path in Path("/usr").glob(f"{place}/libfaketimeMT*")
]
SPEED = 60.0 if LIBRARIES else 1.0
CLOCK = {"LD_PRELOAD": str(LIBRARIES[0]), "FAKETIME": f"+0 x{SPEED:.0f}"} if LIBRARIES else {}
QUESTION = "Are you still there?"


@contextmanager
def patient(redis_url: str, folder: Path, *, noop_s: float) -> Iterator[tuple[Recorder, ClaudeCode]]:
    """A model "slow" that takes `PREFILL_S` of the client's seconds for its first request."""
    home, work = folder / "home", folder / "work"
    home.mkdir()
    work.mkdir()
    with served(redis_url, folder, keepalive_s=SETTINGS.keepalive_s / SPEED, noop_s=noop_s / SPEED) as gateway:
        with Recorder(f"http://127.0.0.1:{gateway.port}") as recorder:
            claude = ClaudeCode(executable=install_claude_code(), home=home, work=work, url=recorder.url, model="slow")
            with gateway.worker("quick"), recorder.recorded() as exchanges:
                claude.run(QUESTION, "--model", "quick")
            words = exchanges[0].prompt_tokens
            with gateway.worker("slow", prefill_tokens_per_s=words / PREFILL_S * SPEED):
                yield recorder, claude


def waited_s(exchange: Exchange) -> float:
    """On the client's clock."""
    return (exchange.ended_s - exchange.started_s) * SPEED


def names(exchange: Exchange) -> list[str]:
    return [name for name, _ in exchange.events]


def test_twelve_minutes_of_prefill_are_waited_for_without_a_retry(redis_url: str, tmp_path: Path) -> None:
    with patient(redis_url, tmp_path, noop_s=SETTINGS.noop_s) as (recorder, claude), recorder.recorded() as exchanges:
        session = claude.run(QUESTION, timeout_s=2 * PREFILL_S, **CLOCK)

    assert QUESTION in session.result["result"]
    (asked,) = [exchange for exchange in exchanges if exchange.is_message]
    assert waited_s(asked) > 0.95 * PREFILL_S
    silent = names(asked)[: names(asked).index("content_block_start")]
    assert silent[0] == "message_start"
    assert set(silent[1:]) == {"ping", "message_delta"}
    assert silent.count("ping") > PREFILL_S / 10, "at least one every ten seconds"


def test_without_the_events_that_change_nothing_it_gives_up(redis_url: str, tmp_path: Path) -> None:
    """So the test above could fail: the client's clock runs, and pings alone do not keep it."""
    with patient(redis_url, tmp_path, noop_s=NEVER_S) as (recorder, claude), recorder.recorded() as exchanges:
        impatient = {"CLAUDE_CODE_MAX_RETRIES": "0", "CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK": "1"}
        with pytest.raises(pytest.fail.Exception):
            claude.run(QUESTION, timeout_s=4 * PREFILL_S, **CLOCK, **impatient)

    first = next(exchange for exchange in exchanges if exchange.is_message)
    assert first.was_left
    assert 0.9 * GIVES_UP_S < waited_s(first) < 1.5 * GIVES_UP_S  # on its clock a busy machine's second is a minute
    assert set(names(first)[1:]) == {"ping"}
