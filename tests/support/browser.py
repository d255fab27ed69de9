"""A headless Chromium driven over its own pipe (Chrome DevTools Protocol), without a driver or another package.

Protocol: https://chromedevtools.github.io/devtools-protocol/. Messages are JSON, each ended by a zero byte.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.processes import wait_until

PROGRAMS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
ANSWER_S = 30.0


def find_browser() -> str | None:
    return next((found for each in PROGRAMS if (found := shutil.which(each))), None)


class BrowserError(AssertionError):
    pass


class Browser:
    """One process; `page` opens a tab. A reader thread sorts what it says."""

    def __init__(self, program: str, profile: Path, *extra: str) -> None:
        to_child, self._out = os.pipe()
        self._in, from_child = os.pipe()
        # The browser expects to read at 3 and to write at 4.
        shell = f'exec "$0" "$@" 3<&{to_child} 4>&{from_child}'
        flags = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
        more = ("--remote-debugging-pipe", "--disable-background-networking", f"--user-data-dir={profile}")
        self._process = subprocess.Popen(
            ["bash", "-c", shell, program, *flags, *more, *extra, "about:blank"],
            pass_fds=(to_child, from_child),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(to_child)
        os.close(from_child)
        self._numbers = itertools.count(1)
        self._answers: dict[int, Any] = {}
        self._pages: dict[str, Page] = {}
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        held = b""
        while data := os.read(self._in, 1 << 20):
            *messages, held = (held + data).split(b"\0")
            for message in map(json.loads, messages):
                with self._news:
                    if "id" in message:
                        self._answers[message["id"]] = message
                    elif message.get("sessionId") in self._pages:
                        self._pages[message["sessionId"]].hear(message["method"], message["params"])
                    self._news.notify_all()

    def send(self, method: str, session: str = "", **params: Any) -> Any:
        number = next(self._numbers)
        told = {"id": number, "method": method, "params": params, **({"sessionId": session} if session else {})}
        os.write(self._out, json.dumps(told).encode() + b"\0")
        with self._news:
            if not self._news.wait_for(lambda: number in self._answers, ANSWER_S):
                raise BrowserError(f"{method}: no answer")
            answer = self._answers.pop(number)
        if "error" in answer:
            raise BrowserError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def page(self, url: str = "about:blank", *, width: int = 1280, height: int = 900) -> Page:
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session, target)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.send(f"{domain}.enable")
        page.size(width, height)
        if url != "about:blank":
            page.go(url)
        return page

    def permit(self, name: str, origin: str, setting: str) -> None:
        """`setting`: granted, denied or prompt, from now on."""
        self.send("Browser.setPermission", permission={"name": name}, origin=origin, setting=setting)

    def clear_cookies(self) -> None:
        self.send("Storage.clearCookies")

    def close(self) -> None:
        for end in (self._out,):
            os.close(end)
        try:
            self._process.wait(40)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(40)
        self._reader.join(40)
        os.close(self._in)


class Page:
    """A tab. `complaints` are errors of the console, exceptions and violations of policies, as text."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self._browser = browser
        self._session = session
        self._target = target
        self.complaints: list[str] = []
        self.urls: list[str] = []

    def send(self, method: str, **params: Any) -> Any:
        return self._browser.send(method, self._session, **params)

    def hear(self, method: str, params: Any) -> None:
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.complaints.append(str(details.get("exception", {}).get("description") or details["text"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(" ".join(str(each.get("value", each.get("description"))) for each in params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self.urls.append(params["request"]["url"])

    def go(self, url: str) -> None:
        self.send("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """The value of an expression, awaited."""
        said = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in said:
            details = said["exceptionDetails"]
            raise BrowserError(str(details.get("exception", {}).get("description") or details["text"]))
        return said["result"].get("value")

    def wait(self, script: str, *, deadline_s: float = 40.0) -> Any:
        """Until it is true, as scripts say true."""

        def look() -> Any:
            try:
                return self.run(f"Promise.resolve({script}).then(Boolean)")
            except BrowserError:  # the page is on its way
                return None

        try:
            return wait_until(look, script, deadline_s=deadline_s, every_s=0.05)
        except AssertionError:
            raise AssertionError(f"{script}\n{self.complaints}\n{self.text()[:2000]}") from None

    def text(self) -> str:
        return str(self.run("document.body.innerText"))

    def size(self, width: int, height: int) -> None:
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def theme(self, name: str) -> None:
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def press(self, key: str) -> None:
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        codes = {"Enter": 13, "Escape": 27, "Tab": 9}
        code = {"windowsVirtualKeyCode": codes[key]} if key in codes else {}
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, **text, **code)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key, **code)

    def hold(self, key: str) -> None:
        """Down, until `let_go`."""
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key)

    def let_go(self, key: str) -> None:
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key)

    def picture(self) -> bytes:
        return base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"])

    def close(self) -> None:
        self._browser.send("Target.closeTarget", targetId=self._target)


@contextmanager
def browsing(profile: Path, *flags: str) -> Iterator[Browser]:
    program = find_browser()
    assert program is not None
    browser = Browser(program, profile, *flags)
    try:
        yield browser
    finally:
        browser.close()


def settle(page: Page, *, quiet_s: float = 0.3, most_s: float = 5.0) -> None:
    """Until the page asks for nothing new."""
    end_s, seen, since_s = time.monotonic() + most_s, len(page.urls), time.monotonic()
    while time.monotonic() < end_s and time.monotonic() - since_s < quiet_s:
        time.sleep(0.05)
        if len(page.urls) != seen:
            seen, since_s = len(page.urls), time.monotonic()
