"""The form that an answer must have, for llama.cpp's server.

Where it was built with llguidance (the wheel is) it takes the grammars that the MLX engine takes, for calls, schemas
and reasoning alike. Where not, its own `json_schema` does for an answer without calls and reasoning; anything else is
refused rather than promised.
"""

from __future__ import annotations

from collections.abc import Callable

from shared.errors import InvalidRequestError
from shared.request import GenerateRequest
from worker.engines.gguf.completion import Form
from worker.engines.tokens.constraint import Grammar, is_demanding, must_have_form
from worker.formats.grammars.lark import FIXED_WHITESPACE, WHITESPACE
from worker.prompt import Prompt

MARK = "%llguidance {}\n"
Compile = Callable[..., Grammar | None]


def form_of(
    request: GenerateRequest, prompt: Prompt, compile_: Compile, *, has_llguidance: bool
) -> tuple[Form, tuple[str, ...]]:
    """(the form, what of it is not enforced). Raises `InvalidRequestError` where it is demanded and cannot be had."""
    if not is_demanding(request):
        return Form(), ()
    if not has_llguidance:
        return _without(request, prompt)
    grammar = compile_(request, in_reasoning=prompt.in_reasoning, continues=prompt.continues)
    if grammar is None or not grammar.text:
        return Form(), () if grammar is None else grammar.warnings
    if grammar.begun:
        raise InvalidRequestError("a begun answer cannot be held to a schema by llama.cpp's server", param="messages")
    # The server's llguidance may be older than ours.
    text = (grammar.unreasoned or grammar.text).replace(WHITESPACE, FIXED_WHITESPACE)
    return Form(grammar=MARK + text), grammar.warnings


def _without(request: GenerateRequest, prompt: Prompt) -> tuple[Form, tuple[str, ...]]:
    if not must_have_form(request):
        return Form(), ("the arguments of strict tools are not enforced by this llama.cpp server",)
    if request.response_schema is None or request.tool_choice.mode in ("any", "tool"):
        raise _refusal("a call cannot be demanded", "tool_choice")
    if prompt.in_reasoning or prompt.continues:
        raise _refusal("a schema cannot be enforced behind reasoning or a begun answer", "response_format")
    return Form(json_schema=request.response_schema or {"type": "object"}), ()


def _refusal(what: str, param: str) -> InvalidRequestError:
    return InvalidRequestError(f"{what} here: this llama.cpp server was built without llguidance", param=param)
