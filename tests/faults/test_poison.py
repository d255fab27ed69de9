"""One request of eight kills every worker that runs it: it is found out, and the seven are answered."""

from __future__ import annotations

import secrets

import orjson
import pytest

from tests.faults.cases import Case, ask
from tests.faults.client import Asked
from tests.faults.fleet import PACED, Fleet
from tests.support.names import NAMES
from tests.support.processes import wait_until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(200)]
_BYSTANDERS = 7
_WORDS = "NEW\necho:words 60"  # each another, so that none reads the answer of the first


def _words(asked: Asked) -> str:
    return asked.answer().text


@pytest.mark.parametrize("how", ["echo:break", "echo:die"])
def test_seven_bystanders_are_answered_and_the_eighth_is_quarantined(whole_fleet: Fleet, how: str) -> None:
    whole_fleet.renew_hosts()
    session = secrets.token_hex(8)  # one home, so that all are on one worker at first
    nodes = whole_fleet.gateways
    before = whole_fleet.figure(nodes[0], "gw_redispatches_total")
    asked = [ask(whole_fleet, nodes[0], Case("bystander", PACED, _WORDS), session)]
    wait_until(lambda: asked[0].deltas_s(), "the first has begun")
    asked += [ask(whole_fleet, nodes[0], Case("bystander", PACED, _WORDS), session) for _ in range(_BYSTANDERS - 1)]
    wait_until(lambda: all(each.deltas_s() for each in asked), "all have begun")
    assert len({each.worker for each in asked}) == 1
    poison = ask(whole_fleet, nodes[0], Case("poison", PACED, how), session)
    for each in (*asked, poison):
        each.join(60)
    assert whole_fleet.figure(nodes[0], "gw_redispatches_total") >= before + _BYSTANDERS, "all met the fault"
    expected = "<text>" + " ".join(f"word{number}" for number in range(60))
    assert [_words(each) for each in asked] == [expected] * _BYSTANDERS
    assert poison.answer().error == "invalid_request_error", poison.answer()
    for node in nodes:
        wait_until(lambda node=node: _quarantined(whole_fleet, node), "it is seen everywhere")  # type: ignore[misc]
    again = ask(whole_fleet, nodes[1], Case("poison", PACED, how), session)
    again.join(20)
    assert (again.status, again.answer().error) == (400, "invalid_request_error")
    assert how not in str(_quarantined(whole_fleet, nodes[0])), "its text is not kept"
    assert len(_quarantined(whole_fleet, nodes[0])) == 1, "none of the seven"
    whole_fleet.client.delete(NAMES.suspects)
    whole_fleet.renew_hosts()


def _quarantined(fleet: Fleet, node: object) -> list[dict[str, object]]:
    status, body = fleet.get(node, "/status")  # type: ignore[arg-type]
    return list(orjson.loads(body)["quarantined"]) if status == 200 else []
