"""The day that a prompt tells: a conversation's own, a head's while it is used, and the same in every worker."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from shared import keys
from shared.acl import host_rules
from shared.messages import Message
from shared.redis_server import RedisServer
from shared.registry import ModelSpec
from shared.request import GenerateRequest, ToolDefinition
from tests.models.templates import said, text, tokenizer_for
from tests.support.names import NAMES
from tests.support.worker import worker_settings
from worker import __main__ as process
from worker.engines.base import Dated, EngineInfo
from worker.engines.stepped import SteppedEngine
from worker.engines.streamed import StreamedEngine
from worker.prompt import PromptBuilder
from worker.prompt.builder import _beginning
from worker.prompt.days import Days
from worker.serving.reports import Loaded
from worker.serving.shared_days import RedisDays
from worker.status import StatusPipe

_TELLS = (
    "{{ strftime_now('%d %b %Y') }}{%- for m in messages -%}{{ '<|' + m.role + '|>' + m.content }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"
)
_TOKENIZER = tokenizer_for(_TELLS)
_NOWHERE = "redis://127.0.0.1:1"
_HEAD = b"head"


class Clock:
    def __init__(self, days: float = 0.0) -> None:
        self.day = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
        self.seconds = 0.0
        self.pass_days(days)

    def pass_days(self, days: float) -> None:
        self.day += datetime.timedelta(days=days)
        self.seconds += days * 86400

    def days(self, shared: RedisDays | None = None) -> Days:
        days = Days(lambda: self.day, lambda: self.seconds)
        if shared is not None:
            days.share(shared)
        return days


@pytest.fixture
def shared(redis_client: redis.Redis) -> RedisDays:
    return RedisDays(redis_client, NAMES)


def builder_at(clock: Clock, shared: RedisDays | None = None) -> PromptBuilder:
    """Of a process that starts then."""
    builder = PromptBuilder(_TOKENIZER, context_tokens=1 << 20)
    builder._days = clock.days()
    if shared is not None:
        builder.share_days(shared)
    return builder


def shown(builder: PromptBuilder, *messages: Message, tools: tuple[ToolDefinition, ...] = ()) -> str:
    request = GenerateRequest(id="r", model="m", messages=messages, tools=tools)
    return str(_TOKENIZER.decode(builder.build(request).tokens))


def begun(words: str = "a") -> list[Message]:
    return [said("user", text(words))]


def grown(words: str = "a") -> list[Message]:
    return [*begun(words), said("assistant", text("b")), said("user", text("c"))]


def forget_heads(client: redis.Redis) -> None:
    """As after twelve hours without use: what is kept for longer are conversations."""
    for key in client.scan_iter(NAMES.day("*")):
        if client.ttl(key) <= keys.HEAD_DAY_TTL_S:
            client.delete(key)


# --- one process -------------------------------------------------------------------------------------------------


def test_a_conversation_keeps_its_day_and_an_idle_head_begins_a_new_one() -> None:
    clock = Clock()
    days = clock.days()
    of: Callable[[bytes], datetime.datetime] = lambda beginning: days.of(_HEAD, beginning, goes_on=True)  # noqa: E731
    first = of(b"one")
    clock.pass_days(0.4)
    assert of(b"one") == of(b"two") == first  # the head is in use
    clock.pass_days(0.4)
    assert of(b"three") == first
    clock.pass_days(0.6)
    later = of(b"four")
    assert later == clock.day
    assert of(b"one") == first  # kept, and goes on with its own
    assert of(b"five") == later
    assert days.of(b"other", b"one", goes_on=True) == clock.day


def test_a_template_is_told_the_day_of_its_conversation() -> None:
    clock = Clock()
    builder = builder_at(clock)
    assert shown(builder, *begun()).startswith("01 Jan 2026")
    clock.pass_days(1)
    assert shown(builder, *begun("other")).startswith("02 Jan 2026")
    assert shown(builder, *grown()).startswith("01 Jan 2026")
    assert shown(builder, *grown(), said("assistant", text("d")), said("user", text("e"))).startswith("01 Jan 2026")


def test_conversations_are_told_apart_in_every_process_alike() -> None:
    """Python's own hash is another in each process."""
    assert _beginning(begun()) == _beginning(grown()) != _beginning(begun("other"))
    assert _beginning(begun()).hex().startswith("676c15ef1026")


# --- several -----------------------------------------------------------------------------------------------------


def test_a_worker_that_starts_after_midnight_goes_on_with_the_prompt_that_an_answer_began_with(
    shared: RedisDays,
) -> None:
    """Also of the first answer of a conversation, and whichever of them counts its tokens."""
    before = shown(builder_at(Clock(), shared), *begun())
    after = builder_at(Clock(days=0.1), shared)
    midnight = builder_at(Clock(days=1), shared)
    assert shown(after, *begun()) == shown(midnight, *begun()) == before
    assert before.startswith("01 Jan 2026")
    assert shown(midnight, *grown()).startswith(before)
    request = GenerateRequest(id="r", model="m", messages=tuple(begun()))
    assert midnight.count_tokens(request) == builder_at(Clock(), shared).count_tokens(request)


def test_a_conversation_that_went_on_keeps_its_day_when_its_head_has_a_new_one(
    shared: RedisDays, redis_client: redis.Redis
) -> None:
    first = builder_at(Clock(), shared)
    shown(first, *begun())
    old = shown(first, *grown())  # within the hour: told all the same
    forget_heads(redis_client)
    builder = builder_at(Clock(days=1), shared)
    assert shown(builder, *begun("other")).startswith("02 Jan 2026")
    assert shown(builder, *grown()) == old
    assert shown(builder_at(Clock(days=1), shared), *begun("third")).startswith("02 Jan 2026")


