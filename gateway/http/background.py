"""`POST /v1/responses`: at once, or while nobody waits (`background`), and then told to whoever asks for it.

What runs in the background is asked by the way of every request, as by a client that stays. The response is kept from
its beginning; its events too, so that its client can follow it, leave, and come back behind any of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from starlette.types import Message, Receive, Scope, Send

from gateway.dialects.base import Dialect, Parsed, RenderContext
from gateway.dialects.openai_responses.render import ResponsesReply
from gateway.dialects.openai_responses.running import Heard, asks_for_it, body_of, ended_by
from gateway.dispatch.dispatch import Dispatch
from gateway.dispatch.runs import Repeat
from gateway.http.endpoints import Generate
from gateway.http.following import Follower
from gateway.http.idempotency import note_repeat, repeat_of
from gateway.http.kept import converse
from gateway.http.replies import ClientDisconnectedError, read_raw, request_id_of, send_json
from gateway.intake.reader import Body
from gateway.kept.runs import MAX_SAID_BYTES, RunStore
from gateway.kept.store import AnswerStore, Kept
from gateway.keys.holder import holder_of
from gateway.parts import Parts
from gateway.trace.story import Story
from shared.errors import AnswerNotFoundError, GatewayError, InternalError, InvalidRequestError, OverloadedError
from shared.request import GenerateRequest

logger = logging.getLogger(__name__)

_REFUSED_WITHIN_S: Final = 0.3  # what is wrong with a request mostly shows by then, and is told to its client
_GATHER_S: Final = 0.1  # events are kept that many together
_RENEW_S: Final = 1.0
_KEPT_WITHIN_S: Final = 10.0
_ON_ITS_WAY_S: Final = 1.0  # a response that another request begins at this moment
_TOO_LARGE: Final = "the conversation is too large to be kept, and what runs in the background is"


@dataclass(kw_only=True)
class _Run:
    """One of them. `frame` is the response as it stands before anything was said; `opened` says that its prompt is
    good."""

    tenant: str
    id: str
    frame: dict[str, Any] = field(default_factory=dict)
    items: tuple[Any, ...] = ()
    parsed: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    kept: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    heard: Heard = field(default_factory=Heard)
    pending: list[bytes] = field(default_factory=list)
    error: GatewayError | None = None
    is_over: bool = False
    is_refused: bool = False
    said_bytes: int = 0
    chunks: int = 0

    def take(self, parsed: Parsed, request_id: str) -> None:
        assert isinstance(parsed.reply, ResponsesReply)
        context = RenderContext(request_id=request_id, model=parsed.request.model, created_s=int(time.time()))
        self.frame = parsed.reply.frame(context, "queued")
        self.items = parsed.items or ()
        self.parsed.set()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.opened.set()
        elif events := self.heard.feed(message.get("body", b"")):
            self.pending.append(events)

    def fail(self, error: GatewayError) -> None:
        self.error = error
        self.parsed.set()
        self.opened.set()

    def answer(self) -> dict[str, Any]:
        """As it ends."""
        if self.heard.answer is not None:
            return self.heard.answer
        said = {**self.frame, "output": self.heard.items}
        if self.left.is_set():
            return {**said, "status": "cancelled"}
        return ended_by(said, self.error or InternalError("the response broke off"))


class _Detached(Generate):
    """An answer whose client is a run."""

    async def parse(self, scope: Scope, receive: Receive, *, counting: bool, story: Story | None = None) -> Parsed:
        parsed = await super().parse(scope, receive, counting=counting, story=story)
        scope["state"]["run"].take(parsed, request_id_of(scope))
        return replace(parsed, stream=True, items=None)

    async def _admitted(self, request: GenerateRequest, parsed: Parsed, repeat: Repeat | None) -> Dispatch:
        """One that runs already would answer under its own id."""
        return await self.dispatcher.admit_alone(request)


class Responses:
    """An ASGI application."""

    def __init__(self, parts: Parts, dialect: Dialect, *, name: str) -> None:
        self._at_once = Generate(parts, dialect, name=name)
        self._detached = _Detached(parts, dialect, name=name)
        self._answers: AnswerStore = parts.answers
        self._runs: RunStore = parts.runs
        self._follower = Follower(parts)
        self._joining = parts.joining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_raw(receive)
        read = asks_for_it(body)
        if read is None:
            await self._at_once(scope, _replayed(body, receive), send)
            return
        run = _Run(tenant=holder_of(scope).tenant, id=_id_of(request_id_of(scope)))
        note_repeat(scope, Body(chunks=[body], values=0))
        answer = await self._begun_before(run.tenant, scope)
        if answer is None:
            await self._begin(run, scope, body_of(read))
            answer = run.frame
        if read.get("stream") is True:
            await self._follower.follow(run.tenant, str(answer["id"]), -1, receive, send)
        else:
            await send_json(send, 200, answer)

    async def _begun_before(self, tenant: str, scope: Scope) -> Mapping[str, Any] | None:
        """The response that the same request has begun, by the key that its client gave it, as it stands now; None
        where there is none, or where it failed. Raises the errors of `Joining.join`."""
        repeat, request_id = repeat_of(scope), request_id_of(scope)
        if repeat is None:
            return None
        first = await self._joining.first(tenant, repeat, request_id)
        if first is None:
            return None
        found = await self._kept_soon(tenant, _id_of(first.request_id))
        if found is None or found.get("status") == "failed":
            await self._joining.begin_anew(tenant, repeat, request_id)
            return None
        return found

    async def _kept_soon(self, tenant: str, answer_id: str) -> Mapping[str, Any] | None:
        """It may be on its way to be kept, where both came at once: here for as long as it runs, elsewhere for a
        moment."""
        until_s = time.monotonic() + _ON_ITS_WAY_S
        while True:
            with contextlib.suppress(AnswerNotFoundError):
                return (await self._follower.get(tenant, answer_id)).answer
            if time.monotonic() >= until_s and (tenant, answer_id) not in self._runs.tasks:
                return None
            await asyncio.sleep(_GATHER_S)

    async def _begin(self, run: _Run, scope: Scope, body: bytes) -> None:
        """Raises what is wrong with the request, where that shows soon."""
        inner = {**scope, "state": {**scope["state"], "run": run}}
        task = asyncio.create_task(self._run(run, inner, body))
        self._runs.tasks[run.tenant, run.id] = task
        task.add_done_callback(lambda _: self._runs.tasks.pop((run.tenant, run.id), None))
        try:
            await run.parsed.wait()
            await _is_set(run.opened, _REFUSED_WITHIN_S)
            if run.error is not None:
                raise run.error
            await self._runs.renew(run.tenant, run.id)  # first: who finds it without a sign of life takes it for lost
            if not await self._answers.put(run.tenant, Kept(answer=run.frame, items=run.items)):
                raise InvalidRequestError(_TOO_LARGE, param="input")
        except BaseException:
            run.is_refused = True
            task.cancel()
            raise
        run.kept.set()

    async def _run(self, run: _Run, scope: Scope, body: bytes) -> None:
        keeping = asyncio.create_task(self._keep_saying(run))
        try:
            with contextlib.suppress(ClientDisconnectedError):
                await self._detached(scope, _staying(body, run.left), run.send)
        except GatewayError as error:
            run.fail(error)
        except asyncio.CancelledError:  # the gateway stops, or the request is refused
            run.fail(OverloadedError("the gateway that ran it has stopped"))
        except Exception:  # a bug in here: the run ends all the same
            logger.exception("%s broke off", run.id)
            run.fail(InternalError("the response broke off"))
        run.is_over = True
        if not run.is_refused and await _is_set(run.kept, _KEPT_WITHIN_S):
            await keeping
            await self._end(run)
        keeping.cancel()

    async def _keep_saying(self, run: _Run) -> None:
        """Keep what it says, give signs of life, and have it leave when it is cancelled."""
        await run.kept.wait()
        renewed_s = -_RENEW_S
        while not run.is_over:
            with contextlib.suppress(GatewayError):
                await self._say(run)
                if time.monotonic() - renewed_s >= _RENEW_S:
                    renewed_s = time.monotonic()
                    if not await self._runs.renew(run.tenant, run.id):
                        run.left.set()
            await asyncio.sleep(_GATHER_S)

    async def _say(self, run: _Run) -> None:
        taken = len(run.pending)  # more may come while these are written
        events = b"".join(run.pending)
        if not events or run.said_bytes > MAX_SAID_BYTES:
            return
        if not run.chunks:
            await self._change(run, {**run.frame, "status": "in_progress"})
        await self._runs.say(run.tenant, run.id, run.chunks, events)
        del run.pending[:taken]
        run.chunks += 1
        run.said_bytes += len(events)

    async def _end(self, run: _Run) -> None:
        try:
            await self._say(run)
            answer = run.answer()
            await converse(self._answers, run.tenant, answer, run.items)
            if not await self._change(run, answer):
                error = InternalError("the answer is too large to be kept")
                await self._change(run, ended_by(run.frame, error))
        except AnswerNotFoundError:  # it was deleted meanwhile
            await self._runs.forget(run.tenant, run.id)
        except GatewayError as error:
            logger.warning("%s is not kept: %s", run.id, error)

    async def _change(self, run: _Run, answer: Mapping[str, Any]) -> bool:
        return await self._answers.change(run.tenant, Kept(answer=answer, items=run.items))


def _id_of(request_id: str) -> str:
    return f"resp_{request_id}"


async def _is_set(event: asyncio.Event, timeout_s: float) -> bool:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), timeout_s)
    return event.is_set()


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body once more, and then what comes."""
    return _After(body, receive).receive


def _staying(body: bytes, left: asyncio.Event) -> Receive:
    """A client that sends a body and stays until it leaves."""

    async def leaves() -> Message:
        await left.wait()
        return {"type": "http.disconnect"}

    return _After(body, leaves).receive


class _After:
    def __init__(self, body: bytes, receive: Receive) -> None:
        self._first: Message | None = {"type": "http.request", "body": body}
        self._receive = receive

    async def receive(self) -> Message:
        first, self._first = self._first, None
        return first if first is not None else await self._receive()
