"""`/api/session`: a key turned into a cookie that no script of a page can read."""

from __future__ import annotations

from typing import Any, Final

from starlette.types import Receive, Scope, Send

from gateway.admin.api import NO_STORE
from gateway.admin.bodies import parse_json, parse_session
from gateway.http.auth import address_of, check_own_page, cookie_of, offered_keys, sessions_of
from gateway.http.replies import header, read_raw, send_json
from gateway.keys.check import SESSION_S, KeyCheck
from gateway.keys.holder import OWNER, Holder
from shared.errors import AuthenticationError, InvalidRequestError

_MOST_BODY_BYTES: Final = 4096


def cookie_name(port: int) -> str:
    """Cookies know no ports: two gateways of one machine must not sign each other out."""
    return f"mlx_gateway_{port}"


class Session:
    """`GET`: whether a key is needed and who asks; `POST {"key"}` signs in, `DELETE` out."""

    def __init__(self, check: KeyCheck, cookie: str) -> None:
        self._check = check
        self._cookie = cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["method"]
        if method in ("GET", "HEAD"):
            await send_json(send, 200, self._told(self._holder(scope)), headers=NO_STORE)
            return
        if header(scope, b"origin") or header(scope, b"sec-fetch-site"):
            check_own_page(scope)
        if method == "DELETE":
            await self._send_cookie(scope, send, "", 0, {"signed_in": False})
            return
        await self._sign_in(scope, receive, send)

    async def _sign_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not header(scope, b"content-type").lower().startswith("application/json"):
            raise InvalidRequestError("the body must be application/json")
        data = await read_raw(receive, most_bytes=_MOST_BODY_BYTES)
        key = [parse_session(parse_json(data)).encode("utf-8", "surrogateescape")]
        session = self._check.open_session(key, address_of(scope))
        await self._send_cookie(scope, send, session, SESSION_S, self._told(self._check.holder(key)))

    async def _send_cookie(self, scope: Scope, send: Send, value: str, lasts_s: int, told: dict[str, Any]) -> None:
        secure = "; Secure" if scope.get("scheme") == "https" else ""
        cookie = (
            f"{cookie_of(scope, self._cookie)}={value}; Path=/; Max-Age={lasts_s}; HttpOnly; SameSite=Strict{secure}"
        )
        await send_json(send, 200, told, headers={"set-cookie": cookie, **NO_STORE})

    def _holder(self, scope: Scope) -> Holder | None:
        if not self._check.is_needed:
            return OWNER
        offered = offered_keys(scope)
        try:
            if offered:
                return self._check.holder(offered, address_of(scope))
            return self._check.session_holder(*sessions_of(scope, self._cookie))
        except AuthenticationError:
            return None

    def _told(self, holder: Holder | None) -> dict[str, Any]:
        if holder is None:
            return {"signed_in": False, "needs_key": True}
        return {"signed_in": True, "needs_key": self._check.is_needed, "name": holder.name, "role": holder.role}
