"""Which call format a chat template shows, and whether a rendered call is read back."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from worker.formats.families import FAMILIES, Family, Objects, Python
from worker.formats.readers.definitions import Tools
from worker.formats.readers.formats import own_reader
from worker.formats.readers.reader import CallBegun, CallDelta, CallEnded, CallEvent

_NO_TOOLS = Tools()


@dataclass(slots=True)
class ReadCall:
    """`arguments` is JSON text when the call is valid."""

    name: str
    arguments: str = ""
    is_valid: bool = False


def read_calls(family: Family, text: str, tools: Tools = _NO_TOOLS) -> list[ReadCall]:
    """Every call of the family's own form in the regions of a text, as an answer's would be read. Where the family has
    no start marker, the text is one region."""
    calls: list[ReadCall] = []
    while True:
        at = text.find(family.start)
        inner = text[at + len(family.start) :]
        if at < 0 or not inner.strip():
            return calls
        reader = own_reader(family, inner.lstrip(), family.start, tools)
        events = reader.feed(inner)
        if not reader.done:
            events += reader.finish(complete=True)
        _take(events, calls)
        if not family.start or not reader.done:
            return calls
        text = reader.rest


def _take(events: Sequence[CallEvent], calls: list[ReadCall]) -> None:
    for event in events:
        match event:
            case CallBegun(name=name):
                calls.append(ReadCall(name))
            case CallDelta(arguments=arguments):
                calls[-1].arguments += arguments
            case CallEnded(is_valid=is_valid):
                calls[-1].is_valid = is_valid
            case _:
                pass


def shown_format(source: str, rendered: str, name: str, vocabulary: Collection[str] = ()) -> Family | None:
    """The format that a chat template shows. `rendered` is what it makes of a message that calls the tool `name`
    (empty: it refuses calls), which decides; else what its `source` tells the model of calls does, else the vocabulary.
    None where nothing shows any."""
    by_rendering = (family for family in FAMILIES.values() if _renders(family, rendered, name))
    by_source = (family for family in FAMILIES.values() if any(sign in source for sign in family.signs))
    by_tokens = (family for family in FAMILIES.values() if family.tokens and set(family.tokens) <= set(vocabulary))
    for found in (by_rendering, by_source, by_tokens):
        if (family := next(found, None)) is not None:
            return family
    return None


def _renders(family: Family, rendered: str, name: str) -> bool:
    if name not in rendered:
        return False
    if not family.start:
        return _begins_bare(family, rendered, name)
    if family.start not in rendered or family.end not in rendered:
        return False
    return any(call.name == name and call.is_valid for call in read_calls(family, rendered))


def _begins_bare(family: Family, rendered: str, name: str) -> bool:
    """Whether the call stands in the text without any marker."""
    if isinstance(family.shape, Python):
        return re.search(rf"\[\s*{re.escape(name)}\(", rendered) is not None
    shape = family.shape
    assert isinstance(shape, Objects)
    pattern = rf'\{{\s*"{shape.name}":\s*"{re.escape(name)}",\s*"{shape.arguments}":'
    return re.search(pattern, rendered) is not None
