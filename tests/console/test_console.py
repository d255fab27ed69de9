"""The console in a real browser, headless Chromium, at a real gateway with echo workers.

Skipped where there is no Chromium (`apt-get install chromium`). Real models and Macs are not there: what is proven is
the page, its stream and its controls.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.command.cli import main
from shared.redis_server import RedisServer
from tests.support.axe import axe_script, violations
from tests.support.browser import Browser, Page, browsing, find_browser, settle
from tests.support.hub_stand_in import HubStandIn, serving_hub
from tests.support.processes import wait_until
from tests.support.served import Served, message, served

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_browser() is None, reason="no Chromium on the PATH: apt-get install chromium"),
    pytest.mark.timeout(300),
]

SCREENS = ("now", "requests", "models", "chat", "routing", "cache", "settings")
THEMES = ("light", "dark")
EVIL = "<img src=x onerror=window.evil=1>"
ROUTING = '{\n  "tiers": {"opus": "echo"},\n  "fallbacks": {"opus": ["echo"]}\n}\n'
ALIASES = '{"<b onclick=window.evil=1>alias": "echo"}\n'
KEYED = "the owner's"
DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
CONFIG = b'{"model_type": "llama", "num_hidden_layers": 4, "num_attention_heads": 2, "hidden_size": 64}'
HUB = {"maker/model": {"config.json": CONFIG, "model.safetensors": b"w" * 9000, "tokenizer.json": b"{ }"}}


def fit(host: str, weights: str, usable_bytes: int, most_tokens: int, *by_tokens: str) -> dict[str, Any]:
    sizes = ((32_768, 9 << 29), (131_072, 18 << 30))
    contexts = [
        {"tokens": tokens, "cache_bytes": cache_bytes, "fit": each}
        for (tokens, cache_bytes), each in zip(sizes, by_tokens, strict=True)
    ]
    told = {"host": host, "fit": weights, "usable_bytes": usable_bytes}
    return {**told, "contexts": contexts, "most_tokens": most_tokens}


FITS = [
    fit("small", "no", 6 << 30, 0, "no", "no"),
    fit("middle", "fits", 12 << 30, 40_000, "fits", "tight"),
    fit("large", "fits", 48 << 30, 300_000, "fits", "fits"),
]


@dataclass
class Stand:
    """A gateway without keys and with traffic, and one that wants a key; a browser for both."""

    gateway: Served
    keyed: Served
    browser: Browser
    folder: Path

    def url(self, screen: str = "", gateway: Served | None = None) -> str:
        return f"http://127.0.0.1:{(gateway or self.gateway).port}/#/{screen}"

    def key(self, role: str) -> str:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert main(["key", "create", role, "--role", role, "--state", str(self.folder / "keyed" / "state")]) == 0
        return printed.getvalue().strip()


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    folder = tmp_path_factory.mktemp("console")
    for each in ("open/config", "keyed"):
        (folder / each).mkdir(parents=True)
    (folder / "open/config/claude_routing.json").write_text(ROUTING)
    (folder / "open/config/model_aliases.json").write_text(ALIASES)
    with (
        pytest.MonkeyPatch.context() as patch,
        serving_hub(HubStandIn(HUB)) as hub,
        RedisServer() as server,
        models_in(folder / "models", hub, patch),
        served(server.url, folder / "open", config_dir=folder / "open/config", debug=1, cache_bits=8) as gateway,
        served(server.url, folder / "keyed", api_key=KEYED) as keyed,
        gateway.worker(cache_tokens=100_000, disk_tokens=200_000),
        gateway.worker(EVIL),
        browsing(folder / "profile") as browser,
    ):
        for number in range(12):
            named = {"x-claude-code-session-id": f"session {number % 3}"}
            asked = message(f"{number % 3} " * 40 + f"hello {number}", system="a head that all share " * 20)
            assert gateway.post("/v1/messages", asked, named).status == 200
        assert gateway.post("/v1/messages", message("hello", model=EVIL)).status == 200
        assert gateway.post("/v1/messages", message("hello", model=f"{EVIL}?")).status == 404
        keyed.headers["x-api-key"] = KEYED
        yield Stand(gateway, keyed, browser, folder)


@contextlib.contextmanager
def models_in(folder: Path, hub: str, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """For processes that are started from here on: this machine's models lie there, and the hub is this one."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN"):
        patch.delenv(name, raising=False)
    for name, value in (("HF_ENDPOINT", hub), ("HF_HOME", str(folder)), ("HF_HUB_DISABLE_XET", "1")):
        patch.setenv(name, value)
    patch.setenv("LMSTUDIO_MODELS_DIR", str(folder / "none"))
    yield


@pytest.fixture(scope="module")
def axe() -> str:
    return axe_script()


def shown(page: Page, screen: str) -> None:
    page.run(f"location.hash = '#/{screen}'")
    page.wait(f"document.title.toLowerCase().includes('{screen}') && !document.querySelector('.skeleton')")
    settle(page)


@pytest.mark.parametrize("theme", THEMES)
def test_every_screen_is_shown_without_a_complaint_and_fit_for_everybody(stand: Stand, axe: str, theme: str) -> None:
    """No error, no violation of the policy, nothing from elsewhere; axe finds nothing; 320 px need no scrolling."""
    page = stand.browser.page()
    page.theme(theme)
    page.go(stand.url())
    page.wait("document.querySelector('.state.ok')")
    assert page.run("document.documentElement.dataset.theme") == theme
    for screen in SCREENS:
        shown(page, screen)
        page.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        assert violations(page, axe) == [], screen
        page.size(320, 700)
        assert page.run("document.scrollingElement.scrollWidth") <= 320, screen
        page.size(1280, 900)
    detail = page.run("fetch('/api/requests').then((a) => a.json()).then((s) => Object.keys(s.rows)[0])")
    page.run(f"location.hash = '#/requests/{detail}'")
    page.wait("document.body.innerText.includes('Where it went, and why')")
    assert violations(page, axe) == []
    assert page.complaints == []
    own = f"http://127.0.0.1:{stand.gateway.port}/"
    assert [url for url in page.urls if not url.startswith((own, "data:", "blob:"))] == []
    page.close()


