"""Keys that are guessed: who does waits for seconds, nobody else does, and little is remembered of it."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.app import create_app
from gateway.keys import brake as rules
from gateway.keys.brake import FIRST_WAIT_S, FORGOTTEN_S, FREE_IN_ALL, FREE_KEYS, MOST_ADDRESSES, MOST_WAIT_S, Brake
from gateway.keys.check import KeyCheck
from gateway.keys.file import KeyFile
from gateway.keys.holder import OWNER
from gateway.keys.making import Wish, add_key
from shared.config import Settings
from shared.errors import AuthenticationError, GuessedKeysError
from tests.support.processes import free_port
from tests.unit.gateway.admin.test_attacks import Got, ask

HOME, AWAY = "192.168.1.7", "203.0.113.9"
OWNERS = "sesame"


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def brake(clock: Clock) -> Brake:
    return Brake(clock)


def guess(brake: Brake, address: str, times: int, begin: str = "") -> None:
    for number in range(times):
        brake.note(address, [f"{begin}{number}"])


def test_who_guesses_waits_longer_each_time_up_to_seconds(brake: Brake, clock: Clock) -> None:
    guess(brake, HOME, FREE_KEYS)
    assert brake.wait_s(HOME) == 0
    waits = [brake.note(HOME, [f"more {number}"]) for number in range(40)]
    assert waits[:4] == [FIRST_WAIT_S, 2 * FIRST_WAIT_S, 4 * FIRST_WAIT_S, MOST_WAIT_S]
    assert set(waits[4:]) == {MOST_WAIT_S}
    assert (brake.wait_s(HOME), brake.wait_s(AWAY)) == (MOST_WAIT_S, 0)
    clock.now_s += MOST_WAIT_S - 1
    assert brake.wait_s(HOME) == 1
    clock.now_s += 1
    assert brake.wait_s(HOME) == 0


def test_the_same_wrong_key_again_and_again_is_no_guess(brake: Brake) -> None:
    guess(brake, HOME, FREE_KEYS)
    for _ in range(1000):
        assert brake.note(HOME, ["0"]) == 0
    assert brake.wait_s(HOME) == 0
    assert brake.note(HOME, ["another"]) > 0


def test_each_key_of_a_request_counts(brake: Brake) -> None:
    assert brake.note(HOME, [str(number) for number in range(FREE_KEYS)]) == 0
    assert brake.note(HOME, ["one", "more"]) == FIRST_WAIT_S


def test_guesses_of_many_addresses_are_one_each_and_others_never_wait(brake: Brake, clock: Clock) -> None:
    for number in range(FREE_IN_ALL):
        assert brake.note(f"198.51.100.{number}", [f"{number}"]) == 0
    assert brake.note(AWAY, ["x"]) == FIRST_WAIT_S
    assert brake.wait_s(HOME) == 0
    clock.now_s += FORGOTTEN_S
    assert brake.note(AWAY, ["y"]) == 0, "all is forgotten"


def test_what_is_quiet_is_forgotten_and_what_goes_on_is_not(brake: Brake, clock: Clock) -> None:
    guess(brake, HOME, FREE_KEYS)
    guess(brake, AWAY, FREE_KEYS)
    clock.now_s += FORGOTTEN_S - 1
    assert brake.note(HOME, ["more"]) > 0
    clock.now_s += 1
    assert brake.note(AWAY, ["more"]) == 0
    assert brake.note(HOME, ["still more"]) > 0


def test_no_more_addresses_are_remembered_than_there_is_room_for(brake: Brake) -> None:
    for number in range(2 * MOST_ADDRESSES):
        brake.note(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", [str(number), "twice"])
    assert len(brake._guessers) == MOST_ADDRESSES
    assert brake._wrong == 2 * MOST_ADDRESSES, "of those that are remembered"
    guess(brake, HOME, 1000)
    assert len(brake._guessers[HOME].digests) == rules._MOST_DIGESTS


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.168.1.7", "192.168.1.7", True),
        ("fe80::1%en0", "fe80::2%en1", True),
        ("192.168.1.7", "192.168.1.8", False),
        ("", "", True),
        ("no address", "no address", True),
    ],
)
def test_an_address_is_the_network_that_somebody_has(brake: Brake, one: str, other: str, is_same: bool) -> None:
    guess(brake, one, FREE_KEYS + 1)
    assert (brake.wait_s(other) > 0) is is_same


def test_who_guesses_waits(tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """With the right key as well, until its seconds are over; a key that was made, and other addresses, never."""
    keys = KeyFile(tmp_path)
    made, _ = add_key(keys, Wish(name="anna"))
    check = KeyCheck(OWNERS, keys, b"secret", Brake(clock))
    for number in range(FREE_KEYS + 1):
        with pytest.raises(AuthenticationError):
            check.holder([f"wrong {number}".encode()], AWAY)
    for key in (OWNERS, "wrong again"):
        for ask_it in (check.holder, check.open_session):
            with pytest.raises(GuessedKeysError, match="looked at in 1 s") as caught:
                ask_it([key.encode()], AWAY)
            assert caught.value.retry_after_s == FIRST_WAIT_S
    with pytest.raises(AuthenticationError):
        check.holder([], AWAY)
    assert check.holder([OWNERS.encode()], HOME) == OWNER
    assert check.holder([OWNERS.encode()]) == OWNER, "who was let in stays so"
    assert check.holder([made.encode()], AWAY).name == "anna"
    session = check.open_session([OWNERS.encode()], HOME)
    assert check.session_holder(session) == OWNER
    clock.now_s += FIRST_WAIT_S
    assert check.holder([OWNERS.encode()], AWAY) == OWNER
    assert caplog.messages == [f"many wrong API keys come from {AWAY}: its next is looked at in 1 s"]


def test_a_key_that_was_revoked_or_is_missing_is_no_guess(tmp_path: Path, clock: Clock) -> None:
    keys = KeyFile(tmp_path)
    made = [add_key(keys, Wish(name=f"key{number}"))[0] for number in range(2 * FREE_KEYS)]
    with keys.changing() as records:
        records[:] = [replace(each, revoked_s=1.0) for each in records]
    check = KeyCheck(OWNERS, keys, b"secret", Brake(clock))
    for key in (*made, *itertools.repeat("", 50)):
        with pytest.raises(AuthenticationError):
            check.holder([key.encode()] if key else [], AWAY)
    assert check.holder([OWNERS.encode()], AWAY) == OWNER


@pytest.mark.parametrize("way", ["x-api-key", "authorization", "session", "session of a key"])
def test_guesses_from_everywhere_are_refused_in_the_clients_shape(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FIRST_WAIT_S", "MOST_WAIT_S"):  # longer than a busy machine takes for this
        monkeypatch.setattr(rules, name, 5000.0)
    app = create_app(Settings(redis_url=f"redis://127.0.0.1:{free_port()}", state_dir=tmp_path, api_key=OWNERS))

    async def guessed(key: str) -> Got:
        if way == "session":
            return await ask(app, "POST", "/api/session", {"key": key})
        headers = {"authorization": f"Bearer {key}"} if way == "authorization" else {"x_api_key": key}
        return await ask(app, "GET", "/api/session" if way == "session of a key" else "/v1/models", **headers)

    async def main() -> None:
        got = [await guessed(f"wrong {number}") for number in range(FREE_KEYS + 2)]
        first = 200 if way == "session of a key" else 401
        assert [each.status for each in got] == [first] * (FREE_KEYS + 1) + [429]
        last = await guessed(OWNERS)
        assert last.status == 429
        assert 0 < int(last.headers["retry-after"]) <= 5000
        assert b"many wrong API keys" in last.body
        assert (await ask(app, "GET", "/health")).status == 200
        await app.console.aclose()

    asyncio.run(main())
