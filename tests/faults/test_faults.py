"""Each fault meets requests in every stage. What the table shows of times decides nothing here."""

from __future__ import annotations

import contextlib

import pytest

from tests.faults.cases import Case, Wave
from tests.faults.client import Answer
from tests.faults.faults import FAULTS, Fault
from tests.faults.fleet import Fleet
from tests.faults.trial import NotInPlaceError, Verdict, try_fault

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_no_client_gets_another_answer_and_nothing_stays(
    whole_fleet: Fleet, all_waves: list[Wave], expected: dict[Case, Answer], verdicts: list[Verdict], fault: Fault
) -> None:
    found: list[Verdict] = []
    for wave in all_waves:
        with contextlib.suppress(NotInPlaceError):  # nothing was tried then, which the table's count of cases shows
            found += try_fault(whole_fleet, wave, fault, expected)
    verdicts += found
    assert [verdict for verdict in found if verdict.kind == "wrong"] == []
    assert sum(verdict.lost + verdict.doubled for verdict in found) == 0
    assert sum(verdict.kind in ("survived", "retried") for verdict in found) >= len(found) // 2