@pytest.mark.parametrize("theme", THEMES)
def test_signing_in_empty_lists_and_no_contact_are_fit_for_everybody_too(
    stand: Stand, axe: str, theme: str, tmp_path: Path
) -> None:
    page = stand.browser.page()
    page.theme(theme)
    with served(stand.gateway.redis_url, tmp_path, api_key=KEYED, deployment=f"empty-{theme}") as empty:
        page.go(stand.url("", empty))
        page.wait("document.querySelector('input[type=password]')")
        assert violations(page, axe) == []
        sign_in(page, "wrong")
        page.wait("document.body.innerText.includes('missing or wrong')")
        sign_in(page, KEYED)
        page.wait("document.body.innerText.includes('No request yet')")
        for screen in SCREENS:
            shown(page, screen)
            assert violations(page, axe) == [], screen
    page.wait("document.body.innerText.includes('No contact since')", deadline_s=40)
    assert violations(page, axe) == []
    page.close()


def sign_in(page: Page, key: str) -> None:
    page.run(
        f"(() => {{ const field = document.querySelector('input[type=password]'); field.value = {key!r};"
        " field.form.requestSubmit(); })()"
    )


def test_a_viewer_sees_no_controls_and_an_administrator_does(stand: Stand) -> None:
    def controls(key: str) -> dict[str, list[str]]:
        stand.browser.clear_cookies()
        page = stand.browser.page(stand.url("", stand.keyed))
        page.wait("document.querySelector('input[type=password]')")
        sign_in(page, key)
        page.wait("document.querySelector('nav')")
        found = {}
        for screen in page.run("[...document.querySelectorAll('nav a')].map((each) => each.hash.slice(2))"):
            shown(page, screen)
            controls = "document.querySelectorAll('main button:not(.sort), main textarea')"
            found[screen] = page.run(f"[...{controls}].map((each) => each.textContent)")
        page.close()
        return found

    harmless = {"Download as CSV", "As a table", "Try", "Sign out", "Show all"}
    viewers = controls(stand.key("viewer"))
    assert set(viewers) == {"now", "requests", "models", "routing", "cache", "settings"}
    assert {text for texts in viewers.values() for text in texts} <= harmless
    admins = controls(stand.key("admin"))
    assert set(admins) == set(SCREENS)
    assert "Make it" in admins["settings"]
    assert set(controls(stand.key("user"))) == {"chat"}
    stand.browser.clear_cookies()


def test_names_from_elsewhere_stay_text(stand: Stand) -> None:
    page = stand.browser.page(stand.url())
    for screen in ("requests", "models", "routing", "now"):
        shown(page, screen)
        assert page.run("document.querySelectorAll('main img, main b').length") == 0
    shown(page, "models")
    assert EVIL in page.text()
    page.run(f"[...document.querySelectorAll('.rowlink')].find((each) => each.innerText === {EVIL!r}).click()")
    page.wait(f"document.querySelector('h1').innerText === {EVIL!r}")
    assert page.run("window.evil") is None
    assert page.complaints == []
    page.close()


def test_a_script_that_got_into_the_page_would_not_run(stand: Stand) -> None:
    page = stand.browser.page(stand.url())
    page.wait("document.querySelector('nav')")
    page.run(
        "(() => { const made = document.createElement('script'); made.textContent = 'window.evil = 1';"
        " document.body.append(made);"
        " document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=window.evil=1>'); })()"
    )
    wait_until(lambda: any("Content Security Policy" in each for each in page.complaints), "the policy says so")
    settle(page)
    assert page.run("window.evil") is None
    page.close()


def test_the_keyboard_alone_is_enough(stand: Stand) -> None:
    page = stand.browser.page(stand.url())
    page.wait("document.querySelector('nav')")
    for letter, screen in zip("nrmhocs", SCREENS, strict=True):
        page.press("g")
        page.press(letter)
        page.wait(f"location.hash === '#/{screen}'")
        page.run("document.activeElement.blur()")
    page.press("g")
    page.press("r")
    page.wait("document.title.includes('Requests') && document.querySelector('main .rowlink')")
    page.press("/")
    page.wait("document.activeElement.className === 'filter'")
    page.press("g")
    assert page.run("document.activeElement.value") == "g", "letters in fields are letters"
    page.run("document.activeElement.blur()")
    page.press("?")
    page.wait("document.querySelector('dialog[open]')")
    page.press("Escape")
    page.wait("!document.querySelector('dialog[open]')")
    page.run("location.hash = '#/models'")
    page.wait("document.title.includes('Models') && document.querySelector('main .rowlink')")
    page.press("j")
    page.press("j")
    page.press("Enter")
    page.wait("location.hash.startsWith('#/models/')")
    page.close()


def test_a_running_request_is_seen_and_cancelled_with_the_keyboard(stand: Stand) -> None:
    replies: list[Any] = []
    asking = threading.Thread(
        target=lambda: replies.append(stand.gateway.post("/v1/messages", message("echo:hang", stream=True)))
    )
    page = stand.browser.page(stand.url("now"))
    page.wait("document.querySelector('nav')")
    asking.start()
    page.wait("document.querySelector('[data-cancel]')")
    assert page.wait("document.title.startsWith('1 running') || document.body.innerText.includes('place')")
    page.press("x")
    page.wait("document.querySelector('dialog[open] .danger')")
    page.run("document.querySelector('dialog[open] .danger').click()")
    asking.join(20)
    assert b"cancelled by an administrator" in replies[0].body
    page.wait("!document.querySelector('[data-cancel]')")
    page.close()


def test_a_question_outlives_its_row_and_says_what_came_of_it(stand: Stand) -> None:
    """A row moves to another table when its request begins, and goes with it."""
    replies: list[Any] = []
    asking = threading.Thread(
        target=lambda: replies.append(stand.gateway.post("/v1/messages", message("echo:hang", stream=True)))
    )
    page = stand.browser.page(stand.url("now"))
    page.wait("document.querySelector('nav')")
    asking.start()
    page.wait("document.querySelector('main .rowlink')")
    request = page.run("document.querySelector('main .rowlink').getAttribute('href').split('/').at(-1)")
    page.press("x")
    page.wait("document.querySelector('dialog[open] .danger')")
    assert stand.gateway.post(f"/api/requests/{request}/cancel", {}).status == 200
    asking.join(20)
    page.wait("!document.querySelector('[data-cancel]')")
    assert page.run("Boolean(document.querySelector('dialog[open] .danger'))")
    page.run("document.querySelector('dialog[open] .danger').click()")
    page.wait("document.querySelector('dialog[open] [role=alert]')")
    page.press("Escape")
    page.wait("!document.querySelector('dialog[open]')")
    page.close()


