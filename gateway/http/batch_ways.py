"""How a batch's requests are answered: by the application's own routes, as if their clients had sent them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from orjson import dumps
from starlette.types import ASGIApp, Message

from gateway.batches.ledger import Ledger
from gateway.batches.runner import Answered
from gateway.dialects.batch_values import Batch, Outcome, StoredFile, Task
from gateway.dialects.openai import batches as openai
from gateway.dialects.priority import PRIORITY_HEADER
from gateway.http.replies import dialect_of
from gateway.http.routes import find_route
from gateway.http.staying import StayingClient
from gateway.keys.holder import Holder
from shared.errors import GatewayError

_FILES: Final[Mapping[str, tuple[Outcome, ...]]] = {
    "output": ("succeeded",),
    "error": ("errored", "canceled", "expired"),
}


class RoutedWays:
    """See `gateway.batches.runner.Ways`. `app` are the routes without what keeps strangers out. `find_holder` says who
    has the key of a name now; it raises `AuthenticationError`."""

    def __init__(self, app: ASGIApp, find_holder: Callable[[str], Holder]) -> None:
        self._app = app
        self._find_holder = find_holder

    async def answer(self, task: Task) -> Answered:
        request_id = f"req_{secrets.token_hex(12)}"
        scope: dict[str, Any] = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "path": task.path,
            "query_string": b"",
            "headers": [(b"content-type", b"application/json"), (PRIORITY_HEADER.encode(), b"batch")],
            "state": {"request_id": request_id, "started_s": time.monotonic()},
        }
        exchange = _Exchange(task.body)
        try:
            scope["state"]["holder"] = self._holder(task)
            await self._app(scope, exchange.receive, exchange.send)
        except GatewayError as error:
            rendered = dialect_of(scope).render_error(error, request_id=request_id)
            return Answered(status=rendered.status, request_id=request_id, body=dumps(rendered.body), error=error)
        return Answered(status=exchange.status, request_id=request_id, body=b"".join(exchange.body))

    def _holder(self, task: Task) -> Holder:
        """Who asks: what a key may may have changed since it made the batch. Raises `AuthenticationError` and
        `PermissionDeniedError`."""
        holder = self._find_holder(task.holder)
        route = find_route(task.path)
        assert route is not None
        holder.check_work(route.work)
        return holder

    def results(self, ledger: Ledger, batch: Batch) -> dict[str, tuple[StoredFile, bytes]]:
        """One vendor gives them as files."""
        return _result_files(ledger, batch) if batch.vendor == "openai" else {}


def _result_files(ledger: Ledger, batch: Batch) -> dict[str, tuple[StoredFile, bytes]]:
    files = {}
    for kind, outcomes in _FILES.items():
        content = b"".join(openai.render_lines(batch, ledger.ended(batch.id, outcomes)))
        if content:
            file = StoredFile(
                id=f"file-{secrets.token_hex(12)}",
                vendor=batch.vendor,
                name=f"{batch.id}_{kind}.jsonl",
                purpose="batch_output",
                media_type="application/jsonl",
                size_bytes=len(content),
                made_s=time.time(),
                tenant=batch.tenant,
            )
            files[kind] = (file, content)
    return files


class _Exchange(StayingClient):
    """Keeps what it is told."""

    def __init__(self, body: bytes) -> None:
        super().__init__(body)
        self.status = 0
        self.body: list[bytes] = []

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.body.append(message.get("body", b""))
