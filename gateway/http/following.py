"""Responses in the background for who asks for them: as they stand, as a stream behind any of their events, and
cancelled."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.types import Receive, Send

from gateway.dialects.openai_responses.running import behind, ended_by, is_unfinished, last_event
from gateway.kept.runs import RunStore
from gateway.kept.store import AnswerStore, Kept
from gateway.parts import Parts
from shared.errors import BrokerUnavailableError, InvalidRequestError, WorkerLostError

_LOOK_S: Final = 0.25  # between looks at a run of another gateway
_CANCELLED_WITHIN_S: Final = 5.0
_HEADERS: Final = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
_STOPPED: Final = "the gateway that ran it has stopped"


class Follower:
    def __init__(self, parts: Parts) -> None:
        self._answers: AnswerStore = parts.answers
        self._runs: RunStore = parts.runs

    async def get(self, tenant: str, answer_id: str) -> Kept:
        """As it stands; who ran it may be gone without a word. Raises the errors of `AnswerStore.get`."""
        kept = await self._answers.get(tenant, answer_id)
        if not is_unfinished(kept.answer) or (tenant, answer_id) in self._runs.tasks:
            return kept
        if await self._runs.is_alive(tenant, answer_id):
            return kept
        lost = Kept(answer=ended_by(kept.answer, WorkerLostError(_STOPPED)), items=kept.items)
        await self._answers.change(tenant, lost)
        return lost

    async def cancel(self, tenant: str, answer_id: str) -> Kept:
        """As it stands then; one that has ended stays as it is. Raises `InvalidRequestError` for one that did not run
        in the background."""
        kept = await self.get(tenant, answer_id)
        if not kept.answer.get("background"):
            problem = f"{answer_id} has ended: only what runs in the background can be cancelled"
            raise InvalidRequestError(problem)
        if is_unfinished(kept.answer):
            await self._runs.cancel(tenant, answer_id)
        loop = asyncio.get_running_loop()
        until_s = loop.time() + _CANCELLED_WITHIN_S
        while is_unfinished(kept.answer) and loop.time() < until_s:
            await asyncio.sleep(_LOOK_S)
            kept = await self.get(tenant, answer_id)
        return kept

    async def delete(self, tenant: str, answer_id: str) -> None:
        """One that runs need not go on. Raises the errors of `AnswerStore.delete`."""
        kept = await self._answers.get(tenant, answer_id)
        await self._answers.delete(tenant, answer_id)
        if kept.answer.get("background"):
            await self._runs.cancel(tenant, answer_id)
            await self._runs.forget(tenant, answer_id)

    async def follow(self, tenant: str, answer_id: str, number: int, receive: Receive, send: Send) -> None:
        """Everything behind an event, to the end. Raises the errors of `get`, and `InvalidRequestError` for what has no
        events."""
        kept = await self.get(tenant, answer_id)
        if not kept.answer.get("background"):
            raise InvalidRequestError("stream: only what ran in the background can be streamed again", param="stream")
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        telling = asyncio.create_task(self._tell(tenant, answer_id, number, send))
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait({telling, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if telling.done():
                telling.result()
        finally:
            telling.cancel()
            leaving.cancel()

    async def _tell(self, tenant: str, answer_id: str, number: int, send: Send) -> None:
        place, is_over = 0, False
        while not is_over:
            try:
                kept = await self.get(tenant, answer_id)  # first: what it said before its end is read then
                is_over = not is_unfinished(kept.answer)
                chunks = await self._runs.said(tenant, answer_id, place)
            except BrokerUnavailableError:
                await asyncio.sleep(_LOOK_S)
                continue
            place += len(chunks)
            told = [found for chunk in chunks for found in behind(chunk, number)]
            if told:
                number = told[-1][0]
            has_end = any(b'"type":"response.' + str(kept.answer["status"]).encode() in event for _, event in told)
            ending = last_event(kept.answer, number + 1) if is_over and not has_end else b""
            if body := b"".join([event for _, event in told]) + ending:
                await send({"type": "http.response.body", "body": body, "more_body": True})
            elif not is_over:
                await self._runs.wait(_LOOK_S)
        await send({"type": "http.response.body", "body": b""})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
