"""The part of a JSON schema that a grammar can be made of: whatever else it says, the rest is kept.

Clients send schemas by the thousand keywords, and a compiler of grammars refuses a whole schema for one bound, one
pattern or one unknown type. So the places it refuses are looked for, and lose one keyword at a time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

from shared import exact
from worker.formats.schemas import Schema
from worker.formats.unenforced import Unenforced, joined

_KEYED = ("$defs", "definitions", "properties", "patternProperties", "dependentSchemas")
_LISTED = ("prefixItems", "anyOf", "oneOf", "allOf")
_SINGLE = (
    *("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames"),
    *("unevaluatedProperties", "unevaluatedItems"),
)
# What gives a schema its form goes last.
_FORM = ("type", "enum", "const", "items", "prefixItems", "required", "anyOf", "allOf", "properties", "$defs", "$ref")
# Characters given to the compiler, all tries together: a few seconds' worth.
_MOST_CHARS = 2_000_000


def enforceable(schema: Schema, complaint: Callable[[Schema], str]) -> tuple[Schema, tuple[Unenforced, ...], str]:
    """(the schema without the keywords that cannot be enforced, which those are, what is still wrong with it).

    `complaint` says what a compiler has against a schema, empty for nothing.
    """
    error = complaint(schema)
    if not error:
        return schema, (), ""
    fitting = _Fitting(copy.deepcopy(schema), complaint)
    fitting.fit(fitting.root, "")
    return fitting.root, tuple(dict.fromkeys(fitting.dropped)), fitting.complaint_about(fitting.root)


class _Fitting:
    """One schema on its way; `root` is changed in place."""

    def __init__(self, root: Schema, complaint: Callable[[Schema], str]) -> None:
        self.root = root
        self.dropped: list[Unenforced] = []
        self._complaint = complaint
        self._left_chars = _MOST_CHARS

    def complaint_about(self, node: Schema) -> str:
        """Of the node as a document of its own. Nothing is found wrong any more when too much was tried."""
        document = node if node is self.root else rooted(node, self.root)
        self._left_chars -= len(exact.dumps(document))
        return self._complaint(document) if self._left_chars > 0 or node is self.root else ""

    def fit(self, node: Schema, path: str) -> None:
        if not self.complaint_about(node):
            return
        for keyword, holder, key in list(_places(node)):
            child, inside = holder[key], _below(path, keyword, key)
            if isinstance(child, dict):
                self.fit(child, inside)
            elif not isinstance(child, bool):
                holder[key] = True
                self.dropped.append(Unenforced(keyword, inside))
        while node and (error := self.complaint_about(node)) and self._left_chars > 0:
            self.dropped.append(Unenforced(self._drop_one(node, error), path))

    def _drop_one(self, node: Schema, error: str) -> str:
        """The keyword without which the compiler says something else, those it names and those of least weight
        first."""
        order = sorted(node, key=lambda keyword: (keyword not in error, keyword in _FORM, _weight(keyword)))
        for keyword in order:
            without = _without(node, keyword)
            if self.complaint_about(without) != error:
                break
        else:
            keyword = order[0]
            without = _without(node, keyword)
        node.clear()
        node.update(without)
        return keyword


def _below(path: str, keyword: str, key: Any) -> str:
    """The path of a schema inside another, by the keyword that holds it."""
    match keyword:
        case "properties":
            return joined(path, key)
        case "items" | "prefixItems" | "contains" | "unevaluatedItems":
            return joined(path, "[]")
        case "patternProperties" | "additionalProperties" | "unevaluatedProperties":
            return joined(path, "*")
        case "$defs" | "definitions":
            return joined(path, keyword, key)
        case _:
            return path


def where(schema: Any, keyword: str, path: str = "") -> Iterator[str]:
    """The paths of the places in a schema that have this keyword."""
    if isinstance(schema, dict):
        if keyword in schema:
            yield path
        for word, holder, key in _places(schema):
            yield from where(holder[key], keyword, _below(path, word, key))


def _weight(keyword: str) -> int:
    return _FORM.index(keyword) if keyword in _FORM else 0


def _without(node: Schema, keyword: str) -> Schema:
    """That only one alternative may fit is dropped without dropping the alternatives."""
    without = {key: value for key, value in node.items() if key != keyword}
    if keyword == "oneOf" and isinstance(node["oneOf"], list):
        without.setdefault("anyOf", node["oneOf"])
    return without


def _places(node: Schema) -> Iterator[tuple[str, Any, Any]]:
    """(keyword, what holds it, under which key) of every schema directly inside."""
    for keyword in (*_KEYED, *_LISTED):
        held = node.get(keyword)
        if isinstance(held, dict) and keyword in _KEYED:
            yield from ((keyword, held, key) for key in held)
        elif isinstance(held, list) and keyword in _LISTED:
            yield from ((keyword, held, index) for index in range(len(held)))
    yield from ((keyword, node, keyword) for keyword in _SINGLE if isinstance(node.get(keyword), dict))


def rooted(schema: Schema, root: Schema) -> Schema:
    """A part of the document `root` as a document of its own: its references still lead where they led."""
    if '"$ref"' not in exact.dumps(schema):
        return schema
    return {**_moved(schema), "$defs": {"root": _moved(root)}}


def _moved(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {
            key: f"#/$defs/root{item[1:]}"
            if key == "$ref" and isinstance(item, str) and item.startswith("#")
            else _moved(item)
            for key, item in schema.items()
        }
    return [_moved(item) for item in schema] if isinstance(schema, list) else schema
