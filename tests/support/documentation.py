"""What the documentation says, for tests that hold it to the code."""

from __future__ import annotations

import re

from prometheus_client.core import Metric

from gateway.parts import build_parts
from shared.config import Settings
from shared.worker_metrics import metric_names
from tests.support.processes import REPOSITORY
from tests.support.sealed import SECRET

CONFIGURATION = (REPOSITORY / "docs" / "configuration.md").read_text()
METRICS = (REPOSITORY / "docs" / "metrics.md").read_text()


def documented_metrics() -> frozenset[str]:
    """Names in the first column of the table of metrics."""
    cells = re.findall(r"^\| (`(?:gw|wk|host|process)_[^|]*) \|", METRICS, re.MULTILINE)
    return frozenset(name for cell in cells for name in re.findall(r"`(\w+)`", cell))


def gateway_families() -> list[Metric]:
    """Everything that a gateway's /metrics can show."""
    parts = build_parts(Settings(secret=SECRET, redis_url="redis://127.0.0.1:1"))
    return list(parts.metrics.registry.collect())


def all_metric_names() -> frozenset[str]:
    """Every name that a query may ask for, without the endings of counters and histograms."""
    return frozenset(
        {family.name for family in gateway_families()} | {name.removesuffix("_total") for name in metric_names()}
    )


def asked_metrics(text: str) -> frozenset[str]:
    """The names of our metrics in a text, without the endings of counters and histograms."""
    found = re.findall(r"\b(?:gw|wk|host|process)_\w+", text)
    return frozenset(re.sub(r"_(?:total|bucket|count|sum)$", "", name) for name in found)
