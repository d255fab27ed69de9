"""The bodies of what a console asks for, read from JSON that comes from outside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final, NoReturn

import orjson

from gateway.keys.holder import MOST_COUNTED, ROLES, Quota
from gateway.keys.making import Wish
from shared.errors import InvalidRequestError
from shared.nearest import meant
from shared.pieces import KEY_HEX
from shared.request import PRIORITIES

ACTIONS: Final = ("load", "unload")
MOST_PIECES: Final = 1000
MOST_WORDS: Final = 100


def parse_json(data: bytes) -> Mapping[str, Any]:
    """Nothing is an empty object. Raises `InvalidRequestError`."""
    try:
        body = orjson.loads(data) if data.strip() else {}
    except orjson.JSONDecodeError as error:
        raise InvalidRequestError(f"the body is no JSON: {error}") from error
    if not isinstance(body, dict):
        raise InvalidRequestError("the body must be an object")
    return body


def _only(body: Mapping[str, Any], *names: str) -> None:
    """What nothing reads is refused: who misspells a limit would have none."""
    for name in body:
        if name not in names:
            _refuse(name[:MOST_WORDS], f"is not read here, only {', '.join(names)}{meant(name, names)}")


def parse_session(body: Mapping[str, Any]) -> str:
    """The key. Raises `InvalidRequestError`, as all here do."""
    _only(body, "key")
    return _name(body, "key")


def parse_model_order(body: Mapping[str, Any]) -> tuple[str, str]:
    """(model, action)."""
    _only(body, "model", "action")
    return _name(body, "model"), _one_of(body, "action", ACTIONS, None)


def parse_pull(body: Mapping[str, Any]) -> tuple[str, str, bool]:
    """(model, quantisation, whether it is only looked at)."""
    _only(body, "model", "quantization", "check")
    return _name(body, "model"), _text(body, "quantization"), _flag(body, "check")


def parse_speed(body: Mapping[str, Any]) -> tuple[str, bool]:
    """(model, whether it is only asked what it would cost)."""
    _only(body, "model", "check")
    return _name(body, "model"), _flag(body, "check")


def parse_search(body: Mapping[str, Any]) -> str:
    _only(body, "search")
    words = _name(body, "search").strip()
    if not words.isprintable() or not 0 < len(words) <= MOST_WORDS:
        _refuse("search", f"is what to look for, {MOST_WORDS} characters at the most")
    return words


def parse_drop(body: Mapping[str, Any]) -> tuple[str, str, tuple[bytes, ...]]:
    """(session, worker, keys of pieces): a session alone, or a worker with some of its pieces."""
    _only(body, "session", "worker", "pieces")
    session, worker, keys = _text(body, "session"), _text(body, "worker"), body.get("pieces")
    if session and not worker and keys is None:
        return session, "", ()
    if session or not worker:
        _refuse("worker", "is needed, with `pieces`; or `session` alone")
    if not isinstance(keys, list) or not 0 < len(keys) <= MOST_PIECES or not all(map(_is_key, keys)):
        _refuse("pieces", f"is a list of keys as /api/cache/tree has them, {MOST_PIECES} at the most")
    return "", worker, tuple(map(bytes.fromhex, keys))


def _is_key(value: object) -> bool:
    return isinstance(value, str) and len(value) == KEY_HEX and all(digit in "0123456789abcdef" for digit in value)


def parse_text(body: Mapping[str, Any]) -> str:
    _only(body, "text")
    return _text(body, "text")


def parse_key(body: Mapping[str, Any]) -> Wish:
    counts = [each.name for each in fields(Quota)]
    _only(body, "name", "role", "tenant", "models", "ceiling", "expires", *counts)
    models = body.get("models")
    if models is not None and not (isinstance(models, list) and all(isinstance(each, str) and each for each in models)):
        _refuse("models", "is a list of names")
    return Wish(
        name=_name(body, "name"),
        role=_one_of(body, "role", ROLES, "user"),
        tenant=_text(body, "tenant"),
        models=models or (),
        ceiling=_one_of(body, "ceiling", PRIORITIES, "interactive"),
        quota=Quota(**{name: _count(body, name) for name in counts}),
        expires=_text(body, "expires"),
    )


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        _refuse(name, "is a text")
    return value or ""


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        _refuse(name, "is true or false")
    return bool(value)


def _name(body: Mapping[str, Any], name: str) -> str:
    return _text(body, name) or _refuse(name, "is needed")


def _one_of(body: Mapping[str, Any], name: str, choices: tuple[Any, ...], default: Any) -> Any:
    value = body.get(name, default)
    value = default if value is None else value
    return value if value in choices else _refuse(name, f"is one of {', '.join(choices)}")


def _count(body: Mapping[str, Any], name: str) -> int:
    value = body.get(name)
    if value is not None and (type(value) is not int or value < 0):
        _refuse(name, "is a whole number, 0 for no limit")
    if value is not None and value > MOST_COUNTED:
        _refuse(name, f"is at most {MOST_COUNTED}: no further is exactly counted; 0 is no limit")
    return value or 0


def _refuse(name: str, problem: str) -> NoReturn:
    raise InvalidRequestError(f"`{name}` {problem}", param=name)
