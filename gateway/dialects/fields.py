"""Reading fields of a client's JSON: each reader returns a value of the asked type or raises `FieldError`.

`at` is where the value stands, seen from whoever reads it. The error takes on the rest of its path on its way out
(`each`, `within`), and leaves the dialect with all of it, in the client's own notation (`named`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

from gateway.models.sampling import MAX_STOP_SEQUENCES, SEED_BITS
from shared.errors import InvalidRequestError
from shared.exact import dump_bytes, plain

Step = str | int  # the name of a field, or a place in a list
_T = TypeVar("_T")


class FieldError(Exception):
    """A field that is wrong. `path` leads to it from where the error is; `kind` is what its client gets."""

    def __init__(self, problem: str, *path: Step, kind: type[InvalidRequestError] = InvalidRequestError) -> None:
        super().__init__(problem)
        self.problem = problem
        self.path = path
        self.kind = kind


def refuse(problem: str, *at: Step, kind: type[InvalidRequestError] = InvalidRequestError) -> NoReturn:
    raise FieldError(problem, *at, kind=kind)


class within:
    """`with within(…)`: what is read in the block stands below these steps."""

    __slots__ = ("_at",)

    def __init__(self, *at: Step) -> None:
        self._at = at

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, FieldError):
            error.path = (*self._at, *error.path)


def each(items: Iterable[Any], parse: Callable[[Any], _T]) -> list[_T]:
    """Every item of a list, parsed, below its place in the list."""
    parsed: list[_T] = []
    try:
        for item in items:
            parsed.append(parse(item))
    except FieldError as error:
        error.path = (len(parsed), *error.path)
        raise
    return parsed


@contextmanager
def named(notation: Callable[[Sequence[Step]], str]) -> Iterator[None]:
    """The edge of a dialect: field errors leave the block as `InvalidRequestError`, named in the client's notation."""
    try:
        yield
    except FieldError as error:
        at = notation(error.path)
        raise error.kind(f"{at}: {error.problem}", param=at) from None


def body_object(body: Any) -> tuple[Mapping[str, Any], int]:
    """(the body as an object that can travel on: bounded depth, Unicode text; its size in bytes)."""
    if not isinstance(body, dict):
        raise InvalidRequestError("the request body must be a JSON object")
    try:
        size_bytes = len(dump_bytes(body))
    except TypeError as error:
        raise InvalidRequestError(f"the request body cannot be used: {error}") from None
    return body, size_bytes


def string(value: Any, *at: Step) -> str:
    if not isinstance(value, str):
        refuse("Input should be a valid string" if value is not None else "Field required", *at)
    return value


def name(value: Any, *at: Step) -> str:
    """A string that says something."""
    if not string(value, *at):
        refuse("String should have at least 1 character", *at)
    return str(value)


def optional_string(value: Any, *at: Step) -> str:
    return "" if value is None else string(value, *at)


def boolean(value: Any, *at: Step, default: bool = False) -> bool:
    if value is None:
        return default
    if not isinstance(value, bool):
        refuse("Input should be a valid boolean", *at)
    return value


def integer(value: Any, *at: Step, low: int, high: int = (1 << 63) - 1) -> int | None:
    """A whole number between the bounds, which belong to it; None stays None."""
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        refuse("Input should be a valid integer", *at)
    if value < low:
        refuse(f"Input should be greater than or equal to {low}", *at)
    if value > high:
        refuse(f"Input should be less than or equal to {high}", *at)
    return value


def number(value: Any, *at: Step, low: float, high: float = math.inf) -> float | None:
    """A finite number between the bounds, which belong to it; None stays None."""
    if value is None:
        return None
    value = plain(value)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        refuse("Input should be a valid number", *at)
    if not low <= value <= high:
        bounds = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
        refuse(f"Input should be {bounds}", *at)
    return float(value)


def mapping(value: Any, *at: Step) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        refuse("Input should be an object" if value is not None else "Field required", *at)
    return value


def optional_mapping(value: Any, *at: Step) -> Mapping[str, Any]:
    return {} if value is None else mapping(value, *at)


def sequence(value: Any, *at: Step) -> list[Any]:
    if not isinstance(value, list):
        refuse("Input should be a valid list" if value is not None else "Field required", *at)
    return value


def optional_sequence(value: Any, *at: Step) -> list[Any]:
    return [] if value is None else sequence(value, *at)


def seed(value: Any, *at: Step) -> int | None:
    """Any integer, folded into the 63 bits that every engine takes."""
    whole = integer(value, *at, low=-(1 << 63), high=(1 << 64) - 1)
    return None if whole is None else whole & SEED_BITS


def top_k(value: Any, *at: Step) -> int | None:
    """0 and -1 both mean off where clients use them; ours is 0."""
    whole = integer(value, *at, low=-1)
    return None if whole is None else max(whole, 0)


def stop_sequences(values: list[Any]) -> tuple[str, ...]:
    if len(values) > MAX_STOP_SEQUENCES:
        refuse(f"List should have at most {MAX_STOP_SEQUENCES} items")
    return tuple(each(values, name))


def logit_bias(value: Any, *at: Step) -> dict[int, float]:
    """`{"token id": bias}` with biases between -100 and 100."""
    biases: dict[int, float] = {}
    for key, bias in optional_mapping(value, *at).items():
        if not (key.isascii() and key.isdigit() and len(key) <= 10):
            refuse("the key should be a token id", *at, key)
        if bias is None:
            refuse("Input should be a valid number", *at, key)
        biases[int(key)] = number(bias, *at, key, low=-100, high=100) or 0.0
    return biases


def json_text(value: Any) -> str:
    """Something we have no word for, as its own JSON."""
    return dump_bytes(value).decode()
