"""Keys of several people: kept as digests, locked out at once, counted exactly by all gateways together."""

from __future__ import annotations

import argparse
import asyncio
import os
import stat
import time
from collections.abc import Awaitable, Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
import redis.asyncio

from gateway.admin.bodies import parse_key
from gateway.command.keys import add_arguments, run_key, wish_of
from gateway.keys.file import KeyFile
from gateway.keys.headers import rate_headers
from gateway.keys.holder import OWNER, Holder, Quota
from gateway.keys.making import new_key
from gateway.keys.quota import Allowance, Quotas
from gateway.keys.record import KeyRecord, decode_record, digest_of, encode_record
from gateway.keys.usage import UsageBook, computed_tokens, read_usage
from shared.config import KEYS_FILE, load_settings
from shared.errors import (
    BrokerUnavailableError,
    ConfigError,
    InvalidRequestError,
    PermissionDeniedError,
    QuotaSpentError,
    RateLimitedError,
)
from shared.events import Usage
from shared.keys import Names
from shared.request import GenerateRequest

NAMES = Names("keystest")
NOW_S = 1_800_000_000.0


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


# --- what a holder may ------------------------------------------------------------------------------------------------


def test_a_role_may_what_it_is_for() -> None:
    user, viewer = Holder(name="u", role="user"), Holder(name="v", role="viewer")
    for work in ("generate", "count", "models", "health"):
        user.check_work(work)
    for work in ("status", "metrics", "models", "ready"):
        viewer.check_work(work)
    for holder, work in ((user, "status"), (user, "metrics"), (viewer, "generate"), (viewer, "count")):
        with pytest.raises(PermissionDeniedError, match=f"role {holder.role}"):
            holder.check_work(work)
    OWNER.check_work("anything")


def test_models_are_named_by_patterns() -> None:
    holder = Holder(name="u", models=("qwen*", "llama-8b"))
    holder.check_model("qwen3-coder")
    holder.check_model("llama-8b")
    with pytest.raises(PermissionDeniedError, match="may not use 'llama-70b'"):
        holder.check_model("llama-70b")


@pytest.mark.parametrize(
    ("asked", "ceiling", "given"),
    [("interactive", "batch", "batch"), ("batch", "subagent", "batch"), ("interactive", "interactive", "interactive")],
)
def test_no_request_has_a_better_class_than_its_key(asked: str, ceiling: str, given: str) -> None:
    request = GenerateRequest(id="r", model="m", messages=(), priority=asked)  # type: ignore[arg-type]
    owned = Holder(name="u", tenant="home", ceiling=ceiling).own(request)  # type: ignore[arg-type]
    assert (owned.priority, owned.tenant) == (given, "home")
    assert OWNER.own(request) is request


# --- the file ---------------------------------------------------------------------------------------------------------


def test_a_key_is_found_by_its_digest_and_never_written(tmp_path: Path) -> None:
    key, record = new_key(wish_of(options("create", "anna", "--models", "a*, b", "--tokens-per-day", "9")), now_s=NOW_S)
    file = KeyFile(tmp_path)
    assert not file.has_keys
    with file.changing() as records:
        records.append(record)
    assert file.find(digest_of(key.encode())) == record
    assert file.find(digest_of(b"mlxgw-other")) is None
    written = (tmp_path / KEYS_FILE).read_text()
    assert key not in written
    assert stat.S_IMODE(os.stat(tmp_path / KEYS_FILE).st_mode) == 0o600
    assert decode_record(encode_record(record)) == record
    assert record.holder == Holder(
        name="anna", role="user", tenant="anna", models=("a*", "b"), quota=Quota(tokens_per_day=9)
    )


@pytest.mark.parametrize("name", [each.name for each in fields(Quota)])
def test_a_quota_goes_as_far_as_it_is_counted_exactly(name: str) -> None:
    """Redis's scripts count in doubles: a request more than 2^53 would be none."""
    option, most = f"--{name.replace('_', '-')}", 1 << 53
    _, record = new_key(wish_of(options("create", "anna", option, str(most))), now_s=NOW_S)
    assert getattr(record.quota, name) == most
    with pytest.raises(ConfigError, match=f"{option} must not be above {most}"):
        new_key(wish_of(options("create", "anna", option, str(most + 1))), now_s=NOW_S)
    assert getattr(parse_key({"name": "anna", name: most}).quota, name) == most
    for above in (most + 1, 1 << 60, 1 << 63):
        with pytest.raises(InvalidRequestError, match=f"`{name}` is at most {most}"):
            parse_key({"name": "anna", name: above})


