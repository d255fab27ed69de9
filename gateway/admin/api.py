"""`/api/…`: everything that the console reads and does, for scripts as well.

Whoever reads needs the role viewer, whoever writes is an administrator; without any key that is who may come in. What
a browser sends must come from the console's own page.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from starlette.datastructures import QueryParams
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.admin import bodies, disk
from gateway.admin.events import asked_topics, send_events
from gateway.admin.feeds import Feeds
from gateway.admin.overview import activity
from gateway.admin.pieces import Kept
from gateway.admin.requests import RequestLog
from gateway.admin.settings_files import ChangedFileError, SettingsEditor
from gateway.admin.speed import SpeedTests, asks
from gateway.admin.topics import Sights
from gateway.command.sharing import share
from gateway.http.administration import load_model, refused_by, revoke_host, unload_model
from gateway.http.auth import check_writing_page
from gateway.http.replies import header, read_raw, send_json
from gateway.keys.holder import OWNER, Holder, holder_of
from gateway.keys.making import add_key, revoke_key
from gateway.parts import Parts
from shared.errors import (
    ConfigError,
    InvalidRequestError,
    PermissionDeniedError,
    RequestCancelledError,
    RouteNotFoundError,
)

logger = logging.getLogger(__name__)

NO_STORE: Final = {"cache-control": "no-store"}
_SAFE: Final = ("GET", "HEAD")
_MOST_BODY_BYTES: Final = 2 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """`name` is what stands behind the route's own path; `body` is that of a write."""

    name: str
    query: QueryParams
    body: Mapping[str, Any]
    tag: str = ""
    holder: Holder = OWNER


class Console:
    """What the routes of one gateway share."""

    def __init__(self, parts: Parts, app: ASGIApp) -> None:
        """`app` are the gateway's own routes, without what keeps strangers out."""
        self.parts = parts
        self.log = RequestLog(parts.traces)
        self.editor = SettingsEditor(parts.settings)
        self.pulls = disk.Pulls(parts.settings)
        self.kept = Kept(parts.pieces)
        self.speed = SpeedTests(lambda: parts.fleet.snapshot, asks(app), lambda: len(activity(parts.hub.dispatches)))
        self.feeds = Feeds(Sights(parts, self.log, self.editor, self.pulls, self.kept, self.speed).topics())

    async def aclose(self) -> None:
        await self.feeds.aclose()
        await self.pulls.aclose()
        await self.speed.aclose()

    # --- models and requests -------------------------------------------------------------------------------------

    async def order_model(self, call: Call) -> Any:
        model, action = bodies.parse_model_order(call.body)
        done = await (load_model if action == "load" else unload_model)(self.parts, model)
        return {"done": done}

    async def test_speed(self, call: Call) -> Any:
        name, is_check = bodies.parse_speed(call.body)
        model = (await self.parts.intake.names.resolve(name)).model
        return self.speed.check(model) if is_check else self.speed.start(model, call.holder)

    async def end_speed_test(self, call: Call) -> Any:
        return {"done": self.speed.cancel(call.name)}

    async def show_request(self, call: Call) -> Any:
        return await self.log.detail(call.name)

    async def end_request(self, call: Call) -> Any:
        request_id, _, action = call.name.rpartition("/")
        if action != "cancel" or not request_id:
            raise RouteNotFoundError("a request is asked for with POST /api/requests/ID/cancel alone")
        found = [each for each in self.parts.hub.dispatches.values() if each.request_id == request_id]
        if not found or found[0].has_ended:
            raise RouteNotFoundError(f"no request {request_id[:100]!r} runs or waits at this gateway")
        found[0].fail(RequestCancelledError("cancelled by an administrator"))
        return {"done": f"{request_id} is cancelled"}

    async def show_name(self, call: Call) -> Any:
        target = await self.parts.intake.names.resolve(call.query.get("name", ""))
        worker = self.parts.fleet.snapshot.ready_workers(target.model)
        return {"model": target.model, "profile": target.profile, "workers": [each.worker for each in worker]}

    # --- models on disk ------------------------------------------------------------------------------------------

    async def show_local(self, _: Call) -> Any:
        return await asyncio.to_thread(disk.render_local, self.parts.fleet.snapshot)

    async def delete_local(self, call: Call) -> Any:
        if self.pulls.is_fetched(call.name):
            raise InvalidRequestError(f"{call.name} is fetched now: cancel that first")
        return {"done": await asyncio.to_thread(disk.delete, call.name, self.parts.fleet.snapshot)}

    async def fetch_model(self, call: Call) -> Any:
        model, quantization, is_check = bodies.parse_pull(call.body)
        if not is_check:
            return await self.pulls.start(model, quantization)
        plan = await self.pulls.plan(model, quantization)
        return disk.with_fits(plan, self.parts.fleet.snapshot)

    async def search_hub(self, call: Call) -> Any:
        return await self.pulls.search(bodies.parse_search(call.body))

    async def end_pull(self, call: Call) -> Any:
        return {"done": self.pulls.cancel(call.name)}

    async def drop_kept(self, call: Call) -> Any:
        session, worker, keys = bodies.parse_drop(call.body)
        done = self.kept.drop_session(session) if session else self.kept.drop_pieces(worker, keys)
        return {"done": await done}

    # --- settings files ------------------------------------------------------------------------------------------

    async def show_file(self, call: Call) -> Any:
        there = await asyncio.to_thread(self.editor.read, call.name)
        return {"text": there.text, "tag": there.tag}

    async def write_file(self, call: Call) -> Any:
        text = bodies.parse_text(call.body)
        there = await asyncio.to_thread(self.editor.write, call.name, text, _needed(call.tag))
        return {"text": there.text, "tag": there.tag}

    async def check_file(self, call: Call) -> Any:
        name, _, action = call.name.rpartition("/")
        if action == "check":
            return await asyncio.to_thread(self.editor.check, name, bodies.parse_text(call.body))
        if action == "undo":
            there = await asyncio.to_thread(self.editor.undo, name, _needed(call.tag))
            return {"text": there.text, "tag": there.tag}
        raise RouteNotFoundError("a settings file is asked for with /check or /undo")

    # --- keys and hosts ------------------------------------------------------------------------------------------

    async def make_key(self, call: Call) -> Any:
        key, record = await asyncio.to_thread(add_key, self.parts.keys, bodies.parse_key(call.body))
        return {"key": key, "name": record.name}

    async def revoke_key(self, call: Call) -> Any:
        if missing := await asyncio.to_thread(revoke_key, self.parts.keys, call.name):
            raise RouteNotFoundError(missing)
        return {"done": f"{call.name} is revoked"}

    async def invite_host(self, _: Call) -> Any:
        """Of a host alone: a further gateway would be told the secret of the fleet."""
        line, hint = await asyncio.to_thread(share, self.parts.settings)
        return {"line": line, "hint": hint}

    async def revoke_host(self, call: Call) -> Any:
        return {"done": await revoke_host(self.parts, call.name)}


