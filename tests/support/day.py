"""A day that does not end while tests run, for those that compare prompts of several builders."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from functools import partial

import pytest

from worker.prompt import builder, days

DAY = datetime.datetime(2026, 1, 31, 23, 59, tzinfo=datetime.UTC)


@pytest.fixture(scope="session", autouse=True)
def one_day() -> Iterator[None]:
    """Two builders of one test tell the same date, also when midnight passes between them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "Days", partial(days.Days, lambda: DAY))
        yield