def test_a_key_is_valid_until_it_expires_or_is_revoked() -> None:
    _, record = new_key(wish_of(options("create", "anna", "--expires", "2h")), now_s=NOW_S)
    assert record.state(NOW_S + 7199) == "valid"
    assert record.state(NOW_S + 7201) == "expired"
    assert replace(record, revoked_s=NOW_S).state(NOW_S) == "revoked"


def test_a_file_that_is_damaged_or_gone_changes_nothing_for_who_runs_and_stops_who_starts(tmp_path: Path) -> None:
    _, record = new_key(wish_of(options("create", "anna")), now_s=NOW_S)
    file = KeyFile(tmp_path)
    with file.changing() as records:
        records.append(record)
    assert file.has_keys
    for damage in ('{"keys": [{"name": 5}]}', "{", '{"keys": [{"name": "x", "digest": "", "role": "king"}]}'):
        (tmp_path / KEYS_FILE).write_text(damage)
        assert file.has_keys
        assert KEYS_FILE in file.fault
        with pytest.raises(ConfigError, match=KEYS_FILE):
            KeyFile(tmp_path)
    (tmp_path / KEYS_FILE).unlink()
    assert file.has_keys, "the gateway does not open because a file is gone"
    assert "gone" in file.fault


def test_a_file_without_keys_opens_nothing_neither_for_who_runs_nor_for_who_starts(tmp_path: Path) -> None:
    running = KeyFile(tmp_path)
    assert not running.has_keys
    (tmp_path / KEYS_FILE).write_text('{"keys": []}')
    assert running.has_keys
    assert KeyFile(tmp_path).has_keys
    (tmp_path / KEYS_FILE).unlink()
    assert running.has_keys


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("expires_s", "tomorrow"),
        ("revoked_s", "yes"),
        ("created_s", None),
        ("models", "qwen*"),
        ("models", [5]),
        ("quota", {"tokens_per_day": -1}),
        ("quota", {"tokens_per_year": 1}),
        ("name", ""),
        ("name", "an na\n"),
        ("name", 5),
        ("tenant", "../owner"),
        ("tenant", ["home"]),
        ("digest", 5),
    ],
)
def test_a_key_that_a_slip_of_the_pen_changed_is_told_by_its_field(field: str, value: object) -> None:
    _, record = new_key(wish_of(options("create", "anna")), now_s=NOW_S)
    assert decode_record(encode_record(record)) == record
    with pytest.raises(ConfigError, match=field if field != "quota" else "quota|tokens_per_year"):
        decode_record({**encode_record(record), field: value})


def test_who_changes_the_file_waits_for_the_other(tmp_path: Path) -> None:
    for number in range(20):
        _, record = new_key(wish_of(options("create", f"key{number}")), now_s=NOW_S)
        with KeyFile(tmp_path).changing() as records:
            records.append(record)
    assert [record.name for record in KeyFile(tmp_path).records()] == [f"key{number}" for number in range(20)]


# --- quotas -----------------------------------------------------------------------------------------------------------


def with_quotas(url: str, work: Callable[[Quotas, Quotas, redis.asyncio.Redis], Awaitable[None]]) -> None:
    """Those of two gateways."""

    async def run() -> None:
        async with redis.asyncio.Redis.from_url(url) as one, redis.asyncio.Redis.from_url(url) as other:
            await one.delete(*(NAMES.quota(name) for name in ("a", "b")))
            await work(Quotas(one, NAMES), Quotas(other, NAMES), one)

    asyncio.run(run())


async def used_up(quotas: Quotas, holder: Holder, request_id: str, *, tokens: int = 10, used: int = 10) -> bool:
    try:
        async with quotas.admitted(holder, request_id, tokens=tokens, used=lambda: used):
            await asyncio.sleep(0)
    except (RateLimitedError, QuotaSpentError):
        return False
    return True


def test_requests_are_counted_exactly_by_two_gateways_at_once(redis_url: str) -> None:
    async def work(one: Quotas, other: Quotas, _: redis.asyncio.Redis) -> None:
        a = Holder(name="a", quota=Quota(requests_per_minute=25))
        b = Holder(name="b", quota=Quota(requests_per_minute=10))
        asked = [used_up((one, other)[number % 2], (a, b)[number % 3 == 0], f"r{number}") for number in range(120)]
        began = time.time() // 60
        taken = await asyncio.gather(*asked)
        minutes = 1 + time.time() // 60 - began  # whose quotas they had
        for is_b, limit in ((False, 25), (True, 10)):
            let_in = sum(taken for number, taken in enumerate(taken) if (number % 3 == 0) is is_b)
            assert limit <= let_in <= limit * minutes

    with_quotas(redis_url, work)


