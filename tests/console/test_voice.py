"""Voice in headless Chromium: a microphone that is fed from a file, through real gateway, Redis and workers.

The models say what they are told to: that real voices are understood and words come out is shown by
`test_real_weights_hear_and_speak`, with `make test-voice`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tests.console.voice_stand import ELSEWHERE, SAID, Stand, click, opened, said_now, standing, turns
from tests.support.axe import axe_script, violations
from tests.support.browser import find_browser
from tests.support.said import heard

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_browser() is None, reason="no Chromium on the PATH: apt-get install chromium"),
    pytest.mark.timeout(120),
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
