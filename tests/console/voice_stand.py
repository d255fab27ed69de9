"""The page of voice before a real gateway, Redis and workers: a tiny Whisper that hears the same whatever is said,
echo, and a stand-in for a model of speech. The browser's microphone plays a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from shared.redis_server import RedisServer
from tests.models.whisper_checkpoint import build_whisper
from tests.support.browser import Browser, Page, browsing
from tests.support.said import EAR, microphone_file, microphone_flags, speech_like
from tests.support.served import Served, served
from tests.support.stand_in_voice import build_voices

ELSEWHERE = "mini.local"  # a name of this machine that is not this machine's own
SAID = "hello world and again."

DETECTOR = """
[...document.querySelectorAll("label")].find((each) => each.textContent.startsWith("Speech is told by"))
  .querySelector("select")
""".strip()

Stand = tuple[Served, Browser]


@contextmanager
def standing(folder: Path, *, character_s: float, loops: bool = False, **options: Any) -> Iterator[Stand]:
    """`character_s`: how long the voice takes for a character. `loops`: the file is played again and again. `options`
    are those of the echo engine."""
    build_whisper(folder / "hears", says=(0.0, f" {SAID}", 2.0), language="en")
    speaks = str(build_voices(folder / "speaks", "af_heart"))
    flags = (*microphone_flags(said_file(folder), loops=loops), f"--host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1")
    voice: dict[str, Any] = {"module": "tests.support.stand_in_voice", "STAND_IN_CHARACTER_S": character_s}
    with ExitStack() as stack:
        server = stack.enter_context(RedisServer())
        gateway = stack.enter_context(served(server.url, folder, allowed_hosts=ELSEWHERE))
        stack.enter_context(gateway.worker(**options))
        stack.enter_context(gateway.worker("hears", engine="transcription", source=str(folder / "hears")))
        stack.enter_context(gateway.worker("speaks", engine="speech", source=speaks, **voice))
        yield gateway, stack.enter_context(browsing(folder / "profile", *flags))


def said_file(folder: Path) -> Path:
    """Something that passes for an utterance, in a quiet room."""
    return microphone_file(folder / "said.wav", speech_like(1.5))


def opened(
    stand: Stand,
    host: str = "127.0.0.1",
    *,
    theme: str = "light",
    size: tuple[int, int] = (1280, 900),
    before: str = "",
) -> Page:
    """`before`: a script that runs before those of the page."""
    gateway, browser = stand
    page = browser.page()
    page.theme(theme)
    page.size(*size)
    page.send("Page.addScriptToEvaluateOnNewDocument", source=EAR + before)
    page.go(f"http://{host}:{gateway.port}/console/v/voice.html")
    page.wait("document.querySelector('details')")
    return page


def click(page: Page, word: str) -> None:
    button = f"[...document.querySelectorAll('button')].find((each) => each.innerText.startsWith({word!r}))"
    page.wait(f"{button} && !{button}.disabled")
    page.run(f"{button}.click()")


def said_now(page: Page, state: str, *, deadline_s: float = 60.0) -> None:
    page.wait(f"document.querySelector('.said-now')?.innerText === {state!r}", deadline_s=deadline_s)


def turns(page: Page) -> list[str]:
    return list(page.run("[...document.querySelectorAll('.turn .said')].map((each) => each.innerText)"))


def choose_silero(page: Page) -> None:
    page.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    page.run(f"{DETECTOR}.value = 'silero', {DETECTOR}.dispatchEvent(new Event('change', {{ bubbles: true }}))")
