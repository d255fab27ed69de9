"""What axe-core finds wrong with a page."""

from __future__ import annotations

from typing import Final

from tests.clients.npm import install
from tests.support.browser import Page

_AXE: Final = ("axe-core", "4.14.1")  # MPL-2.0, for tests alone
_RULES: Final = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


def axe_script() -> str:
    """Skips the test where there is no npm."""
    return (install(*_AXE) / "node_modules" / "axe-core" / "axe.min.js").read_text()


def violations(page: Page, axe: str) -> list[str]:
    if not page.run("typeof axe !== 'undefined'"):
        page.run(f"{axe};undefined")
    found = page.run(f"axe.run(document, {{runOnly: {_RULES}}}).then((said) => said.violations)")
    return [f"{each['id']}: {node['html'][:200]} {node['failureSummary']}" for each in found for node in each["nodes"]]
