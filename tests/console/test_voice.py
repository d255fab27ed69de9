"""Voice in headless Chromium: a microphone that is fed from a file, through real gateway, Redis and workers.

The models say what they are told to: that real voices are understood and words come out is shown by
`test_real_weights_hear_and_speak`, with `make test-voice`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.console.voice_stand import (
    DETECTOR,
    ELSEWHERE,
    SAID,
    Stand,
    choose_silero,
    click,
    opened,
    said_file,
    said_now,
    standing,
    turns,
)
from tests.support.axe import axe_script, violations
from tests.support.browser import Page, browsing, find_browser
from tests.support.said import heard, microphone_flags
from tests.support.stand_in_silero import write_silero

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_browser() is None, reason="no Chromium on the PATH: apt-get install chromium"),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with standing(tmp_path_factory.mktemp("voice"), character_s=0.5) as found:
        yield found


@pytest.fixture(scope="module")
def axe() -> str:
    return axe_script()


def test_who_speaks_is_answered_aloud_and_interrupts_with_the_space_bar(stand: Stand, axe: str) -> None:
    page = opened(stand)
    assert violations(page, axe) == []
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
    page.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    for theme in ("light", "dark"):
        page.run(f"document.documentElement.dataset.theme = {theme!r}")
        assert violations(page, axe) == [], theme
    page.size(320, 700)
    assert page.run("document.scrollingElement.scrollWidth") <= 320
    rate, samples = heard(page)
    spectrum = np.abs(np.fft.rfft(samples.astype(np.float64)))
    assert abs(np.argmax(spectrum) * rate / len(samples) - 1000) < 50, "the tone of which the stand-in's voice is made"
    assert [each for each in page.complaints if "ScriptProcessor" not in each] == []
    page.close()


def test_over_http_from_another_machine_it_says_why_there_is_no_voice_and_where_there_is(
    stand: Stand, axe: str
) -> None:
    page = opened(stand, ELSEWHERE, theme="dark")
    page.wait("document.querySelector('[role=alert] a')")
    assert page.run("document.querySelector('[role=alert] a').href") == f"https://{ELSEWHERE}:8443/console/v/voice.html"
    assert "over HTTPS alone" in page.text()
    assert not page.run("[...document.querySelectorAll('button')].some((each) => each.innerText === 'Start')")
    assert violations(page, axe) == []
    assert [each for each in page.complaints if "Cross-Origin-Opener-Policy" not in each] == []
    page.close()


def told(page: Page, words: str) -> None:
    page.wait(f"document.querySelector('[role=alert]')?.innerText.includes({words!r})")


def test_a_microphone_that_is_refused_or_taken_away_is_told_and_comes_back_into_the_same_conversation(
    stand: Stand, axe: str, tmp_path: Path
) -> None:
    gateway, _ = stand
    origin = f"http://127.0.0.1:{gateway.port}"
    with browsing(tmp_path / "profile", *microphone_flags(said_file(tmp_path), is_given=False)) as browser:
        browser.permit("microphone", origin, "denied")
        page = opened((gateway, browser))
        click(page, "Start")
        told(page, "told not to give this page the microphone")
        browser.permit("microphone", origin, "granted")
        click(page, "Start")
        page.wait("document.querySelectorAll('.turn.user').length === 1", deadline_s=60)
        browser.permit("microphone", origin, "denied")
        told(page, "has taken the microphone away")
        assert violations(page, axe) == []
        said_now(page, "Muted", deadline_s=60)  # what is being said is said to its end
        assert turns(page) == [SAID, SAID], "nothing of the conversation is lost"
        click(page, "Unmute")
        told(page, "told not to give this page the microphone")
        browser.permit("microphone", origin, "granted")
        click(page, "Unmute")
        page.wait("document.querySelectorAll('.turn.user').length === 2", deadline_s=60)
        assert not page.run("Boolean(document.querySelector('[role=alert]'))")
        assert [each for each in page.complaints if "ScriptProcessor" not in each] == []


def test_whoever_speaks_hands_free_interrupts_the_answer(stand: Stand, tmp_path: Path) -> None:
    gateway, _ = stand
    with browsing(tmp_path / "profile", *microphone_flags(said_file(tmp_path), loops=True)) as browser:
        page = opened((gateway, browser))
        click(page, "Start")
        page.wait("document.body.innerText.includes('Interrupted')", deadline_s=90)
        assert "does not take the answer's echo" not in page.text()
        cut = "[...document.querySelectorAll('.turn')].findIndex((each) => each.innerText.includes('Interrupted'))"
        page.wait(f"document.querySelectorAll('.turn .said')[{cut} + 1]?.innerText === {SAID!r}")


LANGUAGES = """
window.languages = [];
window.asking = window.fetch;
window.fetch = (path, options) => {
  if (options?.body instanceof FormData) window.languages.push(options.body.get("language"));
  return window.asking(path, options);
};
"""


def test_the_language_that_is_chosen_reaches_the_model_of_transcripts(stand: Stand) -> None:
    page = opened(stand, before=LANGUAGES)
    page.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    labels = "[...document.querySelectorAll('label')]"
    field = f"{labels}.find((each) => each.innerText.startsWith('Language')).querySelector('input')"
    page.run(f"{field}.value = 'de', {field}.dispatchEvent(new InputEvent('input', {{ bubbles: true }}))")
    click(page, "Start")
    page.wait("document.querySelectorAll('.turn.user').length === 1", deadline_s=60)
    assert set(page.run("window.languages")) == {"de"}
    assert turns(page)[0] == SAID, "the worker took it"
    page.run("localStorage.removeItem('voice')")
    page.close()


WEB_ASSEMBLY = """
WebAssembly.compile(new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0])).then(() => "runs", (error) => error.name)
"""


def test_silero_is_loaded_when_it_is_chosen_by_the_one_thread_that_may_run_webassembly(stand: Stand, axe: str) -> None:
    gateway, _ = stand
    page = opened(stand)
    assert not any("/silero/" in url or "worker" in url for url in page.urls)
    choose_silero(page)
    page.wait("document.body.innerText.includes('mlx-gateway detector')")  # which fetches it
    assert violations(page, axe) == []
    write_silero(gateway.folder / "state")
    page.go("about:blank")
    page.go(f"http://127.0.0.1:{gateway.port}/console/v/voice.html")
    page.wait(DETECTOR)
    assert page.run(f"{DETECTOR}.value") == "silero", "what was chosen is kept"
    page.complaints.clear()
    click(page, "Start")
    page.wait("document.querySelectorAll('.turn.user').length === 1", deadline_s=60)
    assert turns(page)[0] == SAID
    assert not page.run("Boolean(document.querySelector('.notice'))")
    assert page.run(WEB_ASSEMBLY) == "CompileError"
    page.run("localStorage.removeItem('voice')")
    page.close()
