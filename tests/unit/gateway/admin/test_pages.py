"""The page: light enough, whole, nothing from elsewhere; its files are answered by name alone."""

from __future__ import annotations

import asyncio
import gzip
import os
import re
from pathlib import Path
from typing import Any

import pytest

from gateway import silero
from gateway.admin import pages
from gateway.admin.pages import Files, Home, Page
from shared.errors import RouteNotFoundError
from tests.support.stand_in_silero import write_silero

FOLDER = Path(pages.__file__).parent / "page"
BUDGET_BYTES = 150_000
SOURCES = {path.relative_to(FOLDER).as_posix(): path.read_text() for path in FOLDER.rglob("*") if path.is_file()}
OWN = {name: text for name, text in SOURCES.items() if not name.startswith("vendor/")}


def ask(app: Any, path: str = "", **headers: str) -> tuple[int, dict[str, str], bytes]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def main() -> None:
        pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        await app({"method": "GET", "headers": pairs, "path_params": {"id": path}}, None, send)

    asyncio.run(main())
    told = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], told, sent[1]["body"]


SCREENS = ("now", "requests", "models", "chat", "routing", "cache", "settings")
AT_START = ("index.html", "icon.svg", "style.css", "app.js", "worker.js", "vendor/uplot.js", "vendor/uplot.css")


def loaded(*names: str) -> set[str]:
    """With all that they import when they are loaded, and not what they load when it is asked for."""
    found: set[str] = set()
    left = list(names)
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            folder = name.rpartition("/")[0]
            others = re.findall(r'from "\./([^"]+)"', SOURCES[name])
            left += [f"{folder}/{other}" if folder else other for other in others]
    return found


def weight(names: set[str]) -> int:
    return sum(len(SOURCES[name].encode()) for name in names)


def test_the_start_with_any_of_its_screens_weighs_less_than_150_kb() -> None:
    """Dialogs and tools that a screen loads when somebody asks for them come on top: docs/console.md has all of it."""
    weights = {screen: weight(loaded(*AT_START, f"{screen}.js")) for screen in SCREENS}
    assert all(each <= BUDGET_BYTES for each in weights.values()), weights
    start = loaded(*AT_START)
    assert not start & {f"{screen}.js" for screen in SCREENS}, "a screen is loaded when it is first shown"
    assert not any("voice/" in SOURCES[name] for name in start), "voice is a document of its own"
    assert all(f'import("./{screen}.js")' in SOURCES["app.js"] for screen in SCREENS)


def test_the_weights_that_the_documentation_tells_are_about_those() -> None:
    told = (FOLDER.parents[2] / "docs" / "console.md").read_text()
    found = re.search(r"(\d+) KB at the start, at most (\d+) KB with a screen, (\d+) KB in all", told)
    assert found
    everything = weight({name for name in SOURCES if name != "vendor/licences.txt" and not name.startswith("voice")})
    heaviest = max(weight(loaded(*AT_START, f"{screen}.js")) for screen in SCREENS)
    for number, real in zip(found.groups(), (weight(loaded(*AT_START)), heaviest, everything), strict=True):
        assert abs(int(number) - real / 1000) < 3, (number, real)


def test_the_page_names_nothing_of_anybody_elses_and_holds_no_script_or_style() -> None:
    for name, text in OWN.items():
        assert not re.search(r"https?://(?!www\.w3\.org/|\$\{hostname\})", text), name
    for document in ("index.html", "voice.html"):
        assert not re.search(r"<script>|<style>|style=|\son\w+=", SOURCES[document])
    assert not any(
        re.search(r"innerHTML|insertAdjacentHTML|dangerouslySet|\beval\b|new Function", t) for t in OWN.values()
    )


def test_every_module_that_is_imported_is_there() -> None:
    for name, text in OWN.items():
        for other in re.findall(r'(?:from |import\(|URL\()"(\.\.?/[^"]+)"', text):
            path = os.path.normpath(Path(name).parent / other)
            assert path in SOURCES or path == "silero", f"{name} imports {other}"  # a person fetches that folder
    for document in ("index.html", "voice.html"):
        for other in re.findall(r'/console/\{version\}/([^"]+)"', SOURCES[document]):
            assert other in SOURCES
    assert all(words in SOURCES["vendor/licences.txt"] for words in ("Jason Miller", "Leon Sorokin", "Apache License"))


def test_files_are_packed_and_kept_by_browsers_under_a_name_that_changes_with_them(tmp_path: Path) -> None:
    page = Page()
    _, told, body = ask(Home(page), accept="text/html")
    version = re.findall(rb"/console/(\w+)/app.js", body)[0].decode()
    status, told, body = ask(Files(page, tmp_path), f"{version}/app.js", accept_encoding="gzip, br")
    assert (status, told["content-type"]) == (200, "text/javascript; charset=utf-8")
    assert "immutable" in told["cache-control"]
    assert gzip.decompress(body) == SOURCES["app.js"].encode()
    _, told, body = ask(Files(page, tmp_path), "another/app.js")
    assert (told["cache-control"], body) == ("no-cache", SOURCES["app.js"].encode())
    assert told["content-security-policy"].startswith("default-src 'none'")


@pytest.mark.parametrize("name", ["v/../api.py", "v//etc/passwd", "v/nothing", "v/", "v", "", "v/vendor", "v/app.js/"])
def test_what_is_no_file_of_the_page_is_not_there(name: str, tmp_path: Path) -> None:
    with pytest.raises(RouteNotFoundError):
        ask(Files(Page(), tmp_path), name)


def test_only_the_thread_of_silero_may_run_webassembly(tmp_path: Path) -> None:
    files = Files(Page(), tmp_path)
    policies = {name: ask(files, f"v/{name}")[1]["content-security-policy"] for name in SOURCES}
    assert [name for name, policy in policies.items() if "wasm" in policy] == ["voice/silero_worker.js"]
    special = policies["voice/silero_worker.js"]
    assert special.replace(" 'wasm-unsafe-eval'", "") == policies["voice.html"]


@pytest.mark.parametrize("name", sorted(silero.NAMES))
def test_sileros_files_are_served_once_they_were_fetched_and_before_the_line_that_fetches_them_is_told(
    name: str, tmp_path: Path
) -> None:
    files = Files(Page(), tmp_path)
    with pytest.raises(RouteNotFoundError, match="`mlx-gateway detector`"):
        ask(files, f"v/silero/{name}")
    write_silero(tmp_path)
    status, told, body = ask(files, f"v/silero/{name}")
    assert (status, body) == (200, (silero.folder_of(tmp_path) / name).read_bytes())
    types = {".mjs": "text/javascript; charset=utf-8", ".wasm": "application/wasm", ".onnx": "application/octet-stream"}
    assert told["content-type"] == types[Path(name).suffix]
    assert "wasm" not in told["content-security-policy"]


@pytest.mark.parametrize("name", ["", "..", "../secret", "/etc/passwd", "ort.wasm.min.mjs/", "other.onnx"])
def test_of_sileros_folder_nothing_else_is_served(name: str, tmp_path: Path) -> None:
    write_silero(tmp_path)
    for place in (silero.folder_of(tmp_path), silero.folder_of(tmp_path).parent):
        (place / "secret").write_text("s")
        (place / "other.onnx").write_text("s")
    with pytest.raises(RouteNotFoundError):
        ask(Files(Page(), tmp_path), f"v/silero/{name}")