def test_what_a_worker_told_before_redis_was_emptied_stands(shared: RedisDays, redis_client: redis.Redis) -> None:
    clock = Clock()
    first = builder_at(clock, shared)
    old = shown(first, *grown())
    redis_client.flushall()
    assert shown(builder_at(Clock(days=1), shared), *begun("other")).startswith("02 Jan 2026")
    clock.pass_days(1)
    assert shown(first, *grown()) == old
    assert shown(builder_at(Clock(days=1), shared), *grown()) == old


def test_heads_are_told_apart_by_tools_and_days_are_kept_for_a_time(
    shared: RedisDays, redis_client: redis.Redis
) -> None:
    tools = (ToolDefinition(name="T", parameters={"type": "object"}),)
    shown(builder_at(Clock(), shared), *grown())
    assert "02 Jan 2026" in shown(builder_at(Clock(days=1), shared), *grown(), tools=tools)
    kept_s = sorted(redis_client.ttl(key) for key in redis_client.scan_iter())
    assert [round(s / 3600) for s in kept_s] == [12, 12, 7 * 24, 7 * 24]


def test_a_row_of_single_questions_leaves_one_key(shared: RedisDays, redis_client: redis.Redis) -> None:
    builder = builder_at(Clock(), shared)
    for number in range(3):
        shown(builder, *begun(str(number)))
    assert redis_client.dbsize() == 1


def test_nobody_is_asked_again_within_the_hour(shared: RedisDays, redis_client: redis.Redis) -> None:
    clock = Clock()
    days = clock.days(shared)
    day = days.of(_HEAD, b"one", goes_on=True)
    redis_client.flushall()
    assert days.of(_HEAD, b"one", goes_on=True) == day
    assert redis_client.dbsize() == 0
    clock.pass_days(0.1)
    assert days.of(_HEAD, b"one", goes_on=True) == day
    assert redis_client.dbsize() == 2


def test_a_template_that_tells_no_date_asks_nobody(shared: RedisDays, redis_client: redis.Redis) -> None:
    tokenizer = tokenizer_for(_TELLS.replace("{{ strftime_now('%d %b %Y') }}", ""))
    builder = PromptBuilder(tokenizer, context_tokens=1 << 20)
    builder.share_days(shared)
    builder.build(GenerateRequest(id="r", model="m", messages=tuple(grown())))
    assert redis_client.dbsize() == 0


# --- where Redis does not help -----------------------------------------------------------------------------------


def test_without_redis_a_worker_keeps_its_own_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    with redis.Redis.from_url(_NOWHERE) as client:
        clock = Clock()
        builder = builder_at(clock, RedisDays(client, NAMES))
        old = shown(builder, *grown())
        clock.pass_days(1)
        assert shown(builder, *grown()) == old
    assert caplog.text.count("this worker's own") == 1


@pytest.mark.parametrize("told", [b"tomorrow", b"\xff", b"2026-01-01T00:00:00", b"", None])
def test_what_is_no_day_is_removed_and_does_no_harm(
    told: bytes | None, shared: RedisDays, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    old = shown(builder_at(Clock(), shared), *grown())
    for key in list(redis_client.scan_iter()):
        redis_client.delete(key)
        if told is None:
            redis_client.lpush(key, "x")
        else:
            redis_client.set(key, told)
    assert shown(builder_at(Clock(), shared), *grown()) == old
    assert "which nobody of ours wrote" in caplog.text
    assert shown(builder_at(Clock(), shared), *grown()) == old
    assert shown(builder_at(Clock(days=1), shared), *grown()) == old


def test_a_host_that_joined_may_ask(redis_server: RedisServer, redis_client: redis.Redis) -> None:
    can_only_read = int(str(redis_client.info()["redis_version"]).partition(".")[0]) >= 7
    rules = host_rules(NAMES, "mac2", can_only_read=can_only_read)
    redis_client.execute_command("ACL", "SETUSER", "host:mac2", "on", ">p", *rules)
    url = f"unix://host%3Amac2:p@{redis_server.folder}/r.sock"
    old = shown(builder_at(Clock(), RedisDays(redis_client, NAMES)), *grown())
    with redis.Redis.from_url(url) as client:
        assert shown(builder_at(Clock(days=1), RedisDays(client, NAMES)), *grown()) == old


# --- on the way --------------------------------------------------------------------------------------------------


class _Told:
    """A core, or a source, that is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def share_days(self, days: object) -> None:
        self.told.append(days)


@pytest.mark.parametrize("carrier", [SteppedEngine, StreamedEngine])
def test_engines_hand_on_what_is_shared_to_what_has_prompts(
    carrier: Callable[[object], object], shared: RedisDays
) -> None:
    told = _Told()
    engine = carrier(told)
    assert isinstance(engine, Dated)
    engine.share_days(shared)
    assert told.told == [shared]
    other = carrier(object())
    assert isinstance(other, Dated)
    other.share_days(shared)


def test_a_worker_shares_days_with_others_once_its_model_is_loaded(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "freeze_objects", lambda: None)
    spec = ModelSpec(id="m", source="m", engine="echo")
    worker = process.Worker(worker_settings(redis_url, tmp_path), spec, "host", StatusPipe())
    engine: Any = _Told()
    worker.engine = engine
    worker._hear(Loaded(EngineInfo(context_tokens=1)))
    assert engine.told == [worker.days]