def test_a_settings_file_is_changed_looked_at_and_taken_back(stand: Stand) -> None:
    path = stand.folder / "open/config/claude_routing.json"
    page = stand.browser.page(stand.url("routing"))
    section = "document.querySelector('section[aria-label=\"claude_routing.json\"]')"
    page.wait(section)

    def type_text(text: str) -> None:
        page.run(
            f"(() => {{ const area = {section}.querySelector('textarea'); area.value = {text!r};"
            " area.dispatchEvent(new Event('input', {bubbles: true})); })()"
        )

    def click(word: str) -> None:
        button = f"[...{section}.querySelectorAll('button')].find((each) => each.innerText.startsWith({word!r}))"
        page.wait(button)
        page.run(f"{button}.click()")

    type_text('{"tiers": 3}')
    click("Check")
    page.wait(f"{section}.innerText.includes('expected')")
    changed = ROUTING.replace('"opus": "echo"', '"haiku": "echo"')
    type_text(changed)
    click("Check")
    page.wait(f"{section}.querySelector('.diff')")
    click("Write")
    page.wait(f"{section}.innerText.includes('written')")
    assert path.read_text() == changed
    click("Undo")
    page.wait(f"{section}.innerText.includes('as before')")
    assert path.read_text() == ROUTING
    type_text(changed)
    path.write_text("{}\n")
    page.wait(f"{section}.innerText.includes('changed meanwhile')")
    path.write_text(ROUTING)
    page.close()


INFERENCE = '{ "defaults" : {"top_p":0.8,   "seed": 7},\n  "models": {\n    "echo": {}\n  }\n}\n'
EDITS: tuple[tuple[str, list[str], Any, str], ...] = (
    ("", ["defaults", "top_k"], 3, '{\n  "defaults": {\n    "top_k": 3\n  }\n}\n'),
    ('{"a":{"b":1}}', ["a", "b"], None, '{"a":{}}'),
    ('{"a":{"b":1}}', ["a", "c", "d"], True, '{"a":{"b":1, "c": {"d":true}}}'),
    ('{"a":1,\n  "b" : "}\\",{" }', ["b"], "x", '{"a":1,\n  "b" : "x" }'),
    ('{"a":[1, {"b":"]"}], "b":2,"c":3}', ["b"], None, '{"a":[1, {"b":"]"}],"c":3}'),
    ('{"a":1, "b":2}', ["a"], None, '{"b":2}'),
    ('{"a":1, "b":2}', ["none", "at all"], None, '{"a":1, "b":2}'),
    ('{\n\t"a": {\n\t}\n}', ["a", "b"], 0.5, '{\n\t"a": {\n\t  "b": 0.5\n\t}\n}'),
    ('{"a":1,"a":2}', ["a"], 3, '{"a":1,"a":3}'),
)


def test_inference_settings_are_forms_that_change_nothing_else_of_the_file(stand: Stand) -> None:
    path = stand.folder / "open/config/inference_settings.json"
    path.write_text(INFERENCE)
    page = stand.browser.page(stand.url("settings"))
    section = 'section[aria-label="inference_settings.json"]'
    page.wait(f"document.querySelector('{section} input[name=top_p]')?.value === '0.8'")
    module = "import(document.querySelector('script[type=module]').src.replace('app.js', 'jsonedit.js'))"
    for text, way, value, then in EDITS:
        said = "undefined" if value is None else json.dumps(value)
        assert page.run(f"{module}.then((made) => made.edit({json.dumps(text)}, {way}, {said}))") == then

    def change(name: str, value: str) -> None:
        page.run(
            f"(() => {{ const field = document.querySelector('{section} [name={name}]'); field.value = {value!r};"
            " field.dispatchEvent(new Event('change', {bubbles: true})); })()"
        )

    area = f"document.querySelector('{section} textarea[spellcheck]').value"
    change("temperature", "3")
    page.wait(f"{area}.includes('temperature')")
    press(page, "Check", within=section)
    page.wait(f"document.querySelector('{section} [role=alert]')?.innerText.includes('between 0 and 2')")
    change("temperature", "0.5")
    page.wait(f"{area}.includes('0.5')")
    put(page, f"{section} input[name=profile]", "careful")
    press(page, "Add it", within=section)
    page.wait(f"document.querySelector('{section} [name=effort]')")
    change("effort", "high")
    page.wait(f"{area}.includes('high')")
    press(page, "Check", within=section)
    page.wait(f"document.querySelector('{section} .diff')?.innerText.includes('careful')")
    assert path.read_text() == INFERENCE
    press(page, "Write", within=section)
    page.wait(f"document.querySelector('{section}').innerText.includes('written')")
    told = path.read_text()
    assert told.startswith('{ "defaults" : {"top_p":0.8,   "seed": 7, "temperature": 0.5},\n  "models": {\n')
    assert json.loads(told)["profiles"] == {"careful": {"effort": "high"}}
    wait_until(lambda: stand.gateway.get("/api/routing").json["profiles"] == ["careful"], "the gateway reads it")
    press(page, "Undo the last write", within=section)
    page.wait(f"document.querySelector('{section}').innerText.includes('as before')")
    assert path.read_text() == INFERENCE
    assert page.complaints == []
    path.unlink()
    page.close()


def test_a_model_is_fetched_from_the_hub_and_deleted_again(stand: Stand, axe: str) -> None:
    """The hub is a stand-in; the process that fetches is a real one. No Mac is here that says its memory: the page is
    told of three."""
    page = stand.browser.page(stand.url("models"))

    def click(label: str) -> None:
        button = f"[...document.querySelectorAll('button')].find((each) => each.innerText === {label!r})"
        page.wait(button)
        page.run(f"{button}.click()")

    page.wait("document.querySelector('input[name=model]')")
    page.run("document.querySelector('details').open = true")
    page.run("document.querySelector('input[name=words]').value = 'nothing of this name'")
    click("Search")
    page.wait("document.body.innerText.includes('The hub has nothing of this name.')", deadline_s=60.0)
    page.run("document.querySelector('input[name=words]').value = 'model'")
    click("Search")
    press(page, "Look at maker/model")
    page.wait("document.body.innerText.includes('3 files')", deadline_s=60.0)
    page.wait("document.body.innerText.includes('No Mac that is here says how much memory it has.')")
    page.run(
        "(() => { const real = fetch; window.fetch = async (url, more) => { const answer = await real(url, more);"
        f" if (!more?.body?.includes('check')) return answer; const fits = {json.dumps(FITS)};"
        " return new Response(JSON.stringify({ ...await answer.json(), fits })); }; })()"
    )
    press(page, "Look at maker/model")
    fits = "document.querySelector('[aria-label=\"Whether it fits\"]')?.innerText"
    page.wait(f"{fits}?.includes('small: does not fit')", deadline_s=60.0)
    assert "middle: fits with 32,768 tokens: 4.5 GiB of cache beside the weights" in page.run(fits)
    page.run(
        "(() => { const field = document.querySelector('select[name=tokens]'); field.value = '131072';"
        " field.dispatchEvent(new Event('change', {bubbles: true})); })()"
    )
    page.wait(f"{fits}.includes('middle: fits with 40,000 tokens at most: 131,072 tokens take 18.0 GiB of cache')")
    assert "large: fits with 131,072 tokens" in page.run(fits)
    assert violations(page, axe) == []
    click("Fetch it")
    table = "document.querySelector('[aria-label=\"{}\"]')?.innerText"
    page.wait(f"{table.format('Fetched')}?.includes('done')", deadline_s=60.0)
    page.wait(f"{table.format('On disk')}?.includes('maker/model')")
    click("Delete")
    click("Delete it")
    page.wait(f"!{table.format('On disk')}?.includes('maker/model')")
    assert page.complaints == []
    page.close()


