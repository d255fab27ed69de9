"""The README's tables of settings and metrics say what the code does."""

from __future__ import annotations

import re
from dataclasses import fields

import redis.asyncio

from gateway.dispatch.fleet import FleetWatcher
from gateway.metrics import Metrics
from shared.config import Settings, environment_name
from tests.support.documentation import README, documented_metrics
from tests.support.names import NAMES
from tests.support.sealed import KEYRING


def test_every_setting_is_in_the_readme_with_its_default() -> None:
    documented = dict(re.findall(r"^\| `([A-Z_]+)` \| (?:`([^`]*)`)? *\|", README, re.MULTILINE))
    expected = {
        environment_name(field.name): "" if field.default in (None, "", ()) else str(field.default)
        for field in fields(Settings)
    }
    assert documented == expected


def test_every_metric_of_a_gateway_is_in_the_readme() -> None:
    families = Metrics(FleetWatcher(redis.asyncio.Redis(), NAMES, KEYRING)).registry.collect()
    served = {f"{family.name}_total" if family.type == "counter" else family.name for family in families}
    assert len(served) > 20
    assert served <= documented_metrics()
    assert {name for name in documented_metrics() if name.startswith("gw_")} <= served
