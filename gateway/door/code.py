"""The code that a person carries from the sharing Mac to the joining one.

100 bits as 20 letters and digits of Crockford's alphabet (no I, L, O, U): 60 bits say which authority the door's
certificate must come from, so that the joiner knows whom it speaks to before it says anything; 40 bits are a secret
that the joiner knows and nobody else. 60 bits of a plain hash could be matched by who tries long enough to make an
authority of his own; a hash that takes 200,000 rounds makes that 2^77 instead.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass, field
from functools import cache

from shared.errors import ConfigError

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_BITS = 5
_PRINT_LETTERS, _SECRET_LETTERS = 12, 8
_GROUP = 5
_ROUNDS = 200_000
_SALT = b"mlx-gateway join"
_ALIKE = str.maketrans("ILO", "110")


@dataclass(frozen=True, slots=True)
class JoinCode:
    """`authority_print` is of the authority's certificate (`print_of`)."""

    authority_print: str
    secret: str = field(repr=False)

    def __str__(self) -> str:
        letters = self.authority_print + self.secret
        return "-".join(letters[at : at + _GROUP] for at in range(0, len(letters), _GROUP))


def parse_code(text: str) -> JoinCode:
    """However a person writes it: in small letters, with or without dashes and blanks. Raises `ConfigError`."""
    letters = re.sub(r"[\s-]", "", text).upper().translate(_ALIKE)
    if len(letters) != _PRINT_LETTERS + _SECRET_LETTERS or set(letters) - set(_ALPHABET):
        raise ConfigError("that is no code: it has 20 letters and digits, such as ABCDE-FGHJK-MNPQR-STVWX")
    return JoinCode(letters[:_PRINT_LETTERS], letters[_PRINT_LETTERS:])


def new_secret() -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(_SECRET_LETTERS))


@cache
def print_of(certificate: bytes) -> str:
    """Of an authority's certificate in DER."""
    digest = hashlib.pbkdf2_hmac("sha256", certificate, _SALT, _ROUNDS)
    number = int.from_bytes(digest, "big") >> (8 * len(digest) - _BITS * _PRINT_LETTERS)
    shifts = range(_BITS * (_PRINT_LETTERS - 1), -1, -_BITS)
    return "".join(_ALPHABET[number >> shift & 31] for shift in shifts)
