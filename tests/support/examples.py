"""How many examples a property is tried on: few in `make test`, many in `make test-all`, the same ones each time, so
that a run that fails fails again. `--hypothesis-profile=random` searches among others: `make test-random`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings

THOROUGH = "thorough"
QUICK = "quick"
RANDOM = "random"
# How long an example takes says how busy the machine is, and decides nothing.
settings.register_profile(QUICK, deadline=None, derandomize=True)
settings.register_profile(THOROUGH, deadline=None, derandomize=True)
settings.register_profile(RANDOM, deadline=None)
settings.load_profile(QUICK)


def examples(few: int, *, thorough: int) -> Callable[[Any], Any]:
    """Marks a test that `make test-all` runs once more, with so many examples."""
    count = few if settings.get_current_profile_name() == QUICK else thorough

    def decorate(test: Any) -> Any:
        return pytest.mark.thorough(settings(max_examples=count, deadline=None)(test))

    return decorate
