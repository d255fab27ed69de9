"""Calls as the models of each family write them, by the one table of `worker.formats.families`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from worker.formats.families import FAMILIES, Braces, Family, Headed, Nested, Objects, Python, Tagged

Calls = Sequence[tuple[str, dict[str, Any]]]


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def plain(value: Any) -> str:
    return value if isinstance(value, str) else as_json(value)


_TYPES = {str: "string", bool: "boolean", int: "number", float: "number", list: "array", dict: "object"}


def _kind(attribute: str, value: Any) -> str:
    if attribute == "string":
        return "true" if isinstance(value, str) else "false"
    return _TYPES.get(type(value), "null")


def _tagged(family: Family, shape: Tagged, calls: Calls) -> str:
    lead = "\n" if shape.call and not shape.call.before.startswith(family.start) else ""
    return lead + "".join(_tagged_call(family, shape, i, *call) for i, call in enumerate(calls))


def _tagged_call(family: Family, shape: Tagged, index: int, name: str, arguments: dict[str, Any]) -> str:
    if shape.alone and not arguments:
        return shape.alone.format(name=name)
    gap = "" if shape.key.kind == "type" else "\n"
    head = shape.call.write(name, str(index)) if shape.call else name
    head = head.removeprefix(family.start)
    body = "".join(_element(shape, key, value) + gap for key, value in arguments.items())
    return head + gap + body + shape.call_end + (gap if shape.call_end else "")


def _element(shape: Tagged, key: str, value: Any) -> str:
    text = plain(value)
    if shape.cdata and any(char in text for char in "<&\n"):
        text = f"<![CDATA[{text}]]>"
    opening = shape.key.write(key, _kind(shape.key.kind, value)) + ("\n" + shape.value if shape.value else "")
    return opening + shape.frame + text + shape.frame + shape.value_end


def _objects(shape: Objects, calls: Calls) -> str:
    def one(index: int, name: str, arguments: dict[str, Any]) -> str:
        if shape.keyed:
            return as_json({name: arguments})
        number = {shape.id: str(index)} if shape.id else {}
        return as_json({**number, shape.name: name, shape.arguments: arguments})

    written = [one(index, *call) for index, call in enumerate(calls)]
    if shape.fenced:
        return f"\n```json\n[{', '.join(written)}]\n```"
    return f"[{', '.join(written)}]" if shape.listed else "\n" + "\n".join(written) + "\n"


def _headed(family: Family, shape: Headed, calls: Calls) -> str:
    def one(index: int, name: str, arguments: dict[str, Any]) -> str:
        identified = f"7{shape.identified}" if shape.identified else ""
        counted = f":{index}" if shape.counted else ""
        return f"{shape.begin}{identified}{name}{counted}{shape.middle}{as_json(arguments)}{shape.end}"

    written = "".join(one(index, *call) for index, call in enumerate(calls))
    return written.removeprefix(family.start) if shape.begin == family.start else written


def _brace_value(shape: Braces, value: Any) -> str:
    if isinstance(value, str):
        return f"{shape.quote}{value}{shape.quote}"
    if isinstance(value, list):
        return f"[{','.join(_brace_value(shape, item) for item in value)}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_brace_value(shape, item)}" for key, item in value.items()) + "}"
    return as_json(value)


def _braces(shape: Braces, calls: Calls) -> str:
    return "".join(f"call:{name}{_brace_value(shape, arguments)}" for name, arguments in calls)


def _python(shape: Python, calls: Calls) -> str:
    written = [f"{name}({', '.join(f'{key}={value!r}' for key, value in args.items())})" for name, args in calls]
    return "\n" + "\n".join(written) + "\n" if shape.lines else f"[{', '.join(written)}]"


def _nested(shape: Nested, calls: Calls) -> str:
    space = shape.space

    def element(name: str, value: Any) -> str:
        return f"{space}<{name}>{inner(value)}{space}</{name}>"

    def inner(value: Any) -> str:
        if isinstance(value, list):
            return "".join(element(shape.item, item) for item in value)
        if isinstance(value, dict):
            return "".join(element(key, item) for key, item in value.items())
        return plain(value)

    def one(name: str, arguments: dict[str, Any]) -> str:
        body = "\n".join(element(key, value) for key, value in arguments.items())
        return f'{space}<invoke name="{name}">\n{body}\n{space}</invoke>\n'

    return "\n" + "".join(one(*call) for call in calls)


def write_calls(family: Family, calls: Calls) -> str:
    """What stands between the family's markers."""
    match family.shape:
        case Tagged() as shape:
            return _tagged(family, shape, calls)
        case Objects() as shape:
            return _objects(shape, calls) if family.end or shape.fenced else _objects(shape, calls).strip()
        case Headed() as shape:
            return _headed(family, shape, calls)
        case Braces() as shape:
            return _braces(shape, calls)
        case Python() as shape:
            return _python(shape, calls)
        case Nested() as shape:
            return _nested(shape, calls)


def write_answer(family: Family, calls: Calls) -> str:
    """The calls with their markers, in as many regions as the family needs for them."""
    groups = [calls] if holds_several(family) else [[call] for call in calls]
    return "\n".join(f"{family.start}{write_calls(family, group)}{family.end}" for group in groups)


def holds_several(family: Family) -> bool:
    """Whether a region may hold several calls."""
    match family.shape:
        case Tagged(many=many) | Braces(many=many):
            return many
        case Objects(listed=listed):
            return listed or not family.start
        case _:
            return True


def _mistral_list(calls: Calls) -> str:
    return " " + as_json([{"name": name, "arguments": arguments, "id": "a1b2c3d4e"} for name, arguments in calls])


@dataclass(frozen=True)
class Writer:
    """`forbidden` are strings that a value cannot hold in this format, or not safely; `flat`: no lists and objects;
    `names` that the format can write."""

    family: Family
    write: Callable[[Calls], str]
    forbidden: tuple[str, ...] = ()
    flat: bool = False
    names: tuple[str, ...] = ("Write", "list-files")

    @property
    def several(self) -> bool:
        return holds_several(self.family)


def _forbidden(family: Family) -> tuple[str, ...]:
    match family.shape:
        case Tagged(cdata=True):
            return ("]]>", "<param ", "</param>", family.end)
        case Tagged(key=key):
            return (key.opening,)
        case Braces(quote=quote, bare=bare):
            return (quote, "<|", '|"|', "\0", *(["}"] if bare else []))
        case Nested(space=space):
            return (space, "]<", "\0")
        case Headed(begin=begin) if begin:
            return ("<|", "\uff5c", "</tool_call", "</tool_calls")
        case _:
            return ()


def _writer(family: Family) -> Writer:
    return Writer(
        family,
        lambda calls: write_calls(family, calls),
        forbidden=_forbidden(family),
        flat=isinstance(family.shape, Nested) or (isinstance(family.shape, Braces) and family.shape.bare),
        names=("Write", "list_files") if isinstance(family.shape, Python | Braces) else ("Write", "list-files"),
    )


# Of every family that has a start marker, and the list that older Mistral models write.
WRITERS = {name: _writer(family) for name, family in FAMILIES.items() if family.start}
WRITERS["mistral list"] = Writer(FAMILIES["mistral"], _mistral_list)