def _needed(tag: str) -> str:
    if not tag:
        raise InvalidRequestError("say with `If-Match` which text is changed")
    return tag


_Act = Callable[[Console, Call], Awaitable[Any]]
# What is not here is read as the topic of its name.
_ACTS: Final[Mapping[tuple[str, str], _Act]] = {
    ("models", "POST"): Console.order_model,
    ("local", "GET"): Console.show_local,
    ("local_model", "DELETE"): Console.delete_local,
    ("hub", "POST"): Console.search_hub,
    ("pulls", "POST"): Console.fetch_model,
    ("pull", "DELETE"): Console.end_pull,
    ("speed", "POST"): Console.test_speed,
    ("speed_test", "DELETE"): Console.end_speed_test,
    ("cache", "POST"): Console.drop_kept,
    ("request", "GET"): Console.show_request,
    ("request", "POST"): Console.end_request,
    ("names", "GET"): Console.show_name,
    ("routing_file", "GET"): Console.show_file,
    ("routing_file", "PUT"): Console.write_file,
    ("routing_file", "POST"): Console.check_file,
    ("keys", "POST"): Console.make_key,
    ("key", "DELETE"): Console.revoke_key,
    ("hosts", "POST"): Console.invite_host,
    ("host", "DELETE"): Console.revoke_host,
}


class Api:
    """One route's ASGI application, by its name without `api_`."""

    def __init__(self, console: Console, name: str) -> None:
        self._console = console
        self._name = name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        holder, method = holder_of(scope), "GET" if scope["method"] == "HEAD" else scope["method"]
        query = QueryParams(scope["query_string"])
        self._check(holder, scope, method)
        if self._name == "events":
            await self._send_events(scope, query, receive, send)
            return
        data = b"" if method == "GET" else await read_raw(receive, most_bytes=_MOST_BODY_BYTES)
        await self._answer(Call(**_asked(scope, data), query=query, holder=holder), method, send)

    async def _send_events(self, scope: Scope, query: QueryParams, receive: Receive, send: Send) -> None:
        """Who listens is asked again and again: a key may end, or its role be another, before the stream does."""
        feeds, admit = self._console.feeds, scope.get("state", {}).get("admit", lambda: OWNER)
        names = asked_topics(feeds, holder_of(scope), query)
        await send_events(
            feeds, names, holder_of(scope).name, lambda: asked_topics(feeds, admit(), query), receive, send
        )

    def _check(self, holder: Holder, scope: Scope, method: str) -> None:
        """Raises `PermissionDeniedError`."""
        topic = self._console.feeds.topics.get(self._name)
        is_private = method != "GET" or (topic is not None and topic.is_private)
        if is_private and holder.role != "admin":
            raise PermissionDeniedError(f"the key {holder.name!r} has the role {holder.role}, which may only look")
        if method != "GET":
            check_writing_page(scope)

    async def _answer(self, call: Call, method: str, send: Send) -> None:
        act = _ACTS.get((self._name, method))
        try:
            if act is not None:
                told = await act(self._console, call)
            elif (topic := self._console.feeds.topics.get(self._name)) is not None:
                told = await topic.render()
            else:
                raise RouteNotFoundError("there is nothing to read here")
        except ChangedFileError as error:
            await send_json(send, 412, _changed(error), headers=NO_STORE)
            return
        except ConfigError as error:
            raise refused_by(error) from error
        if method != "GET":
            logger.info("console: %s %s %s", method, self._name, call.name[:100] or "-")
        await send_json(send, 200, told, headers=NO_STORE)


def _asked(scope: Scope, data: bytes) -> dict[str, Any]:
    """Raises `InvalidRequestError`."""
    if data.strip() and not header(scope, b"content-type").lower().startswith("application/json"):
        raise InvalidRequestError("the body must be application/json")  # a form of another page's never is
    tag = header(scope, b"if-match").strip().strip('"')
    return {"name": str(scope["path_params"].get("id", "")), "body": bodies.parse_json(data), "tag": tag}


def _changed(error: ChangedFileError) -> dict[str, Any]:
    told = {"type": "invalid_request_error", "code": "changed_meanwhile", "message": str(error), "param": None}
    return {"error": told, "text": error.there.text, "tag": error.there.tag}
