"""How long something is kept, as people write it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from shared.durations import parse_keep_alive


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (300, 300.0),
        (0, 0.0),
        (0.5, 0.5),
        ("0", 0.0),
        ("300", 300.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        (" 90s ", 90.0),
        ("1.5h", 5400.0),
        ("250ms", 0.25),
        ("2d", 172800.0),
        (-1, math.inf),
        ("-1", math.inf),
        ("-5m", math.inf),
        ("never", math.inf),
        ("Never", math.inf),
    ],
)
def test_seconds_units_and_never_are_understood(value: Any, seconds: float) -> None:
    assert parse_keep_alive(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", [None, True, [], {}, "", "5 minutes", "m", "5m!", "soon", "--5m", float("nan")])
def test_anything_else_says_nothing(value: Any) -> None:
    assert parse_keep_alive(value) is None