POINTS = [{"at": at, "first_s": at / 800, "tokens_per_s": 800.0, "is_beside": at > 1000} for at in (260, 1030, 4100)]
RATES = [{"at": at, "first_s": 0.2, "tokens_per_s": 30.0 * at, "is_beside": False} for at in (1, 2, 4)]
SPEEDS: dict[str, dict[str, Any]] = {
    "empty": {},
    "running": {"state": "running", "began_s": 1.0, "steps": 7, "done": 1, "prefill": POINTS[:1], "decode": []},
    "partial": {"state": "cancelled", "began_s": 1.0, "steps": 7, "done": 5, "missing": 1, "prefill": POINTS,
                "decode": RATES[:1]},
    "failed": {"state": "failed", "began_s": 1.0, "steps": 7, "done": 3, "prefill": POINTS, "decode": [],
               "reason": f"the worker died {EVIL}"},
    "done": {"state": "done", "began_s": 1.0, "steps": 6, "done": 6, "prefill": POINTS, "decode": RATES},
}  # fmt: skip


CACHE_FILE = '{ "cache_max_tokens":  32768 }\n'
HELD = {
    "models": {
        "held": {"hosts": {"mac": {}}, "workers": {"mac.held.1": {"host": "mac", "state": "ready"}}},
        "by hand": {"hosts": {}, "workers": {"mac.by-hand.1": {"host": "mac", "state": "ready"}}},
        "elsewhere": {"hosts": {"mini": {}}, "workers": {"mini.elsewhere.1": {"host": "mini", "state": "ready"}}},
    }
}
JOINED = {"hosts": {"mac": {"joined": ""}, "mini": {"joined": "2026-11-30"}}}


def test_cache_variables_are_a_form_that_says_who_has_set_each_and_writes_the_file(stand: Stand, axe: str) -> None:
    path = stand.folder / "open/config/cache_settings.json"
    path.write_text(CACHE_FILE)
    page = stand.browser.page(stand.url("settings"))
    section = 'section[aria-label="cache_settings.json"]'
    field = f"document.querySelector('{section} [name={{}}]')"

    def change(name: str, value: str) -> None:
        page.run(
            f"(() => {{ const field = {field.format(name)}; field.value = {value!r};"
            " field.dispatchEvent(new Event('change', {bubbles: true})); })()"
        )

    def row(variable: str, value: str, by: str) -> None:
        cells = "[...document.querySelectorAll('[aria-label=\"Cache variables\"] tr')].map((each) => each.innerText)"
        page.wait(f"{cells}.some((each) => each.startsWith({variable + chr(9) + value!r}) && each.endsWith({by!r}))")

    row("MLX_CACHE_MAX_SLOTS", "4 conversations", "default")
    row("MLX_CACHE_MAX_TOKENS", "32,768 tokens", "cache_settings.json")
    row("MLX_GATEWAY_CACHE_BITS", "8 bits", "the environment")
    page.wait(f"{field.format('cache_max_tokens')}?.value === '32768'")
    assert page.run(f"{field.format('cache_bits')}.disabled")
    assert "MLX_GATEWAY_CACHE_BITS (the environment)" in page.text()
    assert "it starts: one that runs goes on with what it began with" in page.text()
    area = f"document.querySelector('{section} textarea').value"
    change("ssd_cache_bytes", "-2")
    page.wait(f"{area}.includes('ssd_cache_bytes')")
    press(page, "Check", within=section)
    page.wait(f"document.querySelector('{section} [role=alert]')?.innerText.includes('from -1')")
    change("ssd_cache_bytes", "")
    page.wait(f"!{area}.includes('ssd_cache_bytes')")
    change("cache_max_slots", "6")
    page.wait(f"{area}.includes('cache_max_slots')")
    press(page, "Check", within=section)
    page.wait(f"document.querySelector('{section} .diff')?.innerText.includes('cache_max_slots')")
    assert path.read_text() == CACHE_FILE
    assert violations(page, axe) == []
    press(page, "Write", within=section)
    page.wait(f"document.querySelector('{section}').innerText.includes('written')")
    assert path.read_text() == '{ "cache_max_tokens":  32768, "cache_max_slots": 6 }\n'
    row("MLX_CACHE_MAX_SLOTS", "6 conversations", "cache_settings.json")
    press(page, "Undo the last write", within=section)
    page.wait(f"document.querySelector('{section}').innerText.includes('as before')")
    assert path.read_text() == CACHE_FILE
    row("MLX_CACHE_MAX_SLOTS", "4 conversations", "default")
    path.write_text('{"cache_bits": 8}\n')
    page.wait(f"{area}.includes('cache_bits')")
    assert page.complaints == []
    path.unlink()
    page.close()


