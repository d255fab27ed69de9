"""The last requests as rows of a table, and one of them in full."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from gateway.admin.merging import known
from gateway.trace.file import TraceFile
from gateway.trace.recent import MOST
from shared.errors import RouteNotFoundError

_FEW: Final = 20  # which are parsed at once
_NAME: Final = 100
_ERROR: Final = 300


class RequestLog:
    """Rows by id, oldest first. What ended before this process is read from the file of traces, once."""

    def __init__(self, traces: TraceFile) -> None:
        self._traces = traces
        self._rows: dict[str, dict[str, Any]] = {}
        self._count = 0
        self._has_read_file = False
        self._reading = asyncio.Lock()

    @property
    def stamp(self) -> object:
        return self._traces.recent.count

    async def rows(self) -> dict[str, dict[str, Any]]:
        """Every row stays the same object while it is kept."""
        async with self._reading:
            recent = self._traces.recent
            if not self._has_read_file:
                recent.put_before(await asyncio.to_thread(self._traces.newest))
                self._has_read_file = True
            lines, self._count = recent.since(self._count), recent.count
            self._take(_parse(lines) if len(lines) < _FEW else await asyncio.to_thread(_parse, lines))
            return dict(self._rows)

    def _take(self, rows: Mapping[str, dict[str, Any]]) -> None:
        for name, each in rows.items():
            self._rows.pop(name, None)
            self._rows[name] = each
        for name in list(self._rows)[: max(0, len(self._rows) - MOST)]:
            del self._rows[name]

    async def render(self) -> dict[str, Any]:
        return {"kept": self._traces.is_on, "rows": await self.rows()}

    async def detail(self, request_id: str) -> dict[str, Any]:
        """Raises `RouteNotFoundError`."""
        found = await asyncio.to_thread(self._traces.find, request_id)
        if found is None:
            raise RouteNotFoundError(f"no trace of the request {request_id[:_NAME]!r} is kept here")
        return found


def _parse(lines: Sequence[bytes]) -> dict[str, dict[str, Any]]:
    return {told["id"]: row(told) for told in map(orjson.loads, lines)}


def row(told: Mapping[str, Any]) -> dict[str, Any]:
    """Of a trace. What is not known is left out; seconds and tokens."""
    came, tokens, seconds = (told.get(name, {}) for name in ("came", "tokens", "seconds"))
    attempts = told.get("attempts") or [{}]
    return known(
        at_s=told.get("at_s"),
        route=told.get("route"),
        outcome=told.get("outcome"),
        error=(told.get("error") or "")[:_ERROR] or None,
        asked=came.get("model", "")[:_NAME],
        model=told.get("canonical", {}).get("model"),
        worker=attempts[-1].get("worker"),
        why=attempts[-1].get("reason"),
        attempts=len(attempts),
        session=came.get("session"),
        prompt=tokens.get("input"),
        cached=tokens.get("cached"),
        out=tokens.get("output"),
        parted_in=tokens.get("parted_in") or None,
        waited_s=seconds.get("waited"),
        first_s=seconds.get("first_token"),
        total_s=seconds.get("total"),
    ) | {"class": came.get("class", "")}