def test_who_is_asked_instead_takes_no_second_place_and_is_held_to_the_tokens(redis_url: str) -> None:
    async def work(one: Quotas, other: Quotas, broker: redis.asyncio.Redis) -> None:
        holder = Holder(name="a", quota=Quota(requests_per_minute=1, tokens_per_day=100))
        for request_id, used in (("r", 0), ("rf1", 60), ("rf2", 60)):
            asked = one.admitted(holder, request_id, tokens=9, used=lambda used=used: used, is_again=request_id != "r")
            async with asked as allowance:
                assert allowance is not None
        assert int(await broker.hget(NAMES.quota("a"), "day_tokens") or 0) == 120
        assert allowance.requests <= 1
        with pytest.raises(QuotaSpentError):
            async with other.admitted(holder, "rf3", tokens=9, used=lambda: 0, is_again=True):
                pass

    with_quotas(redis_url, work)


def test_tokens_pass_a_limit_by_one_request_at_most(redis_url: str) -> None:
    async def work(one: Quotas, other: Quotas, broker: redis.asyncio.Redis) -> None:
        holder = Holder(name="a", quota=Quota(tokens_per_day=1000))

        async def client(quotas: Quotas, name: str) -> None:
            for number in range(40):
                await used_up(quotas, holder, f"{name}{number}", tokens=200, used=90)

        await asyncio.gather(*(client((one, other)[n % 2], f"c{n}-") for n in range(8)))
        assert 1000 <= int(await broker.hget(NAMES.quota("a"), "day_tokens") or 0) < 1000 + 90
        with pytest.raises(QuotaSpentError, match="tokens a day") as caught:
            async with one.admitted(holder, "late", tokens=1, used=lambda: 1):
                pass
        assert 0 < (caught.value.retry_after_s or 0) <= 86400

    with_quotas(redis_url, work)


def test_what_running_requests_may_need_is_nobody_elses_until_they_end(redis_url: str) -> None:
    async def work(one: Quotas, other: Quotas, _: redis.asyncio.Redis) -> None:
        holder = Holder(name="a", quota=Quota(tokens_per_minute=100, tokens_per_day=10_000))
        async with one.admitted(holder, "long", tokens=5000, used=lambda: 0):
            with pytest.raises(RateLimitedError, match="running requests") as caught:
                async with other.admitted(holder, "short", tokens=1, used=lambda: 1):
                    pass
            assert caught.value.retry_after_s == 2.0
        assert await used_up(other, holder, "short")

    with_quotas(redis_url, work)


def test_a_failed_request_gives_back_what_it_held(redis_url: str) -> None:
    async def work(one: Quotas, _: Quotas, broker: redis.asyncio.Redis) -> None:
        holder = Holder(name="a", quota=Quota(tokens_per_minute=100))
        with pytest.raises(KeyError):
            async with one.admitted(holder, "r", tokens=5000, used=lambda: 3):
                raise KeyError("a bug")
        kept = await broker.hgetall(NAMES.quota("a"))
        assert not any(name.startswith(b"h:") for name in kept)
        assert int(kept[b"tokens"]) == 3

    with_quotas(redis_url, work)


def test_a_key_of_the_wrong_type_is_made_anew_and_no_redis_is_said(redis_url: str) -> None:
    async def work(one: Quotas, _: Quotas, broker: redis.asyncio.Redis) -> None:
        holder = Holder(name="a", quota=Quota(requests_per_minute=5))
        await broker.set(NAMES.quota("a"), "scribbled")
        assert await used_up(one, holder, "r")
        away = Quotas(redis.asyncio.Redis(port=1), NAMES)
        with pytest.raises(BrokerUnavailableError):
            async with away.admitted(holder, "r", tokens=1, used=lambda: 1):
                pass
        async with away.admitted(OWNER, "r", tokens=1, used=lambda: 1) as allowance:
            assert allowance is None

    with_quotas(redis_url, work)


def test_both_vendors_clients_find_what_is_left() -> None:
    allowance = Allowance(quota=Quota(requests_per_minute=5), requests=2, tokens=7, resets_s=30.0)
    headers = rate_headers(allowance, 0.0)
    assert headers["x-ratelimit-remaining-requests"] == headers["anthropic-ratelimit-requests-remaining"] == "3"
    assert headers["x-ratelimit-reset-requests"] == "30s"
    assert headers["anthropic-ratelimit-requests-reset"] == "1970-01-01T00:00:30Z"
    assert not any("tokens" in name for name in headers)