def test_workers_that_a_host_holds_are_started_anew_from_beside_the_cache_variables(stand: Stand) -> None:
    """The page is told of one that a host here holds, of one that was started by hand, and of one of another Mac."""
    page = stand.browser.page(stand.url("settings"))
    page.wait("document.querySelector('section[aria-label=\"cache_settings.json\"]')")
    module = "import(document.querySelector('script[type=module]').src.replace('app.js', '{}'))"
    page.run(
        "(() => { window.asked = []; const real = fetch; window.fetch = async (url, more) => {"
        " if (!String(url).startsWith('/admin/')) return real(url, more);"
        ' window.asked.push(`${more.method} ${url}`); return new Response(\'{"done": "it drains"}\'); }; })()'
    )
    page.run(
        f"Promise.all([{module.format('variables.js')}, {module.format('vendor/preact.js')},"
        " fetch('/api/about').then((each) => each.json()), fetch('/api/routing').then((each) => each.json())])"
        ".then(([{ CacheVariables }, { html, render }, about, routing]) => {"
        f" const live = {{ states: {{ routing, ...{json.dumps({'models': HELD, 'hosts': JOINED})} }}, errors: {{}} }};"
        " const box = document.createElement('div'); box.id = 'told'; document.querySelector('main').append(box);"
        " render(html`<${CacheVariables} about=${about} live=${live} mayWrite=${true} />`, box); })"
    )
    buttons = "[...document.querySelectorAll('#told [aria-label^=\"Start \"]')].map((each) => each.ariaLabel)"
    page.wait(f"{buttons}.length")
    assert page.run(buttons) == ["Start held on mac anew"]
    press(page, "Start held on mac anew", within="#told")
    press(page, "Start it anew", within="dialog[open]")
    page.wait("document.querySelector('#told').innerText.includes('it drains')")
    assert page.run("window.asked") == ["POST /admin/drain/mac.held.1"]
    assert page.complaints == []
    page.close()


def test_the_speed_of_a_model_is_tested_and_drawn(stand: Stand) -> None:
    """By real requests, here at an echo worker."""
    page = stand.browser.page(stand.url("models/echo"))
    page.wait("document.body.innerText.includes('requests in the lowest class, at most')")
    assert "Its speed was not tested yet." in page.text()
    press(page, "Test its speed")
    page.wait(
        "document.querySelectorAll('main figure').length === 3 && document.body.innerText.includes('Test it again')"
    )
    page.wait("document.querySelectorAll('main figure canvas').length === 3")
    press(page, "As a table")
    table = "document.querySelector('main figure table')?.innerText"
    page.wait(f"{table}?.includes('first token')")
    assert page.complaints == []
    page.close()


@pytest.mark.parametrize("theme", THEMES)
def test_every_state_of_a_speed_test_is_fit_for_everybody(stand: Stand, axe: str, theme: str) -> None:
    """The page is told of each: some last for moments, others need a worker that dies."""
    page = stand.browser.page()
    page.theme(theme)
    page.go(stand.url("about"))
    page.wait("document.querySelector('nav')")
    module = "import(document.querySelector('script[type=module]').src.replace('app.js', '{}'))"
    page.run(  # the console goes, or a screen that is still loaded draws its own charts among these
        f"{module.format('vendor/preact.js')}.then(({{ render }}) => {{ const root = document.getElementById('app');"
        " render(null, root); root.append(document.createElement('main')); })"
    )
    for state, test in SPEEDS.items():
        live = {"states": {"speed": {"tests": {"m": test} if test else {}}}, "errors": {}}
        page.run(
            f"Promise.all([{module.format('speed.js')}, {module.format('vendor/preact.js')}])"
            ".then(([{ Speed }, { html, render }]) => { const main = document.querySelector('main');"
            " main.innerHTML = '<h1>A model</h1><div></div>';"
            f" render(html`<${{Speed}} live=${{{json.dumps(live)}}} id='m' mayWrite=${{false}} />`,"
            " main.lastElementChild); })"
        )
        charts = 2 * bool(test.get("prefill")) + bool(test.get("decode"))
        page.wait(f"document.querySelectorAll('main canvas').length === {charts}")
        assert violations(page, axe) == [], state
        page.size(320, 700)
        assert page.run("document.scrollingElement.scrollWidth") <= 320, state
        page.size(1280, 900)
        assert page.run("document.querySelectorAll('main img').length") == 0
    assert "During 2 of these steps" in page.text()
    assert page.complaints == []
    page.close()


def test_kept_prefixes_are_seen_as_a_tree_and_dropped(stand: Stand) -> None:
    page = stand.browser.page(stand.url("cache"))
    tree = "document.querySelector('section[aria-label^=\"Kept by echo\"]')"
    page.wait(f"{tree}?.innerText.includes('parts into')")
    sessions = page.run(f"[...{tree}.querySelectorAll('code')].map((each) => each.innerText)")
    doomed = next(each for each in sessions if " " not in each)
    press(page, f"Drop the session {doomed}")
    press(page, "Drop it", within="dialog[open]")
    page.wait("!document.querySelector('dialog[open]')")
    page.wait(f"![...{tree}.querySelectorAll('code')].some((each) => each.innerText === {doomed!r})")
    assert any(each != doomed for each in sessions)
    top = page.run(f"{tree}.querySelector('button[aria-label]').getAttribute('aria-label')")
    press(page, top, within='section[aria-label^="Kept by echo"]')
    press(page, "Drop it", within="dialog[open]")
    page.wait("!document.querySelector('dialog[open]')")
    page.wait(f"![...{tree}.querySelectorAll('button')].some((each) => each.getAttribute('aria-label') === {top!r})")
    assert page.complaints == []
    page.close()


def press(page: Page, words: str, *, within: str = "main") -> None:
    """The button of this name, once it is there and may be pressed."""
    named = f"(each.getAttribute('aria-label') || each.innerText) === {words!r} && !each.disabled"
    button = f"[...document.querySelectorAll('{within} button')].find((each) => {named})"
    page.wait(button)
    page.run(f"{button}.click()")


CODES = {
    "mlx-gateway join studio.local 7Q2M-XK4D-9TRW-B6HN-3FJC-8PVY-5ZGA-1LES": (
        33,
        "42db95600ba71f5769b0f6d8b8a61e8ae9cee04912b82b376a16c2d99f612fc3",
    ),
    "x" * 180: (49, "a94cd50c58a7e979a123589a13d9f21d7b222b9d254b48f977de3e1b3b7d2f98"),  # in blocks, with its version
}


