"""Voice in headless Chromium: a microphone that is fed from a file, through real gateway, Redis and workers.

The models say what they are told to (a tiny Whisper, a stand-in for a model of speech, echo): that real voices are
understood and words come out is shown by `test_real_weights_hear_and_speak`, with `make test-voice`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pytest

from shared.redis_server import RedisServer
from tests.models.whisper_checkpoint import build_whisper
from tests.support.browser import Browser, Page, browsing, find_browser
from tests.support.said import EAR, heard, microphone_file, microphone_flags, speech_like
from tests.support.served import Served, served
from tests.support.stand_in_voice import build_voices

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_browser() is None, reason="no Chromium on the PATH: apt-get install chromium"),
    pytest.mark.timeout(120),
]

ELSEWHERE = "mini.local"
SAID = "hello world and again."  # what is heard whatever is said


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Browser]]:
    folder = tmp_path_factory.mktemp("voice")
    build_whisper(folder / "hears", says=(0.0, f" {SAID}", 2.0), language="en")
    speaks = str(build_voices(folder / "speaks", "af_heart"))
    said = microphone_file(folder / "said.wav", speech_like(1.5))
    flags = (*microphone_flags(said), f"--host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1")
    with ExitStack() as stack:
        server = stack.enter_context(RedisServer())
        gateway = stack.enter_context(served(server.url, folder, allowed_hosts=ELSEWHERE))
        stack.enter_context(gateway.worker())
        stack.enter_context(gateway.worker("hears", engine="transcription", source=str(folder / "hears")))
        slowly = {"module": "tests.support.stand_in_voice", "STAND_IN_CHARACTER_S": "0.5"}
        stack.enter_context(gateway.worker("speaks", engine="speech", source=speaks, **slowly))
        yield gateway, stack.enter_context(browsing(folder / "profile", *flags))


def opened(stand: tuple[Served, Browser], host: str = "127.0.0.1") -> Page:
    gateway, browser = stand
    page = browser.page()
    page.send("Page.addScriptToEvaluateOnNewDocument", source=EAR)
    page.go(f"http://{host}:{gateway.port}/console/v/voice.html")
    page.wait("document.querySelector('details')")
    return page


def click(page: Page, word: str) -> None:
    button = f"[...document.querySelectorAll('button')].find((each) => each.innerText.startsWith({word!r}))"
    page.wait(f"{button} && !{button}.disabled")
    page.run(f"{button}.click()")


def said_now(page: Page, state: str) -> None:
    page.wait(f"document.querySelector('.said-now')?.innerText === {state!r}")


def turns(page: Page) -> list[str]:
    return list(page.run("[...document.querySelectorAll('.turn .said')].map((each) => each.innerText)"))


def test_who_speaks_is_answered_aloud_and_interrupts_with_the_space_bar(stand: tuple[Served, Browser]) -> None:
    page = opened(stand)
    click(page, "Start")
    said_now(page, "Speaking")
    assert turns(page)[0] == SAID
    assert "from the end of speech to the first sound" in page.text()
    page.wait("window.heard.parts.some((part) => part.some((x) => Math.abs(x) > 0.1))")
    page.hold(" ")
    said_now(page, "Hearing you")
    page.run("window.since = performance.now()")
    page.wait("performance.now() - window.since > 300")  # less would be a slip
    page.let_go(" ")
    page.wait("document.querySelectorAll('.turn').length === 4")
    assert "Interrupted" in page.text()
    assert turns(page)[:3] == [SAID, "", SAID], "nothing of the first answer was heard to its end"
    said_now(page, "Speaking")
    click(page, "Stop")
    said_now(page, "Listening")
    click(page, "Mute")
    said_now(page, "Muted")
    rate, samples = heard(page)
    spectrum = np.abs(np.fft.rfft(samples.astype(np.float64)))
    assert abs(np.argmax(spectrum) * rate / len(samples) - 1000) < 50, "the tone of which the stand-in's voice is made"
    assert [each for each in page.complaints if "ScriptProcessor" not in each] == []
    page.close()


def test_over_http_from_another_machine_it_says_why_there_is_no_voice_and_where_there_is(
    stand: tuple[Served, Browser],
) -> None:
    page = opened(stand, ELSEWHERE)
    page.wait("document.querySelector('[role=alert] a')")
    assert page.run("document.querySelector('[role=alert] a').href") == f"https://{ELSEWHERE}:8443/console/v/voice.html"
    assert "over HTTPS alone" in page.text()
    assert not page.run("[...document.querySelectorAll('button')].some((each) => each.innerText === 'Start')")
    assert [each for each in page.complaints if "Cross-Origin-Opener-Policy" not in each] == []
    page.close()
