"""Whether a decoded value is what its class says: msgpack carries any type in any field."""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_Check = Callable[[Any], bool]


def misfit(value: Any) -> str:
    """The first field of a dataclass's instance that holds something else than declared; empty when all fit."""
    cls: Any = type(value)
    for name, check in _checks(cls):
        if not check(getattr(value, name)):
            return name
    return ""


def absurd(value: Any) -> str:
    """The first field of a dataclass's instance that holds a number which no measurement gives: below 0, infinite or
    none at all. Empty when there is none."""
    for field in fields(value):
        held = getattr(value, field.name)
        for number in held if isinstance(held, tuple) else (held,):
            if isinstance(number, float) and not 0 <= number < math.inf:
                return field.name
    return ""


@cache
def _checks(cls: Any) -> tuple[tuple[str, _Check], ...]:
    hints = get_type_hints(cls)
    return tuple((field.name, _check(hints[field.name])) for field in fields(cls))


def _check(hint: Any) -> _Check:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return lambda value: isinstance(value, str) and value in arguments
    if origin in (Union, types.UnionType):
        choices = [_check(each) for each in arguments]
        return lambda value: any(choice(value) for choice in choices)
    if origin is tuple:
        item = _check(arguments[0])
        return lambda value: isinstance(value, tuple) and all(map(item, value))
    if origin is dict:
        key, content = _check(arguments[0]), _check(arguments[1])
        return lambda value: isinstance(value, dict) and all(key(k) and content(v) for k, v in value.items())
    return _check_plain(hint)


def _check_plain(hint: Any) -> _Check:
    if hint is Any:
        return lambda value: True
    if hint is float:
        return lambda value: isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return lambda value: isinstance(value, int) and not isinstance(value, bool)
    if isinstance(hint, type) and is_dataclass(hint):
        return lambda value: isinstance(value, hint) and not misfit(value)
    return lambda value: isinstance(value, hint)
