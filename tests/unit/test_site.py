"""The documentation as a site: every page is in it, and its check finds what is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from tests.site import BESIDE, faults_of, write_pages
from tests.support.processes import REPOSITORY


def named(nav: object) -> set[str]:
    if isinstance(nav, str):
        return {nav}
    values = nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ()
    return {name for value in values for name in named(value)}


def test_the_site_has_every_page() -> None:
    settings = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())
    pages = {path.name for path in (REPOSITORY / "docs").glob("*.md")} | set(BESIDE)
    assert named(settings["nav"]) == pages
    assert settings["theme"]["font"] is False  # fetched from elsewhere


def test_links_between_pages_stay_and_those_to_other_files_are_words(tmp_path: Path) -> None:
    write_pages(tmp_path)
    text = (tmp_path / "cache-and-memory.md").read_text()
    assert "](DESIGN.md)" in text
    assert not [page.name for page in tmp_path.glob("*.md") if "](../" in page.read_text()]


def test_every_screen_of_the_console_has_a_picture_which_comes_along(tmp_path: Path) -> None:
    """`python -m tests.console.pictures docs/pictures` takes them anew."""
    screens = re.findall(
        r'^  { id: "(\w+)", name:', (REPOSITORY / "gateway/admin/page/app.js").read_text(), re.MULTILINE
    )
    write_pages(tmp_path)
    shown = re.findall(r"!\[[^\]]+\]\((pictures/([\w-]+)\.webp)\)", (tmp_path / "console.md").read_text())
    assert {*screens} <= {picture for _, picture in shown}
    files = [tmp_path / path for path, _ in shown]
    assert all(path.read_bytes()[8:12] == b"WEBP" for path in files)
    assert sum(path.stat().st_size for path in files) < 400_000


def test_what_leads_nowhere_and_what_is_fetched_from_elsewhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.css").touch()
    (tmp_path / "b.html").write_text('<h2 id="there"></h2>')
    (tmp_path / "a.html").write_text(
        '<link rel="stylesheet" href="a.css"><link rel="canonical" href="https://x.org/a">'
        '<a href="b.html#there">1</a><a href="https://x.org">2</a><a href="#__top">3</a>'
    )
    assert list(faults_of(tmp_path)) == []
    (tmp_path / "a.html").write_text(
        '<script src="https://x.org/a.js"></script><img src="no.png"><a href="c.html">1</a><a href="b.html#gone">2</a>'
    )
    assert list(faults_of(tmp_path)) == [
        "a.html fetches https://x.org/a.js",
        "a.html misses no.png",
        "a.html: c.html leads nowhere",
        "a.html: b.html#gone leads to no heading",
    ]
