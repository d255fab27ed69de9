"""Calls written as Python: `[name(key="text", other=[1, 2]), another()]`."""

from __future__ import annotations

import ast
import re
import warnings
from typing import Any

from shared import exact
from worker.formats.readers.region import Region, dumps

_NAME = re.compile(r"([A-Za-z_][\w.]*)\s*\(")
_NAME_PART = re.compile(r"(?:[A-Za-z_][\w.]*)?\s*")
_KEY = re.compile(r"(\w+)\s*=(?!=)\s*")
_KEY_PART = re.compile(r"\w*\s*=?\s*")
_PLAIN = re.compile(r"[^\"'()\[\]{},]+")
_INSIDE = {'"': re.compile(r'[^\\"]+'), "'": re.compile(r"[^\\']+")}
_CLOSERS = {")": "(", "]": "[", "}": "{"}


# What no JSON can say.
_NO_NUMBERS = ("NaN", "Infinity", "nan", "inf")


class _JsonNames(ast.NodeTransformer):
    """Templates write nested values as JSON, so true, false and null stand beside Python's own names. Numbers stay as
    they are written in `source`."""

    _VALUES = {"true": True, "false": False, "null": None} | dict.fromkeys(_NO_NUMBERS)

    def __init__(self, source: str) -> None:
        self._source = source

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        return self._number(node) if type(node.value) is float else node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        operand = node.operand
        if isinstance(operand, ast.Name) and operand.id in _NO_NUMBERS:
            return ast.Constant(None)
        is_float = isinstance(operand, ast.Constant) and type(operand.value) is float
        return self._number(node) if is_float and isinstance(node.op, ast.USub) else node

    def _number(self, node: ast.expr) -> ast.expr:
        try:
            return ast.Constant(exact.loads(ast.get_source_segment(self._source, node) or ""))
        except ValueError:  # as only Python writes it (`.5`)
            return node

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(self._VALUES[node.id]) if node.id in self._VALUES else node


def literal(text: str) -> Any:
    """The value of a Python or JSON literal. Raises what `ast.literal_eval` raises for anything else."""
    try:
        return _evaluate(text.strip())
    except SyntaxError:
        # A line break inside a one-line string has one reading.
        return _evaluate(text.strip().replace("\n", "\\n"))


def _evaluate(text: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an unknown escape in a string is no concern of ours
        expression = ast.parse(text, mode="eval").body
    return ast.literal_eval(_JsonNames(text).visit(expression))


# What Python raises on text that is no literal, and what falls out of its parser on whatever a model may write.
_UNREADABLE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,  # brackets nested too deep
    RuntimeError,  # RecursionError is one
    SyntaxError,
    TypeError,
    ValueError,
)


def _written(text: str) -> str:
    """The JSON of an argument; what is no literal is passed on as a string."""
    try:
        return dumps(exact.loads(text))
    except _UNREADABLE:
        pass
    try:
        return dumps(literal(text))
    except _UNREADABLE:
        return dumps(text.strip())


class PythonicCalls(Region):
    """Each argument is passed on when it is whole. `lines`: the calls stand on lines of their own, or in a list. `only`
    (tool names, case folded) is for text without markers: another name makes it text."""

    def __init__(self, start: str, end: str, *, lines: bool = False, only: frozenset[str] | None = None) -> None:
        super().__init__(start, end)
        self._only = only
        self._state = self._between if lines else self._open

    def _open(self) -> bool:
        self._skip_space()
        if not self._buffer:
            return False
        if self._buffer[0] != "[":
            return self._show_region()
        self._take(1)
        self._state = self._between
        return True

    def _show_region(self) -> bool:
        ends = self._ends_here()
        if ends is None:
            return False
        return self._end_region() if ends else self._show()

    def _between(self) -> bool:
        while self._buffer and (self._buffer[0].isspace() or self._buffer[0] in ",;[]"):
            self._take(1)
            if self._called:
                self._shown = ""
        ends = self._ends_here()
        if not self._buffer or ends is None:
            return False
        if ends:
            return self._end_region()
        match = _NAME.match(self._buffer)
        if match is not None and self._only is not None and match[1].casefold() not in self._only:
            return self._show()
        if match is not None:
            self._take(match.end())
            self._begin(match[1])
            self._count = 0
            self._state = self._next_key
            return True
        if _NAME_PART.fullmatch(self._buffer) and not self._final:
            return False
        return self._show()

    def _next_key(self) -> bool:
        while self._buffer and (self._buffer[0].isspace() or self._buffer[0] == ","):
            self._take(1)
        if not self._buffer:
            return False
        if self._buffer[0] == ")":
            self._take(1)
            self._arguments("}" if self._count else "{}")
            self._ended(True)
            self._state = self._between
            return True
        match = _KEY.match(self._buffer)
        if match is None or match.end() == len(self._buffer):
            if _KEY_PART.fullmatch(self._buffer) and not self._final:
                return False
            self._state = self._verbatim
            return True
        self._take(match.end())
        self._arguments(("{" if not self._count else ", ") + f'"{match[1]}": ')
        self._count += 1
        self._value = ""
        self._open_brackets: list[str] = []
        self._quote = ""
        self._state = self._in_value
        return True

    def _in_value(self) -> bool:
        """Up to the comma or bracket that ends the value; strings and brackets inside it are skipped."""
        if not self._buffer:
            return False
        if self._quote:
            return self._in_string()
        plain = _PLAIN.match(self._buffer)
        if plain is not None:
            self._value += self._take(plain.end())
            return True
        char = self._buffer[0]
        if char in "\"'":
            return self._open_string(char)
        if char in "([{":
            self._open_brackets.append(char)
        elif not self._open_brackets:
            self._arguments(_written(self._value))
            self._state = self._next_key
            return True
        elif char in _CLOSERS and self._open_brackets[-1] == _CLOSERS[char]:
            self._open_brackets.pop()
        self._value += self._take(1)
        return True

    def _open_string(self, char: str) -> bool:
        if self._buffer in (char, char * 2) and not self._final:
            return False
        self._quote = char * 3 if self._buffer.startswith(char * 3) else char
        self._value += self._take(len(self._quote))
        return True

    def _in_string(self) -> bool:
        text, at = self._buffer, 0
        while at < len(text):
            if run := _INSIDE[self._quote[0]].match(text, at):
                at = run.end()
            elif text[at] == "\\":
                if at + 1 == len(text):
                    break
                at += 2
            elif text.startswith(self._quote, at):
                self._value += self._take(at + len(self._quote))
                self._quote = ""
                return True
            elif self._quote.startswith(text[at:]):
                break  # perhaps the first of three closing quotes
            else:
                at += 1
        self._value += self._take(at)
        return False

    def _verbatim(self) -> bool:
        return self._pass_on(self.end, self._between)

    def _end_of_text(self) -> None:
        if self._state in (self._open, self._between):
            self._end_between()
            return
        if self._state == self._in_value:
            self._arguments(self._value + self._buffer)
        self._ended(False)