def test_the_line_to_join_with_is_shown_as_a_code_to_photograph(stand: Stand) -> None:
    """The digests are of codes that a reader of its own (zxing-cpp 3) has read as these texts. No stack runs here that
    could make a line: the page is told one."""
    page = stand.browser.page(stand.url("settings"))
    page.wait("document.querySelector('section[aria-label=\"inference_settings.json\"]')")
    module = "import(document.querySelector('script[type=module]').src.replace('app.js', 'qr.js'))"
    for text, (size, digest) in CODES.items():
        rows = page.run(
            f"{module}.then((made) => made.encode({text!r}).map((row) => row.map(Number).join('')).join('\\n'))"
        )
        assert (len(rows.split("\n")), hashlib.sha256(rows.encode()).hexdigest()) == (size, digest)
    assert page.run(f"{module}.then((made) => made.encode('x'.repeat(272)))") is None
    page.run(
        "(() => { const real = fetch; window.fetch = (url, more) => (url === '/api/hosts'"
        ' ? Promise.resolve(new Response(\'{"line": "mlx-gateway join studio", "hint": "type it there"}\'))'
        " : real(url, more)); })()"
    )
    press(page, "Make a join code")
    press(page, "Show as a QR code", within="dialog[open]")
    page.wait("document.querySelector('dialog[open] svg.qr path')?.getAttribute('d').length > 1000")
    press(page, "Close", within="dialog[open]")
    page.wait("!document.querySelector('dialog[open]')")
    assert page.complaints == []
    page.close()


def test_chat_streams_an_answer_in_both_dialects(stand: Stand) -> None:
    page = stand.browser.page(stand.url("chat"))
    page.wait("document.querySelector('nav') && document.querySelector('main form textarea')")
    page.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    for dialect in ("anthropic", "openai"):
        page.run(
            f"(() => {{ const chosen = document.querySelector('main select'); chosen.value = '{dialect}';"
            " chosen.dispatchEvent(new Event('change', {bubbles: true}));"
            " const model = document.querySelector('input[list]'); model.value = 'echo';"
            " model.dispatchEvent(new Event('input', {bubbles: true})); })()"
        )
        page.run(
            "(() => { const area = document.querySelector('main > form textarea');"
            f" area.value = 'echo:think a while\\nwords of {dialect}';"
            " area.dispatchEvent(new Event('input', {bubbles: true})); })()"
        )
        page.wait(f"document.querySelector('main > form textarea').value.includes('{dialect}')")
        page.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        page.run("document.querySelector('main > form').requestSubmit()")
        page.wait(
            f"document.querySelector('.assistant:last-of-type .said:not(details *)')?.innerText.includes('{dialect}')"
        )
        page.wait("[...document.querySelectorAll('.assistant')].at(-1).innerText.includes('tokens in')")
        assert "Reasoning" in page.run("[...document.querySelectorAll('.assistant')].at(-1).innerText")
        assert page.run("document.querySelectorAll('.assistant p.bad').length") == 0
    page.close()


