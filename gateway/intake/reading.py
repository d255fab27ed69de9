"""A body's bytes as a canonical request, in one pure step that any process can take."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from gateway.canonical import canonicalise
from gateway.dialects.base import Dialect, Parsed
from gateway.intake.chain import build_chain
from gateway.intake.json_text import parse_json
from gateway.trace.shape import shape_of
from shared import wire
from shared.request import GenerateRequest

LENGTHS: Final = struct.Struct("!QQ")  # what a message between gateway and helper begins with


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is known of a request beside its body. `headers` has lower-case names; `hint` ends the complaint about a
    body that is no JSON; `is_exact` is the body's."""

    headers: Mapping[str, str]
    request_id: str
    counting: bool = False
    hint: str = ""
    is_exact: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The error of a body that could not be read, on its way between processes."""

    code: str
    message: str
    details: dict[str, Any]


def read_request(
    dialect: Dialect, asked: Asked, body: bytes | bytearray | memoryview, *, packing: bool = False
) -> Parsed:
    """With a canonical request, its conversation packed if so wished. Raises `InvalidRequestError` and `WireError`."""
    parsed = dialect.parse_request(
        parse_json(body, asked.hint, is_exact=asked.is_exact),
        asked.headers,
        request_id=asked.request_id,
        counting=asked.counting,
    )
    request, *others = [canonicalise(each) for each in (parsed.request, *parsed.others)]
    parsed = replace(parsed, came=shape_of(parsed.request.messages), became=shape_of(request.messages))
    if not packing:
        return replace(parsed, request=request, others=tuple(others))
    return replace(parsed, request=_packed(request), others=tuple(_packed(other) for other in others))


def _packed(request: GenerateRequest) -> GenerateRequest:
    packed = wire.pack(request)
    return replace(packed, packed=replace(packed.packed, chain=build_chain(request, packed.packed)))
