"""Whether who asks may join: every reason, in words for the person at the other Mac."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.door.admission import TRIES, Fleet, after_try, why_not_code, why_not_host, why_not_version
from gateway.door.folder import Invitation
from gateway.door.messages import Ask

SECRET = "ABCD1234"
OPEN = Invitation(secret=SECRET, ends_at_s=1000.0, tries=TRIES)
FLEET = Fleet(version="0.2.0", wire=3, names={"studio"})
ASK = Ask(secret=SECRET, name="mac2", version="0.2.0", wire=[3], request="")


def test_the_code_is_good_once_in_time() -> None:
    assert why_not_code(SECRET, OPEN, 999.0) == ""


@pytest.mark.parametrize(
    ("secret", "invitation", "now_s", "reason"),
    [
        (SECRET, None, 0.0, "no code is open"),
        ("ABCD1235", OPEN, 0.0, "the code is wrong (2 more tries)"),
        ("ABCD1235", replace(OPEN, tries=2), 0.0, "(1 more try)"),
        ("ABCD1235", replace(OPEN, tries=1), 0.0, "(no more tries"),
        (SECRET, replace(OPEN, tries=0), 0.0, "3 times"),
        (SECRET, replace(OPEN, is_used=True), 0.0, "used already"),
        (SECRET, OPEN, 1000.0, "older than 10 minutes"),
        ("é", OPEN, 0.0, "wrong"),
    ],
)
def test_a_code_that_is_not_good_says_why(
    secret: str, invitation: Invitation | None, now_s: float, reason: str
) -> None:
    assert reason in why_not_code(secret, invitation, now_s)


def test_who_does_not_know_the_code_hears_nothing_of_it() -> None:
    used = replace(OPEN, is_used=True, ends_at_s=0.0)
    assert why_not_code("ABCD1235", used, 5.0) == why_not_code("ABCD1235", OPEN, 5.0)


def test_wrong_secrets_use_up_the_tries_and_the_right_one_none() -> None:
    assert after_try(SECRET, OPEN) == OPEN
    left = OPEN
    for _ in range(TRIES + 1):
        left = after_try("ABCD1235", left)
    assert left.tries == 0


@pytest.mark.parametrize("name", ["studio", "", "a.b", "a b", "x" * 64])
def test_a_name_that_is_taken_or_none_is_refused(name: str) -> None:
    assert why_not_host(replace(ASK, name=name), FLEET)
    assert why_not_host(ASK, FLEET) == ""


def test_an_older_wire_is_told_which_mac_to_update() -> None:
    assert "update mlx-gateway on this Mac" in why_not_version("0.1.0", [2], FLEET)
    assert "update mlx-gateway on the sharing Mac" in why_not_version("0.3.0", [4], FLEET)
    assert why_not_version("0.3.0", [3, 4], FLEET) == ""
    assert "wire none" in why_not_version("0.0.1", [], FLEET)