# --- usage ------------------------------------------------------------------------------------------------------------


def test_usage_of_two_gateways_is_added_up_by_day_key_and_model(tmp_path: Path) -> None:
    async def run() -> None:
        books = [UsageBook(tmp_path) for _ in range(2)]
        for number in range(20):
            usage = Usage(input_tokens=10, cached_tokens=4, output_tokens=2)
            books[number % 2].note("anna" if number % 4 else "", "m", usage)
        await asyncio.gather(*(book.flush() for book in books))
        await books[0].flush()

    asyncio.run(run())
    found = {used.key: used for used in read_usage(tmp_path)}
    assert (found["anna"].requests, found["anna"].input_tokens, found["anna"].output_tokens) == (15, 150, 30)
    assert found[""].requests == 5
    assert computed_tokens(Usage(input_tokens=10, cached_tokens=4, output_tokens=2)) == 8


def test_what_cannot_be_written_is_kept_until_it_can(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "state"
    book = UsageBook(folder)
    book.note("anna", "m", Usage(input_tokens=1, output_tokens=1))
    asyncio.run(book.flush())
    assert "usage cannot be written" in caplog.text
    folder.mkdir()
    book.note("anna", "m", Usage(input_tokens=1, output_tokens=1))
    asyncio.run(book.flush())
    assert [used.requests for used in read_usage(folder)] == [2]


# --- the command ------------------------------------------------------------------------------------------------------


def test_nothing_demands_keys_where_none_was_made_and_the_first_one_says_that_it_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = load_settings({"state_dir": tmp_path / "state"}, environ={})
    with pytest.raises(ConfigError, match="there is no key 'anna'"):
        run_key(settings, options("revoke", "anna"))
    assert not KeyFile(settings.state_dir).has_keys
    run_key(settings, options("create", "anna"))
    assert "MLX_GATEWAY_API_KEY is not set" in capsys.readouterr().err
    run_key(settings, options("create", "ben"))
    assert "MLX_GATEWAY_API_KEY" not in capsys.readouterr().err, "which was told with the first"
    assert KeyFile(settings.state_dir).has_keys
    assert stat.S_IMODE(settings.state_dir.stat().st_mode) == 0o700


def test_keys_are_made_shown_and_revoked_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = load_settings({"state_dir": tmp_path}, environ={})
    assert run_key(settings, options("create", "anna", "--requests-per-minute", "5")) == 0
    key = capsys.readouterr().out.strip()
    with pytest.raises(ConfigError, match="already"):
        run_key(settings, options("create", "anna"))
    run_key(settings, options("list"))
    shown = capsys.readouterr().out
    assert "anna" in shown
    assert "5 requests/minute" in shown
    assert key not in shown
    run_key(settings, options("revoke", "anna"))
    record = KeyFile(tmp_path).find(digest_of(key.encode()))
    assert record is not None
    assert record.state(NOW_S) == "revoked"
    with pytest.raises(ConfigError, match="'anna' is revoked already"):
        run_key(settings, options("revoke", "anna"))
    with pytest.raises(ConfigError, match="no key 'ben'"):
        run_key(settings, options("revoke", "ben"))
    run_key(settings, options("create", "anna"))
    run_key(settings, options("usage", "--csv"))
    assert "day,key,model,requests" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ("create", "an na"),
        ("create", ""),
        ("create", "anna", "--expires", "soon"),
        ("create", "anna", "--expires", "never"),
        ("create", "anna", "--expires", ""),
        ("create", "anna", "--models", ""),
        ("create", "anna", "--models", " , "),
        ("create", "anna", "--tokens-per-day", "-1"),
        ("create", "anna", "--tenant", "../x"),
    ],
)
def test_what_makes_no_key_is_said(words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError):
        new_key(wish_of(options(*words)), now_s=NOW_S)


def test_a_gateway_with_keys_may_listen_to_the_network(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="key create"):
        load_settings({"state_dir": tmp_path, "host": "0.0.0.0"}, environ={})
    with KeyFile(tmp_path).changing() as records:
        records.append(KeyRecord(name="a", digest="d", shown="s", created_s=NOW_S))
    assert load_settings({"state_dir": tmp_path, "host": "0.0.0.0"}, environ={}).host == "0.0.0.0"
