"""Forms of answers that clients write themselves: regular expressions, and grammars in Lark's or llama.cpp's notation.

Lark: https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md. GBNF, told by its `::=`:
https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md.
"""

from __future__ import annotations

import re

from llguidance.gbnf_to_lark import GbnfToLarkError, gbnf_to_lark

from shared.errors import InvalidRequestError
from shared.request import GenerateRequest
from worker.formats.grammars.lark import Rules

_GBNF = "::="
_SLASH = re.compile(r"(\\.)|/", re.DOTALL)


def has_written_form(request: GenerateRequest) -> bool:
    return bool(request.response_pattern or request.response_grammar)


def written_form(rules: Rules, request: GenerateRequest) -> str:
    """The name of a rule that matches the whole answer. Raises `InvalidRequestError` for a grammar in no notation."""
    if request.response_pattern:
        return rules.terminal(f"/{_between_slashes(request.response_pattern)}/")
    return rules.rule(f"%lark {{\n{_lark(request.response_grammar)}\n}}")


def _between_slashes(pattern: str) -> str:
    """An expression matches the whole answer, so that anchors around it say nothing more."""
    whole = pattern.removeprefix("^")
    if whole.endswith("$") and not whole.endswith(r"\$"):
        whole = whole[:-1]
    inner = _SLASH.sub(lambda found: found[1] or r"\/", whole)
    return f"({inner})".replace("\n", r"\n")


def _lark(grammar: str) -> str:
    if _GBNF not in grammar:
        return grammar
    try:
        return str(gbnf_to_lark(grammar))
    except GbnfToLarkError as error:
        raise InvalidRequestError(f"the grammar cannot be read: {error}") from error
