"""The tables of settings and metrics say what the code does."""

from __future__ import annotations

import re
from dataclasses import fields

from prometheus_client.core import Metric

from shared.config import Settings, environment_name
from shared.worker_metrics import metric_names
from tests.support.documentation import CONFIGURATION, documented_metrics, gateway_families
from tests.support.processes import REPOSITORY


def test_every_setting_is_in_the_documentation_with_its_default() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| (?:`([^`]*)`)? *\|", CONFIGURATION, re.MULTILINE)
    documented = dict(rows)
    assert len(rows) == len(documented), "a row stands twice"
    expected = {
        environment_name(field.name): "" if field.default in (None, "", ()) else str(field.default)
        for field in fields(Settings)
    }
    assert documented == expected


def test_every_metric_of_a_gateway_is_in_the_documentation() -> None:
    served = {_served_name(family) for family in gateway_families()}
    assert len(served) > 20
    assert served <= documented_metrics()
    assert {name for name in documented_metrics() if name.startswith(("gw_", "process_"))} <= served


def _served_name(family: Metric) -> str:
    return family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")


def test_every_metric_of_a_worker_and_a_host_is_in_the_documentation_and_no_other() -> None:
    assert {name for name in documented_metrics() if name.startswith(("wk_", "host_"))} == metric_names()


def test_contributing_names_files_that_exist_and_what_stands_in_them() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    paths = {path for path in re.findall(r"`([\w.-]+/[\w./-]+)`", text) if "<" not in path}
    assert len(paths) > 15
    assert [path for path in sorted(paths) if not _exists(path)] == []
    for word, module in re.findall(r"`(\w+)` (?:in|of) `([\w/]+\.py)`", text):
        assert re.search(rf"\b{word}\b", (REPOSITORY / module).read_text()), f"{word} in {module}"


def _exists(path: str) -> bool:
    """A file or folder, or a name in a module (`gateway/dialects/base.Dialect`)."""
    module, _, name = path.rpartition(".")
    return (REPOSITORY / path).exists() or (
        (REPOSITORY / f"{module}.py").is_file() and f"class {name}" in (REPOSITORY / f"{module}.py").read_text()
    )


def test_every_test_that_the_design_and_the_pages_name_exists() -> None:
    pages = (REPOSITORY / "DESIGN.md", *(REPOSITORY / "docs").glob("*.md"))
    named = {name for page in pages for name in re.findall(r"`(test_\w+)`", page.read_text())}
    written = "\n".join(path.read_text() for path in (REPOSITORY / "tests").rglob("test_*.py"))
    assert named
    assert sorted(name for name in named if f"def {name}(" not in written) == []
