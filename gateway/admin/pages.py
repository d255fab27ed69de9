"""The console's page and what it is made of: files of this package, by names that change with what they hold."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from starlette.types import Receive, Scope, Send

from gateway import silero
from gateway.http.replies import header, send_json, send_reply, wants_page
from shared.errors import RouteNotFoundError

_FOLDER: Final = Path(__file__).parent / "page"
_TYPES: Final = {
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".mjs": b"text/javascript; charset=utf-8",
    ".onnx": b"application/octet-stream",
    ".wasm": b"application/wasm",
    ".css": b"text/css; charset=utf-8",
    ".svg": b"image/svg+xml",
    ".txt": b"text/plain; charset=utf-8",
}
_VERSION: Final = "{version}"  # in the page
_LEAST_ZIPPED: Final = 500

# Nothing from elsewhere, and no script or style in the page itself.
POLICY: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "font-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
# The one script, on a thread of its own, that runs WebAssembly.
_WEB_ASSEMBLY: Final = frozenset({"voice/silero_worker.js"})
WEB_ASSEMBLY_POLICY: Final = {
    **POLICY,
    "content-security-policy": POLICY["content-security-policy"].replace(
        "script-src 'self'", "script-src 'self' 'wasm-unsafe-eval'"
    ),
}
_SILERO: Final = "silero/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    media_type: bytes
    body: bytes
    zipped: bytes


class Page:
    """`assets` by their path below `/console/VERSION/`; read and packed when first asked for."""

    def __init__(self, folder: Path = _FOLDER) -> None:
        self._folder = folder
        self._assets: dict[str, Asset] = {}
        self.version = ""
        self._loading = asyncio.Lock()

    async def find(self, name: str) -> Asset | None:
        async with self._loading:
            if not self._assets:
                self.version, self._assets = await asyncio.to_thread(_load, self._folder)
        return self._assets.get(name)


def _load(folder: Path) -> tuple[str, dict[str, Asset]]:
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix in _TYPES
    }
    digest = hashlib.sha256()
    for name, body in files.items():
        digest.update(name.encode() + b"\0" + body)
    version = digest.hexdigest()[:12]
    return version, {name: _packed(name, body, version) for name, body in files.items()}


def _packed(name: str, body: bytes, version: str) -> Asset:
    suffix = Path(name).suffix
    if suffix == ".html":
        body = body.replace(_VERSION.encode(), version.encode())
    zipped = gzip.compress(body, mtime=0) if len(body) > _LEAST_ZIPPED else b""
    return Asset(media_type=_TYPES[suffix], body=body, zipped=zipped)


class Home:
    """`GET /`: the page for browsers; for all others, and what they probe with, a greeting."""

    def __init__(self, page: Page) -> None:
        self._page = page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD" or not wants_page(scope):
            await send_json(send, 200, {"name": "mlx-gateway", "status": "ok"}, headers={"vary": "accept"})
            return
        await _send(scope, send, await self._page.find("index.html"), caching="no-cache")


class Files:
    """`GET /console/VERSION/NAME`. Another version is that of a page that was open before a restart."""

    def __init__(self, page: Page, state_dir: Path) -> None:
        self._page = page
        self._state_dir = state_dir

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        version, _, name = str(scope["path_params"]["id"]).partition("/")
        asset = await self._page.find(name)
        if name.startswith(_SILERO):
            asset = await asyncio.to_thread(_silero_asset, self._state_dir, name.removeprefix(_SILERO))
        is_same = version == self._page.version
        caching = "public, max-age=31536000, immutable" if is_same else "no-cache"
        policy = WEB_ASSEMBLY_POLICY if name in _WEB_ASSEMBLY else POLICY
        await _send(scope, send, asset, caching=caching, policy=policy)


def _silero_asset(state_dir: Path, name: str) -> Asset:
    body = silero.read_file(state_dir, name)
    if body is None:
        raise RouteNotFoundError(f"this gateway has no such file: `{silero.COMMAND}` fetches Silero's")
    return Asset(media_type=_TYPES[Path(name).suffix], body=body, zipped=b"")


async def _send(
    scope: Scope, send: Send, asset: Asset | None, *, caching: str, policy: Mapping[str, str] = POLICY
) -> None:
    if asset is None:
        raise RouteNotFoundError("the console has no such file")
    headers = {**policy, "cache-control": caching, "vary": "accept-encoding, accept"}
    is_zipped = bool(asset.zipped) and "gzip" in header(scope, b"accept-encoding")
    if is_zipped:
        headers["content-encoding"] = "gzip"
    body = asset.zipped if is_zipped else asset.body
    await send_reply(send, 200, body, media_type=asset.media_type, headers=headers)
