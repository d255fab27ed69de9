"""The code that a person carries between two Macs."""

from __future__ import annotations

import pytest

from gateway.door.code import JoinCode, new_secret, parse_code, print_of
from shared.errors import ConfigError


def test_a_code_is_read_however_a_person_writes_it() -> None:
    code = JoinCode(print_of(b"a certificate"), new_secret())
    text = str(code)
    assert len(text.replace("-", "")) == 20
    for spelled in (text, text.lower(), text.replace("-", ""), text.replace("-", " "), f" {text} "):
        assert parse_code(spelled) == code


def test_letters_that_look_alike_are_taken_for_what_they_look_like() -> None:
    assert parse_code("iLoO0-11111-22222-33333") == parse_code("11000-11111-22222-33333")


@pytest.mark.parametrize(
    "text", ["", "ABCDE", "ABCDE-FGHJK-MNPQR-STVW", "ABCDE-FGHJK-MNPQR-STVWXY", "U" * 20, "é" * 20]
)
def test_what_is_no_code_is_refused_before_anybody_is_asked(text: str) -> None:
    with pytest.raises(ConfigError, match="no code"):
        parse_code(text)


def test_sixty_bits_tell_one_authority_from_another() -> None:
    prints = {print_of(f"certificate {number}".encode()) for number in range(2)}
    assert len(prints) == 2
    assert {len(each) for each in prints} == {12}


def test_a_code_shows_no_secret_in_logs() -> None:
    code = JoinCode("ABCDEFGHJKMN", "SECRETXX")
    assert "SECRETXX" not in repr(code)
