"""The boards' files are what the script writes, and ask for nothing that nobody says."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.grafana.boards import BOARDS
from deploy.grafana.render import file_name, render_all
from tests.deploy.boards_drill import drill, table
from tests.support.documentation import all_metric_names, asked_metrics
from tests.support.processes import REPOSITORY

FOLDER = REPOSITORY / "deploy" / "grafana"
FILES = sorted((FOLDER / "dashboards").glob("*.json"))
RULES = (REPOSITORY / "deploy" / "prometheus" / "rules.yml").read_text()
_OWN = ("datasource", "__rate_interval")


def queries_of(board: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in panels_of(board) for target in panel.get("targets", ())]


def panels_of(board: dict[str, Any]) -> list[dict[str, Any]]:
    rows = [panel for panel in board["panels"] if panel["type"] == "row"]
    return [panel for panel in board["panels"] if panel["type"] != "row"] + [p for r in rows for p in r["panels"]]


def test_the_files_are_what_the_script_writes() -> None:
    written = {path.name: path.read_text() for path in FILES}
    assert written == render_all(), "run `python -m deploy.grafana`"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_metric_that_a_board_asks_for_exists(path: Path) -> None:
    queries = "\n".join(queries_of(json.loads(path.read_text())))
    recorded = set(re.findall(r"\b(?:gw|wk):[\w:]+", queries))
    assert asked_metrics(re.sub(r"\b(?:gw|wk):[\w:]+", "", queries)) <= all_metric_names()
    assert all(f"record: {name}" in RULES for name in recorded)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_variable_that_a_query_uses_is_at_the_top_of_its_board(path: Path) -> None:
    board = json.loads(path.read_text())
    offered = {variable["name"] for variable in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(panels_of(board))))
    assert used <= offered | set(_OWN)
    asked = asked_metrics(json.dumps([variable.get("query", "") for variable in board["templating"]["list"]]))
    assert asked <= all_metric_names()


def test_every_panel_says_in_words_when_it_is_empty_and_no_limit_is_one_that_nobody_chose() -> None:
    for path in FILES:
        for panel in panels_of(json.loads(path.read_text())):
            defaults = panel["fieldConfig"]["defaults"]
            assert defaults["noValue"], panel["title"]
            assert 80 not in [step["value"] for step in defaults["thresholds"]["steps"]], panel["title"]


def test_the_limit_of_a_known_conversation_is_a_bound_that_is_counted() -> None:
    """A quantile between two bounds is a guess; the objective is none."""
    (panel,) = [p for b in BOARDS for r in b.rows for p in r.panels if p.title == "First token, known conversation"]
    assert f'le="{panel.red}"' in RULES


def test_the_boards_link_to_each_other_and_have_names_of_their_own() -> None:
    boards = [json.loads(path.read_text()) for path in FILES]
    assert len({board["uid"] for board in boards}) == len(BOARDS)
    assert all(board["links"][0]["tags"] == board["tags"] for board in boards)
    assert {file_name(board) for board in BOARDS} == {path.name for path in FILES}


def test_grafana_is_told_where_boards_and_prometheus_are() -> None:
    boards = yaml.safe_load((FOLDER / "provisioning" / "dashboards" / "mlx-gateway.yml").read_text())
    sources = yaml.safe_load((FOLDER / "provisioning" / "datasources" / "prometheus.yml").read_text())
    assert boards["providers"][0]["options"]["path"].endswith("/dashboards")
    (source,) = sources["datasources"]
    assert source["type"] == "prometheus"
    assert source["isDefault"]


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="NO BOARD WAS ASKED: Debian's package prometheus is missing"
)
def test_queries_find_something_under_load_and_faults_or_say_why_not(tmp_path: Path) -> None:
    """The drill itself wants every one, at every value; on a machine that does much else one client may not get its
    turn, so here one in twenty may be empty."""
    rows = drill(tmp_path, load_s=60.0)
    assert len(rows) > 80
    empty = [row for row in rows if not row.samples and not row.excuse]
    assert len(empty) <= len(rows) // 20, table(rows)
