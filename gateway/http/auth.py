"""Who may use the gateway: while there is no key everyone on this machine but others' pages, else who knows one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.http.replies import header, header_values, wants_page
from gateway.http.routes import Route, find_route, nothing_at
from gateway.http.visitors import Visitors, is_same_page
from gateway.keys.check import KeyCheck
from gateway.keys.holder import OWNER, Holder
from shared.errors import PermissionDeniedError, RouteNotFoundError

_SAFE: Final = ("GET", "HEAD")
_MOST_SESSIONS: Final = 8  # of one request
_MOST_KEYS: Final = 8  # as well


class Authentication:
    """ASGI middleware. Accepts `Authorization: Bearer KEY` and `x-api-key: KEY`, and from the gateway's own pages the
    cookie of a session; raises `AuthenticationError` and `GuessedKeysError`, for hosts and pages that may not come in
    `InvalidRequestError` and `PermissionDeniedError`, and the latter for what the key's role may not. What the table of
    routes does not know is not there: Starlette's patterns end before a line's end (`$`), and would serve `/status%0A`
    as `/status`, with nobody asked. Who holds the key is noted in the scope's state as `holder`; `admit` there asks the
    same again later, and raises as this does."""

    def __init__(self, app: ASGIApp, *, check: KeyCheck, visitors: Visitors, cookie: str = "") -> None:
        self.app = app
        self._check_key = check
        self._visitors = visitors
        self._cookie = cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            self._check(scope)
        await self.app(scope, receive, _with_rate_headers(scope, send))

    def _check(self, scope: Scope) -> None:
        hosts = [value.decode("latin-1") for value in header_values(scope, b"host")]
        self._visitors.check_host(hosts, http_version=scope.get("http_version", "1.1"))
        origins = [value.decode("latin-1") for value in header_values(scope, b"origin")]
        self._visitors.check_origin(origins, hosts[0] if hosts else "")
        route = find_route(scope["path"])
        if not _is_open(scope, route):
            state = scope.setdefault("state", {})
            state["holder"] = self._admit(scope, route, address_of(scope))
            state["admit"] = lambda: self._admit(scope, route)
            state["has_key"] = self._check_key.is_needed and bool(offered_keys(scope))
        if route is None:
            raise RouteNotFoundError(nothing_at(scope["path"]))

    def _admit(self, scope: Scope, route: Route | None, address: str | None = None) -> Holder:
        if not self._check_key.is_needed:
            return OWNER
        holder = self._holder(scope, address)
        if route is not None:
            holder.check_work(route.work)
        return holder

    def _holder(self, scope: Scope, address: str | None) -> Holder:
        """Raises `AuthenticationError`, `GuessedKeysError`, and `PermissionDeniedError` for a session of somebody
        else's page."""
        offered = offered_keys(scope)
        sessions = () if offered else sessions_of(scope, self._cookie)
        if not sessions:
            return self._check_key.holder(offered, address)
        check_own_page(scope)
        return self._check_key.session_holder(*sessions)


def _with_rate_headers(scope: Scope, send: Send) -> Send:
    """What is left of the key's quota, as whoever admitted the request noted it."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            found = scope.get("state", {}).get("rate_headers", {})
            more = [(name.encode(), text.encode()) for name, text in found.items()]
            message["headers"] = [*message["headers"], *more]
        await send(message)

    return sending


def address_of(scope: Scope) -> str:
    """Where a request came from, as the server has it: of a proxy on this machine, what that says."""
    return str((scope.get("client") or ("",))[0])


def offered_keys(scope: Scope) -> Sequence[bytes]:
    """The first few: clients have one, and some send it twice."""
    offered = list(header_values(scope, b"x-api-key"))
    for value in header_values(scope, b"authorization"):
        scheme, _, token = value.partition(b" ")
        if scheme.lower() == b"bearer":
            offered.append(token.strip())
    return offered[:_MOST_KEYS]


def cookie_of(scope: Scope, cookie: str) -> str:
    """Its name as the request came: what a browser was given over HTTPS it keeps from plain answers of the same host
    (RFC 6265bis, 4.1.3.2 and 5.7), which so need another."""
    return f"__Host-{cookie}" if cookie and scope.get("scheme") == "https" else cookie


def sessions_of(scope: Scope, cookie: str) -> Sequence[str]:
    """Of all cookies of the name, the first few: other ports of the same host may set one for a deeper path, which
    browsers send before ours (RFC 6265, 5.4 and 8.6)."""
    cookie = cookie_of(scope, cookie)
    pairs = (pair.strip().partition(b"=") for value in header_values(scope, b"cookie") for pair in value.split(b";"))
    found = [value.decode("latin-1") for name, _, value in pairs if cookie and value and name == cookie.encode()]
    return found[:_MOST_SESSIONS]


def check_own_page(scope: Scope) -> None:
    """Raises `PermissionDeniedError` where a browser sends this for another page than the gateway's own: it adds who is
    signed in whatever page asks, and calls other ports of this machine the same site. What changes something must say
    its page."""
    origin, site = header(scope, b"origin"), header(scope, b"sec-fetch-site")
    is_named = bool(origin) or site == "same-origin" or scope["method"] in _SAFE
    is_own = (not origin or is_same_page(origin, header(scope, b"host"))) and site in ("", "same-origin", "none")
    if not (is_named and is_own):
        raise PermissionDeniedError("only the console's own pages may use its session")


def check_writing_page(scope: Scope) -> None:
    """Raises `PermissionDeniedError` where a browser would change something for another page than the gateway's own. A
    key that opens something tells who asks; one that nobody looked at does not, and any page can add it. Programs name
    no page."""
    has_key = scope.get("state", {}).get("has_key", False)
    if not has_key and (header(scope, b"origin") or header(scope, b"sec-fetch-site")):
        check_own_page(scope)


def _is_open(scope: Scope, route: Route | None) -> bool:
    if route is None:
        return False
    return scope.get("method") in route.keyless or (route.work == "home" and wants_page(scope))
