"""Grafana's JSON of the boards, by the types of Grafana's own SDK: a field that it does not know cannot be written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from grafana_foundation_sdk.builders import dashboard as built
from grafana_foundation_sdk.builders import heatmap, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.builders.common import ReduceDataOptions, StackingConfig
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models import prometheus as wire

from deploy.grafana.boards import BOARDS
from deploy.grafana.shapes import Board, Panel, Query, Row

TAG: Final = "mlx-gateway"
SOURCE: Final = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")
_HEIGHTS: Final = {"tile": 4, "table": 9}
_BUILDERS: Final[dict[str, Any]] = {
    "lines": timeseries.Panel,
    "stack": timeseries.Panel,
    "tile": stat.Panel,
    "heatmap": heatmap.Panel,
    "timeline": statetimeline.Panel,
    "table": table.Panel,
}


def render(board: Board) -> str:
    """The file's text."""
    builder = (
        built.Dashboard(board.title)
        .uid(board.uid)
        .description(board.about)
        .tags([TAG])
        .refresh("10s")
        .time("now-1h", "now")
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .readonly()
        .link(_links())
    )
    for variable in _variables():
        builder.with_variable(variable)
    for row in board.rows:
        _add_row(builder, row)
    said = json.loads(json.dumps(builder.build(), cls=JSONEncoder))
    return json.dumps(said, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _links() -> built.DashboardLink:
    link = built.DashboardLink(title="Boards").type(dashboard.DashboardLinkType.DASHBOARDS).tags([TAG])
    return link.as_dropdown(True).keep_time(True).include_vars(True)


def _variables() -> Sequence[Any]:
    return (
        built.DatasourceVariable("datasource").label("Prometheus").type("prometheus"),
        _query_variable("model", "Model", "label_values(host_model_state, model)"),
        _query_variable("host", "Mac", "label_values(host_up, host)"),
        _query_variable("class", "Class", "label_values(gw_deadline_seconds, class)"),
    )


def _query_variable(name: str, label: str, query: str) -> built.QueryVariable:
    all_of_them = dashboard.VariableOption(selected=True, text="All", value="$__all")
    return (
        built.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(query)
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(dashboard.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(all_of_them)
    )


def _add_row(builder: built.Dashboard, row: Row) -> None:
    head = built.Row(row.title)
    builder.with_row(head.repeat("host") if row.by_host else head)
    for panel in row.panels:
        builder.with_panel(_panel(panel))


def _panel(panel: Panel) -> Any:
    builder = _BUILDERS[panel.kind]()
    builder.title(panel.title).datasource(SOURCE).unit(panel.unit).no_value(panel.empty)
    builder.span(panel.width).height(_HEIGHTS.get(panel.kind, 8)).thresholds(_thresholds(panel))
    if panel.help:
        builder.description(panel.help)
    if panel.words:
        builder.mappings([_words(panel)])
    for name, query in zip("ABCDEFGH", panel.queries, strict=False):
        builder.with_target(_target(panel, name, query))
    _DETAILS.get(panel.kind, lambda _: None)(builder)
    if panel.kind == "table":
        _join(builder, panel)
    return builder


def _target(panel: Panel, name: str, query: Query) -> prometheus.Dataquery:
    target = prometheus.Dataquery().ref_id(name).expr(query.expr).legend_format(query.legend)
    if panel.kind == "table":
        return target.instant().format(wire.PromQueryFormat.TABLE)
    return target.format(wire.PromQueryFormat.HEATMAP) if panel.kind == "heatmap" else target


def _thresholds(panel: Panel) -> built.ThresholdsConfig:
    """Only what the panel says: Grafana would else paint everything above 80 red."""
    steps = [dashboard.Threshold(color="green", value=None)]
    falls = panel.red is not None and panel.orange is not None and panel.red < panel.orange
    if falls:
        steps = [
            dashboard.Threshold(color="red", value=None),
            dashboard.Threshold(color="orange", value=_above(panel.red)),
            dashboard.Threshold(color="green", value=panel.orange),
        ]
    else:
        steps += [
            dashboard.Threshold(color=colour, value=value)
            for colour, value in (("orange", panel.orange), ("red", panel.red))
            if value is not None
        ]
    return built.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(steps)


def _above(value: float | None) -> float:
    return (value or 0) + 1e-9


def _words(panel: Panel) -> dashboard.ValueMap:
    options = {
        value: dashboard.ValueMappingResult(text=word, color=colour, index=index)
        for index, (value, word, colour) in enumerate(panel.words)
    }
    return dashboard.ValueMap(options=options)


def _lines(builder: timeseries.Panel) -> None:
    builder.line_width(1).fill_opacity(0).show_points(common.VisibilityMode.NEVER).min(0)


def _stack(builder: timeseries.Panel) -> None:
    builder.line_width(0).fill_opacity(60).show_points(common.VisibilityMode.NEVER)
    builder.stacking(StackingConfig().mode(common.StackingMode.NORMAL))


def _tile(builder: stat.Panel) -> None:
    builder.reduce_options(ReduceDataOptions().calcs(["lastNotNull"])).color_mode(common.BigValueColorMode.VALUE)
    builder.graph_mode(common.BigValueGraphMode.NONE)


_DETAILS: Final[dict[str, Any]] = {"lines": _lines, "stack": _stack, "tile": _tile}


def _join(builder: table.Panel, panel: Panel) -> None:
    """A line for each model, a column for each query."""
    names = zip("ABCDEFGH", (query.legend for query in panel.queries), strict=False)
    builder.transformations(
        [
            dashboard.DataTransformerConfig(id_val="joinByField", options={"byField": "model", "mode": "outer"}),
            dashboard.DataTransformerConfig(
                id_val="organize",
                options={
                    "excludeByName": {f"Time {number}": True for number in range(1, len(panel.queries) + 1)},
                    "renameByName": {f"Value #{name}": legend for name, legend in names},
                },
            ),
        ]
    )


def file_name(board: Board) -> str:
    return f"{board.uid.removeprefix('mlxgw-')}.json"


def render_all() -> dict[str, str]:
    """By file name."""
    return {file_name(board): render(board) for board in BOARDS}
