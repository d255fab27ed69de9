"""The documentation as a site: what the builder reads, and what its pages may hold. `make docs` runs both.

python -m tests.site pages build/pages     the pages, with those beside docs/ among them
python -m tests.site check build/site      every link leads somewhere, nothing is fetched from elsewhere
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.support.processes import REPOSITORY

BESIDE = ("DESIGN.md", "CHANGELOG.md", "CONTRIBUTING.md")
_FETCHED = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "src"}
_PICTURES = "pictures"  # a folder in docs/
_QUIET_LINKS = {"canonical", "next", "prev"}  # named, and never fetched


def write_pages(folder: Path) -> None:
    """All pages in one folder, with the pictures in them; what they link to that is none of them is named, and no
    link."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(REPOSITORY / "docs" / _PICTURES, folder / _PICTURES, dirs_exist_ok=True)
    pages = [*sorted((REPOSITORY / "docs").glob("*.md")), *(REPOSITORY / name for name in BESIDE)]
    names = {page.name for page in pages}
    for page in pages:
        (folder / page.name).write_text(_linked(page.read_text(), names))


def _linked(text: str, names: set[str]) -> str:
    def within(found: re.Match[str]) -> str:
        words, target, anchor = found[1], found[2], found[3] or ""
        if target.startswith(f"{_PICTURES}/"):
            return found[0]
        name = Path(target).name
        return f"[{words}]({name}{anchor})" if name in names else words

    return re.sub(r"\[([^\]]*)\]\((?!https?://|#)([\w./-]+)(#[\w-]+)?\)", within, text)


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = {name: value or "" for name, value in attrs}
        self.anchors |= {told[name] for name in ("id", "name") if name in told}
        if tag == "a" and "href" in told:
            self.links.append(told["href"])
        elif tag in _FETCHED and told.get("rel") not in _QUIET_LINKS and _FETCHED[tag] in told:
            self.fetched.append(told[_FETCHED[tag]])


def faults_of(site: Path) -> Iterator[str]:
    """Links that lead nowhere, and what a reader without a network would miss."""
    pages = {path: _Page(path.read_text()) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        for url in page.fetched:
            if urlsplit(url).netloc:
                yield f"{path.name} fetches {url}"
            elif not _file(path, url, site).exists():
                yield f"{path.name} misses {url}"
        for url in page.links:
            yield from (f"{path.name}: {fault}" for fault in _link_faults(path, url, site, pages))


def _link_faults(path: Path, url: str, site: Path, pages: dict[Path, _Page]) -> Iterator[str]:
    parts = urlsplit(url)
    if parts.scheme or parts.netloc or path.name == "404.html":
        return
    there = _file(path, url, site) if parts.path else path
    if not there.exists():
        yield f"{url} leads nowhere"
    elif parts.fragment and there in pages and unquote(parts.fragment) not in pages[there].anchors | {"__top"}:
        yield f"{url} leads to no heading"


def _file(page: Path, url: str, site: Path) -> Path:
    target = unquote(urlsplit(url).path)
    found = (site / target.lstrip("/") if target.startswith("/") else page.parent / target).resolve()
    return found / "index.html" if found.is_dir() else found


def main(words: list[str]) -> int:
    if words[0] == "pages":
        write_pages(Path(words[1]))
        return 0
    faults = list(faults_of(Path(words[1]).resolve()))
    print("\n".join(faults) or f"{len(list(Path(words[1]).rglob('*.html')))} pages, every link leads somewhere")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