def put(page: Page, field: str, text: str) -> None:
    """Into a field, as typing does, and until the page has drawn it."""
    page.wait(f"document.querySelector({field!r})")
    page.run(
        f"(() => {{ const field = document.querySelector({field!r}); field.value = {text!r};"
        " field.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )
    page.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def say(page: Page, text: str) -> None:
    put(page, "main > form textarea", text)
    press(page, "Send")


@pytest.mark.parametrize("dialect", ["anthropic", "openai"])
def test_chat_calls_tools_shows_images_keeps_versions_and_copies_itself_as_code(
    stand: Stand, axe: str, dialect: str
) -> None:
    """The copied Python is run with the vendor's own package."""
    page = stand.browser.page(stand.url("chat"))
    page.wait("document.querySelector('main select') && document.querySelector('main > form textarea')")
    page.run("document.querySelector('main details').open = true")
    page.run(
        f"(() => {{ const chosen = document.querySelector('main select'); chosen.value = '{dialect}';"
        " chosen.dispatchEvent(new Event('change', {bubbles: true})); })()"
    )
    put(page, "input[list=models]", "echo")
    put(page, "textarea.tools", '[{"name": 3')
    page.wait("document.body.innerText.includes('These tools cannot be used')")
    put(page, "textarea.tools", "")
    page.run(
        "(() => { const chosen = [...document.querySelectorAll('main select')].at(-1); chosen.value = 'weather';"
        " chosen.dispatchEvent(new Event('change', {bubbles: true})); })()"
    )
    page.wait("document.querySelector('main summary').innerText.includes('1 tool')")
    say(page, 'call get_weather {"place": "Rome"}')
    page.wait("document.querySelector('.call')?.innerText.includes('Rome')")
    page.wait("document.querySelector('form.results textarea')")
    assert violations(page, axe) == []
    press(page, "Give the result")
    page.wait("[...document.querySelectorAll('.assistant .said')].at(-1)?.innerText.includes('Sunny, 21 degrees.')")
    page.wait("[...document.querySelectorAll('.assistant')].at(-1).innerText.includes('tokens in')")

    press(page, "Edit from here")
    page.wait("document.querySelector('main > form textarea').value.includes('Rome')")
    say(page, "another way to say it")
    page.wait("document.querySelector('.versions')?.innerText.includes('version 2 of 2')")
    page.wait("[...document.querySelectorAll('.assistant')].at(-1).innerText.includes('tokens in')")
    assert page.run("document.querySelectorAll('.call').length") == 0
    assert run_copied(page).startswith("another way to say it")
    press(page, "Version before")
    page.wait("document.querySelector('.call')?.innerText.includes('Rome')")
    assert run_copied(page).startswith("Sunny, 21 degrees.")

    page.run(
        "(() => { const held = new DataTransfer(); const dot = Uint8Array.from(atob('"
        + DOT
        + "'), (each) => each.charCodeAt(0)); held.items.add(new File([dot], 'dot.png', {type: 'image/png'}));"
        " const field = document.querySelector('input[type=file]'); field.files = held.files;"
        " field.dispatchEvent(new Event('change', {bubbles: true})); })()"
    )
    page.wait("document.querySelector('main > form .images img')?.naturalWidth === 1")
    page.wait("document.body.innerText.includes('echo was not found to read images')")
    page.run(
        "(() => { const real = fetch; window.fetch = (url, more) => { window.sent = more?.body; return real(url, more);"
        " }; })()"
    )
    say(page, "what is in it?")
    page.wait("document.querySelector('.user .images img')?.alt === 'dot.png'")
    page.wait("[...document.querySelectorAll('.assistant .said')].at(-1)?.innerText.includes('what is in it?')")
    parts = page.run("JSON.parse(window.sent).messages.at(-1).content.map((each) => each.type)")
    assert parts == ["image" if dialect == "anthropic" else "image_url", "text"]
    assert page.complaints == []
    page.close()


def as_fetched(page: Page, test: str, answer: str) -> None:
    """From here on the page is told `answer`, an expression, where `test` of `url` and `more` says so."""
    page.run(
        "(() => { const real = fetch; window.fetch = async (url, more) => "
        f"({test}) ? ({answer}) : real(url, more); }})()"
    )


def test_what_is_typed_while_a_file_is_checked_or_written_is_not_lost(stand: Stand) -> None:
    path = stand.folder / "open/config/claude_routing.json"
    page = stand.browser.page(stand.url("routing"))
    section = 'section[aria-label="claude_routing.json"]'
    changed, more = ROUTING.replace('"opus": "echo"', '"haiku": "echo"'), ROUTING.replace('"opus"', '"sonnet"')
    page.wait(f"document.querySelector('{section} textarea')")
    page.run("void (window.held = new Promise((done) => { window.release = done; }))")
    as_fetched(page, "url.endsWith('/check') || more?.method === 'PUT'", "(await window.held, real(url, more))")
    put(page, f"{section} textarea", changed)
    press(page, "Check", within=section)
    put(page, f"{section} textarea", more)
    page.run("window.release()")
    page.wait(f"document.querySelector('{section}').innerText.includes('changed since: check again')")
    assert not page.run(f"Boolean(document.querySelector('{section} .diff'))"), "no difference of another text"
    press(page, "Check", within=section)
    page.wait(f"document.querySelector('{section} .diff')")
    page.run("void (window.held = new Promise((done) => { window.release = done; }))")
    press(page, "Write", within=section)
    put(page, f"{section} textarea", changed)
    page.run("window.release()")
    page.wait(f"document.querySelector('{section}').innerText.includes('Undo the last write')")
    assert path.read_text() == more
    assert page.run(f"document.querySelector('{section} textarea').value") == changed
    press(page, "Discard", within=section)
    press(page, "Undo the last write", within=section)
    page.wait(f"document.querySelector('{section}').innerText.includes('as before')")
    assert path.read_text() == ROUTING
    page.close()


def test_a_write_that_is_told_before_it_is_answered_is_no_edit_from_elsewhere(stand: Stand) -> None:
    page = stand.browser.page(stand.url("routing"))
    section = 'section[aria-label="claude_routing.json"]'
    text = f"document.querySelector('{section}').innerText"
    page.run("void (window.held = new Promise((done) => { window.release = done; }))")
    as_fetched(page, "more?.method === 'PUT'", "real(url, more).then((said) => window.held.then(() => said))")
    put(page, f"{section} textarea", ROUTING.replace('"opus": "echo"', '"haiku": "echo"'))
    press(page, "Check", within=section)
    press(page, "Write", within=section)
    page.wait(f"{text}.includes('changed meanwhile')")
    page.run("window.release()")
    page.wait(f"{text}.includes('written') && !{text}.includes('changed meanwhile')")
    press(page, "Undo the last write", within=section)
    page.wait(f"{text}.includes('as before') && !{text}.includes('changed meanwhile')")
    assert (stand.folder / "open/config/claude_routing.json").read_text() == ROUTING
    page.close()


RULES = [
    {"asked": ["opus", "gpt-4o"], "least_prompt_bytes": 400000, "model": "long"},
    {"classes": ["side", "batch"], "tools": False, "model": "echo"},
    {"images": True, "tools": True, "most_prompt_bytes": 9, "model": "echo"},
]
TOLD_RULES = [
    ["1", "opus, gpt-4o", "400,000 bytes of prompt or more", "long"],
    ["2", "any name of a vendor's own", "of class side or batch, without tools", "echo"],
    ["3", "any name of a vendor's own", "with tools, with images, 9 bytes of prompt at most", "echo"],
]


def test_rules_are_a_list_in_their_order_from_which_the_keyboard_leads_to_the_file(stand: Stand, axe: str) -> None:
    path = stand.folder / "open/config/claude_routing.json"
    page = stand.browser.page(stand.url("routing"))
    page.wait("document.body.innerText.includes('No rule: who answers does not depend on')")
    path.write_text(json.dumps({"rules": RULES}))
    rows = "[...document.querySelectorAll('[aria-label=Rules] tbody tr')].map((each) => each.innerText.split('\\t'))"
    page.wait(f"{rows}.length === 3")
    assert page.run(rows) == TOLD_RULES
    assert page.run("document.querySelector('[aria-label=Rules]').tabIndex") == 0
    assert violations(page, axe) == []
    button = "[...document.querySelectorAll('main button')].find((each) => each.innerText.startsWith('Edit them'))"
    page.run(f"{button}.focus()")
    page.press("Enter")
    page.wait("document.activeElement.closest('section')?.ariaLabel === 'claude_routing.json'")
    assert page.run("document.activeElement.tagName") == "TEXTAREA"
    path.write_text(ROUTING)
    page.wait("document.body.innerText.includes('No rule: who answers does not depend on')")
    assert page.complaints == []
    page.close()


def answer_late(page: Page, test: str, answers: Sequence[object]) -> None:
    """From here on the page gets the first of `answers` where `test` of `url` and `more` says so, and the others at
    once: the first comes when `window.release()` is called, and `window.isOver` when the page has drawn what it made of
    that."""
    page.run(
        "(() => { const real = fetch; let asked = 0; window.isOver = false;"
        " const held = new Promise((done) => { window.release = done; });"
        " const drawn = () => requestAnimationFrame(() => requestAnimationFrame(() => { window.isOver = true; }));"
        f" const answers = {json.dumps(answers)};"
        f" window.fetch = async (url, more) => {{ if (!({test})) return real(url, more);"
        " const mine = asked; asked += 1;"
        " if (mine === 0) await held;"
        " return { ok: true, json: async () => { if (mine === 0) setTimeout(drawn); return answers[mine]; } }; }; })()"
    )


def test_a_name_that_is_tried_is_told_with_its_own_answer_in_whatever_order_they_come(stand: Stand) -> None:
    page = stand.browser.page(stand.url("routing"))
    page.wait("document.querySelector('main form input')")
    told = [{"model": name, "profile": "", "workers": []} for name in ("slow", "quick")]
    answer_late(page, "url.startsWith('/api/names')", told)
    for name in ("first", "second"):
        put(page, "main form input", name)
        press(page, "Try")
    status = "document.querySelector('main form [role=status]').innerText"
    page.wait(f"{status}.includes('second stands for quick')")
    page.run("window.release()")
    page.wait("window.isOver")
    assert page.run(status).startswith("second stands for quick")
    page.close()


def test_a_model_that_is_looked_at_is_the_one_that_was_asked_for_last(stand: Stand) -> None:
    page = stand.browser.page(stand.url("models"))
    page.wait("document.querySelector('input[name=model]')")
    page.run("document.querySelector('details').open = true")
    told = [{"lines": [f"{name}: 3 files"], "fits": [], "model": name} for name in ("slow", "quick")]
    answer_late(page, "more?.body?.includes('check')", told)
    for name in ("maker/slow", "maker/quick"):
        put(page, "input[name=model]", name)
        press(page, "Look")
    page.wait("document.querySelector('main details .card')?.innerText.includes('quick: 3 files')")
    page.run("window.release()")
    page.wait("window.isOver")
    assert "quick: 3 files" in page.run("document.querySelector('main details .card').innerText")
    page.close()


def test_what_the_hub_has_is_that_of_the_last_search(stand: Stand) -> None:
    """Enter searches again while the button waits."""
    page = stand.browser.page(stand.url("models"))
    page.wait("document.querySelector('input[name=words]')")
    page.run("document.querySelector('details').open = true")
    told = [{"models": [{"model": name, "kind": "mlx", "downloads": 1, "changed": ""}]} for name in ("slow", "quick")]
    answer_late(page, "url === '/api/models/hub'", told)
    for words in ("first", "second"):
        put(page, "input[name=words]", words)
        page.run(
            "document.querySelector('input[name=words]').form"
            ".dispatchEvent(new Event('submit', {bubbles: true, cancelable: true}))"
        )
    table = "document.querySelector('[aria-label=\"Found on the hub\"]')?.innerText"
    page.wait(f"{table}?.includes('quick')")
    page.run("window.release()")
    page.wait("window.isOver")
    assert "quick" in page.run(table)
    assert "slow" not in page.run(table)
    page.close()


def test_what_is_shown_once_can_be_copied_and_where_it_cannot_that_is_said(stand: Stand) -> None:
    """A field beside an open dialog cannot be selected: what was copied was nothing. Whether the browser's clipboard
    has it is not seen here."""
    page = stand.browser.page(stand.url("settings"))
    page.wait("document.querySelector('section[aria-label=\"inference_settings.json\"]')")
    as_fetched(page, "url === '/api/hosts'", 'new Response(\'{"line": "mlx-gateway join x", "hint": "there"}\')')
    page.run("document.execCommand = () => { window.copied = document.activeElement.value; return true; }")
    press(page, "Make a join code")
    press(page, "Copy", within="dialog[open]")
    page.wait("document.querySelector('dialog[open]').innerText.includes('copied')")
    assert page.run("window.copied") == "mlx-gateway join x"
    page.run("document.execCommand = () => false")
    press(page, "Copy", within="dialog[open]")
    page.wait("document.querySelector('dialog[open] [role=alert]')?.innerText.includes('lets nothing be copied')")
    page.close()


def test_an_answer_that_breaks_off_and_a_list_that_cannot_be_read_are_told(stand: Stand) -> None:
    page = stand.browser.page(stand.url("chat"))
    page.wait("document.querySelector('main > form textarea')")
    begun = 'data: {"type": "content_block_delta", "index": 0, "delta": {"text": "Once upon"}}\\n\\n'
    as_fetched(page, "url === '/v1/messages'", f"new Response('{begun}')")
    say(page, "a tale")
    page.wait("document.querySelector('.assistant [role=alert]')?.innerText.includes('the answer broke off')")
    assert "Once upon" in page.text()
    as_fetched(page, "url === '/v1/models'", 'new Response(\'{"error": {"message": "no"}}\', { status: 503 })')
    page.run(
        "Promise.all(['chat.js', 'vendor/preact.js'].map((name) =>"
        " import(document.querySelector('script[type=module]').src.replace('app.js', name))))"
        ".then(([{ Chat }, { html, render }]) => { document.querySelector('main').innerHTML = '<div></div>';"
        " render(html`<${Chat} live=${{ states: {}, errors: {} }} role='user' />`,"
        " document.querySelector('main').lastElementChild); })"
    )
    page.wait("document.querySelector('main [role=alert]')?.innerText.includes('could not be read: no')")
    page.close()


def test_images_that_are_picked_while_others_are_read_are_all_there(stand: Stand) -> None:
    page = stand.browser.page(stand.url("chat"))
    page.wait("document.querySelector('input[type=file]')")
    page.run(
        f"for (const name of ['a.png', 'b.png']) {{ const held = new DataTransfer(); held.items.add(new File(['{DOT}'],"
        " name, {type: 'image/png'})); const field = document.querySelector('input[type=file]');"
        " field.files = held.files; field.dispatchEvent(new Event('change', {bubbles: true})); }"
    )
    page.wait("document.querySelectorAll('main > form .images li').length === 2")
    page.close()


def test_who_cannot_be_signed_out_is_told(stand: Stand) -> None:
    stand.browser.clear_cookies()
    page = stand.browser.page(stand.url("settings", stand.keyed))
    page.wait("document.querySelector('input[type=password]')")
    sign_in(page, KEYED)
    page.wait("document.querySelector('nav')")
    shown(page, "settings")
    as_fetched(page, "more?.method === 'DELETE'", "Promise.reject(new Error('away'))")
    press(page, "Sign out")
    page.wait("[...document.querySelectorAll('main [role=alert]')].some((each) => each.innerText.includes('reached'))")
    page.close()
    stand.browser.clear_cookies()


def run_copied(page: Page) -> str:
    page.run(
        "document.execCommand = () => { window.copied = document.querySelector('textarea.offscreen').value;"
        " return true; }"
    )
    page.run("window.copied = ''")
    press(page, "Python")
    page.wait("window.copied")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(page.run("window.copied"), "copied", "exec"), {})
    return printed.getvalue()


def test_ten_tabs_of_a_browser_share_one_stream_and_its_buttons_answer(stand: Stand) -> None:
    def streams() -> int:
        return len(re.findall(r"comes: GET /api/events\?topics=models,routing\b", stand.gateway.process.output()))

    before = streams()
    pages = [stand.browser.page() for _ in range(10)]
    for number, page in enumerate(pages):
        page.send("Emulation.setFocusEmulationEnabled", enabled=True)  # else tabs behind others are hidden
        page.go(stand.url("models" if number % 2 else "routing"))
    for page in pages:
        page.wait("document.querySelector('.state.ok') && !document.querySelector('.skeleton')")
    took_ms = pages[-1].run(
        "(async () => { const t = performance.now(); await fetch('/api/about'); return performance.now() - t; })()"
    )
    assert took_ms is not None, "a seventh stream would have kept all six connections"
    assert streams() - before <= 2
    for page in pages:
        page.close()
