"""Pictures of the console for the documentation: `python -m tests.console.pictures docs/pictures`.

One for each screen, light, dark and as on a phone, side by side, of a real gateway under load in headless Chromium.
Echo workers answer: names and figures are theirs, and no Mac's.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from PIL import Image

from tests.support.browser import Browser, Page, browsing, settle
from tests.support.processes import wait_until
from tests.support.up import Up, up

MODELS: Final = (("qwen3-30b", 40.0, "start"), ("qwen3-8b", 15.0, "start"), ("gemma3-12b", 15.0, "on-demand"))
TIERS: Final = {"opus": "qwen3-30b", "haiku": "qwen3-8b"}
RULES: Final = ({"classes": ["side", "batch"], "model": "qwen3-8b"}, {"images": True, "model": "gemma3-12b"})
CACHE: Final = {"cache_max_slots": 6, "ssd_cache_bytes": 68_719_476_736}
TESTED: Final = MODELS[1][0]
# By file: where it is taken, and what is scrolled to first.
PICTURES: Final = {
    **{screen: (screen, "") for screen in ("now", "requests", "models", "chat", "routing", "cache", "settings")},
    "speed": (f"models/{TESTED}", "h2:last-of-type"),
    "cache-variables": ("settings", "section[aria-label='cache_settings.json']"),
}
WIDE: Final = (1180, 820)
PHONE: Final = (390, 820)
_SCALE: Final = 0.62
_GAP: Final = 12
_QUALITY: Final = 62
_WORDS: Final = "what a coding agent reads before it answers " * 60


def main(words: list[str]) -> int:
    out = Path(words[0])
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, _loaded(Path(folder)) as stack:
        with browsing(Path(folder) / "profile") as browser:
            for name, (place, top) in PICTURES.items():
                (out / f"{name}.webp").write_bytes(side_by_side(_shots(browser, stack, place, top)))
    print(f"{sum(path.stat().st_size for path in out.glob('*.webp')):,} bytes")
    return 0


@contextlib.contextmanager
def _loaded(folder: Path) -> Iterator[Up]:
    """A Mac with three models that were asked, are asked, and have some who wait."""
    config = folder / "config"
    config.mkdir()
    (config / "models.json").write_text(json.dumps({"models": [_model(*each) for each in MODELS]}))
    (config / "claude_routing.json").write_text(json.dumps({"tiers": TIERS, "rules": RULES}, indent=2))
    (config / "cache_settings.json").write_text(json.dumps(CACHE, indent=2))
    env = {"HF_HOME": str(folder), "LMSTUDIO_MODELS_DIR": str(folder / "none"), "MLX_GATEWAY_CAPACITY": "2"}
    with up(folder, "--config", str(config), "--name", "studio", env=env) as stack:
        stack.wait_until_ready()
        wait_until(lambda: len(stack.request("GET", "/ready")[1]["models"]) >= 2, "two models answer", deadline_s=60)
        for number in range(24):
            assert _ask(stack, number, 10 + 8 * (number % 5)) == 200
        assert stack.request("POST", "/api/models/speed", {"model": TESTED})[0] == 200
        wait_until(lambda: _tested(stack) == "done", "the speed is tested", deadline_s=300)
        stopping = threading.Event()
        threads = [threading.Thread(target=_keep_asking, args=(stack, n, stopping), daemon=True) for n in range(5)]
        for thread in threads:
            thread.start()
        try:
            wait_until(lambda: len(stack.request("GET", "/api/overview")[1]["running"]) >= 2, "requests run")
            yield stack
        finally:
            stopping.set()


def _model(name: str, step_ms: float, load: str) -> dict[str, Any]:
    options = {"step_ms": step_ms, "prefill_tokens_per_s": 2000.0, "cache_tokens": 50_000, "disk_tokens": 200_000}
    return {"id": name, "source": name, "engine": "echo", "load": load, "options": options}


def _tested(stack: Up) -> str:
    return str(stack.request("GET", "/api/models/speed")[1]["tests"][TESTED]["state"])


def _ask(stack: Up, number: int, count: int) -> int:
    """The status of one answer."""
    turn = {"role": "user", "content": " ".join(_WORDS.split()[: 40 + count])}
    body = {"model": MODELS[number % 2][0], "max_tokens": count, "messages": [turn]}
    address = urlsplit(stack.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=120)
    headers = {"content-type": "application/json", "x-claude-code-session-id": f"session-{number % 4}"}
    try:
        connection.request("POST", "/v1/messages", json.dumps(body), headers)
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


def _keep_asking(stack: Up, number: int, stopping: threading.Event) -> None:
    while not stopping.is_set():
        with contextlib.suppress(OSError, http.client.HTTPException):  # the stack ends while it answers
            _ask(stack, 2 * number, 200)


def _shots(browser: Browser, stack: Up, place: str, top: str) -> list[Image.Image]:
    found, screen = [], place.partition("/")[0]
    for theme, size in (("light", WIDE), ("dark", WIDE), ("light", PHONE)):
        page = browser.page()
        page.theme(theme)
        page.size(*size)
        page.go(f"{stack.url}/#/{place}")
        page.wait(f"document.title.toLowerCase().includes('{screen}') && !document.querySelector('.skeleton')")
        if screen == "chat":
            _chat(page)
        if top:
            page.wait(f"document.querySelector({top!r})")
            page.run(f"document.querySelector({top!r}).scrollIntoView()")
        settle(page)
        found.append(Image.open(io.BytesIO(page.picture())).convert("RGB"))
        page.close()
    return found


def _chat(page: Page) -> None:
    """An answer that calls a tool, whose result is asked for."""
    page.wait("document.querySelector('main select')")
    page.run(
        "(() => { const chosen = [...document.querySelectorAll('main select')].at(-1); chosen.value = 'weather';"
        " chosen.dispatchEvent(new Event('change', {bubbles: true})); })()"
    )
    page.run(
        "(() => { const area = document.querySelector('main > form textarea');"
        ' area.value = \'What is the weather in Rome?\\ncall get_weather {"place": "Rome"}\';'
        " area.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )
    page.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    page.run("document.querySelector('main > form').requestSubmit()")
    page.wait("document.body.innerText.includes('tokens in')", deadline_s=120.0)


def side_by_side(shots: list[Image.Image]) -> bytes:
    small = [shot.resize((round(shot.width * _SCALE), round(shot.height * _SCALE)), Image.LANCZOS) for shot in shots]
    width, height = sum(each.width + _GAP for each in small) - _GAP, max(each.height for each in small)
    sheet, left = Image.new("RGB", (width, height), "#868f9d"), 0
    for each in small:
        sheet.paste(each, (left, 0))
        left += each.width + _GAP
    data = io.BytesIO()
    sheet.save(data, "WEBP", quality=_QUALITY, method=6)
    return data.getvalue()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
