"""Speed tests of models: real requests of the lowest class through the gateway, one test at a time."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

from starlette.types import ASGIApp

from gateway.admin.merging import known
from gateway.admin.speed_plan import Point, Step, Timed, cost, plan, point, prompt
from gateway.dispatch.tasks import cancel_all
from gateway.http.timed import ask_timed
from gateway.keys.holder import Holder
from shared.errors import GatewayError, InvalidRequestError, RouteNotFoundError
from shared.registry import Fleet, WorkerLease

logger = logging.getLogger(__name__)

MOST_S: Final = 900.0
_KEPT: Final = 20  # models whose last test is kept

State = Literal["running", "done", "failed", "cancelled"]
# (holder, model, prompt, most tokens of the answer). Raises `GatewayError`.
Ask = Callable[[Holder, str, str, int], Awaitable[Timed]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """A model's last test. `reason` says why it failed; `missing` counts steps that told no rate."""

    began_s: float
    steps: int
    done: int = 0
    state: State = "running"
    prefill: tuple[Point, ...] = ()
    decode: tuple[Point, ...] = ()
    missing: int = 0
    reason: str = ""

    def with_step(self, step: Step, found: Point | None) -> Speed:
        if found is None:
            return replace(self, done=self.done + 1, missing=self.missing + 1)
        after = replace(self, done=self.done + 1)
        if step.kind == "prefill":
            return replace(after, prefill=(*self.prefill, found))
        return replace(after, decode=(*self.decode, found))


def asks(app: ASGIApp) -> Ask:
    """Of a gateway's own routes, without what keeps strangers out."""

    async def ask(holder: Holder, model: str, words: str, most_tokens: int) -> Timed:
        answer = await ask_timed(app, holder, model=model, prompt=words, most_tokens=most_tokens)
        cached = (answer.usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        return Timed(
            first_s=answer.first_s,
            last_s=answer.last_s,
            prompt_tokens=int(answer.usage.get("prompt_tokens", 0)) - int(cached),
            answer_tokens=int(answer.usage.get("completion_tokens", 0)),
        )

    return ask


class SpeedTests:
    """Belongs to one event loop. `count` says how many requests run or wait at this gateway."""

    def __init__(self, look: Callable[[], Fleet], ask: Ask, count: Callable[[], int]) -> None:
        self._look = look
        self._ask = ask
        self._count = count
        self._speeds: dict[str, Speed] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def check(self, model: str) -> dict[str, Any]:
        """What a test would cost. Raises `InvalidRequestError` where nobody could answer it."""
        workers = self._workers(model)
        prefill, decode = (
            min(getattr(each, name) for each in workers) for name in ("prefill_tokens_per_s", "decode_tokens_per_s")
        )
        return {"model": model, **asdict(cost(_plan(workers), prefill, decode))}

    def start(self, model: str, holder: Holder) -> dict[str, Any]:
        """As `check`, and it runs from now on. Raises `InvalidRequestError`, also where one runs already."""
        told, steps = self.check(model), _plan(self._workers(model))
        if self._tasks:
            raise InvalidRequestError(f"{next(iter(self._tasks))} is tested now: wait for that, or cancel it")
        self._speeds.pop(model, None)
        self._speeds[model] = Speed(began_s=time.time(), steps=len(steps))
        while len(self._speeds) > _KEPT:
            del self._speeds[next(iter(self._speeds))]
        task = self._tasks[model] = asyncio.create_task(self._run(model, holder, steps))
        task.add_done_callback(lambda _: self._end(model))
        return told

    def cancel(self, model: str) -> str:
        """What was found so far stays. Raises `RouteNotFoundError`."""
        task = self._tasks.get(model)
        if task is None:
            raise RouteNotFoundError(f"{model[:100]!r} is not tested now")
        task.cancel()
        return f"{model} is not tested any more"

    def stamp(self) -> object:
        return tuple(self._speeds.items())

    async def render(self) -> Mapping[str, Any]:
        return {"tests": {model: _told(speed) for model, speed in self._speeds.items()}}

    async def aclose(self) -> None:
        await cancel_all(list(self._tasks.values()))

    def _workers(self, model: str) -> Sequence[WorkerLease]:
        workers = [each for each in self._look().ready_workers(model) if "generate" in each.kinds]
        if not workers:
            raise InvalidRequestError(f"no worker of {model[:100]!r} is ready to answer: load it first", param="model")
        return workers

    async def _run(self, model: str, holder: Holder, steps: Sequence[Step]) -> None:
        try:
            async with asyncio.timeout(MOST_S):
                for step in steps:
                    found = await self._measure(model, holder, step)
                    self._speeds[model] = self._speeds[model].with_step(step, found)
            self._note(model, "done")
        except TimeoutError:
            self._note(model, "failed", f"it took more than {MOST_S:.0f} s")
        except GatewayError as error:
            self._note(model, "failed", error.message)
        except Exception:
            logger.exception("the speed test of %s", model)
            self._note(model, "failed", "an internal error, of which the gateway's log tells more")

    def _note(self, model: str, state: State, reason: str = "") -> None:
        self._speeds[model] = replace(self._speeds[model], state=state, reason=reason)

    def _end(self, model: str) -> None:
        """However it ended, also before it began."""
        del self._tasks[model]
        if self._speeds[model].state == "running":
            self._note(model, "cancelled")

    async def _measure(self, model: str, holder: Holder, step: Step) -> Point | None:
        chance = random.Random()
        is_beside = self._count() > 0
        length = max(1, step.prompt_tokens // step.requests)
        asked = [
            asyncio.ensure_future(self._ask(holder, model, prompt(length, chance), step.answer_tokens))
            for _ in range(step.requests)
        ]
        try:
            answers = await asyncio.gather(*asked)
        finally:
            await cancel_all(asked)
        return point(step, answers, is_beside=is_beside)


def _plan(workers: Sequence[WorkerLease]) -> tuple[Step, ...]:
    return plan(min(each.context_tokens for each in workers), sum(each.capacity for each in workers))


def _told(speed: Speed) -> dict[str, Any]:
    curves = {kind: [asdict(each) for each in getattr(speed, kind)] for kind in ("prefill", "decode")}
    return known(
        state=speed.state,
        began_s=speed.began_s,
        steps=speed.steps,
        done=speed.done,
        missing=speed.missing or None,
        reason=speed.reason or None,
        **curves,
    )
