"""Makes conversations stable: the same one always renders to the same prompt, one that grew to a continuation of it.

A chat client repeats the whole conversation at every turn, and never quite in the same words: content is a string
here and a list of blocks there, system messages appear in the middle, parallel tool results come in the order in which
the tools ended. `canonicalise` removes those differences. It is a pure function of the message list in which every
message up to the last assistant message depends only on what stands before it: when a client appends an answer and
what follows it, the canonical messages of the shorter list begin those of the longer one, unchanged.

Between two assistant messages (a gap) the order is: tool results in the order of their calls, then one user message.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from shared import exact
from shared.messages import (
    Message,
    Part,
    ReasoningPart,
    ResultPart,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from shared.request import GenerateRequest

# Stands for an answer without text where a client takes such an answer for a failure and asks for it again. Claude Code
# does that for white space too; a zero-width space is none, shows nothing, and comes back with the thinking beside it.
FILLER = "\u200b"

# Between texts that reach us apart but belong to one message. One separator everywhere, so that it cannot matter
# whether the client or we put two texts together.
SEPARATOR = "\n"

_P = TypeVar("_P", Part, ResultPart)


class CallLedger:
    """Follows the tool calls and results of one conversation, in the client's order.

    A call without a result is accepted: clients leave such calls behind when a person interrupts, and templates render
    them. A result that answers no open call (its call was cut away, or has a result already) becomes text.
    """

    def __init__(self) -> None:
        self._open: dict[str, bool] = {}  # id -> whether its last call waits for a result
        self._names: dict[str, str] = {}

    def call(self, call_id: str, name: str) -> bool:
        """Whether the id is free: False when it already names a call that has no result yet."""
        is_free = not self._open.get(call_id)
        self._open[call_id] = True
        self._names[call_id] = name
        return is_free

    def result(self, result: ToolResultPart, name: str = "") -> tuple[Part, ...]:
        """The result itself, or what a user would say of it. `name` is the tool's, where the client sends it along."""
        if self._open.get(result.call_id):
            self._open[result.call_id] = False
            return (result,)
        return _stray_result(result, self._names.get(result.call_id, name))


def _stray_result(result: ToolResultPart, name: str) -> tuple[Part, ...]:
    what = "Error" if result.is_error else "Result"
    heading = f"{what} of an earlier call of the tool {name}:" if name else f"{what} of an earlier tool call:"
    return (TextPart(text=heading), *result.parts)


def arguments_text(value: Any) -> str:
    """A tool call's arguments as JSON text with the separators that chat templates (and so most models) write."""
    return exact.dumps(value, ensure_ascii=False)


def normal_arguments(text: str) -> str:
    """Arguments a client sent as text, in the form of `arguments_text`; text that is no JSON object stays as it is."""
    try:
        value = exact.loads(text)
        if not isinstance(value, dict):
            return text
        return whole_characters(arguments_text(value))
    except (ValueError, RecursionError):
        return text


def whole_characters(text: str) -> str:
    """The text with U+FFFD for each half of a surrogate pair: an escaped one is legal JSON, but no text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def canonicalise(request: GenerateRequest) -> GenerateRequest:
    """The request with canonical messages; nothing else changes.

    The head is one system message (or none); every later system message became user text in place; tool results are
    `tool` messages of one result each, before the user text of their gap; neighbours of one role are one message;
    neighbouring texts are one text; empty parts and messages are gone; call ids count the calls of the conversation.
    """
    messages = request.messages
    head_length = next((i for i, m in enumerate(messages) if m.role != "system"), len(messages))
    canonical: list[Message] = []
    head = join_texts((part for m in messages[:head_length] for part in m.parts), SEPARATOR)
    if head:
        canonical.append(Message(role="system", parts=head))
    ids = _CallIds()
    gap: list[Message] = []
    for message in messages[head_length:]:
        if message.role != "assistant":
            gap.append(message)
        elif said := [part for part in message.parts if _is_said(part)]:
            canonical.extend(_canonical_gap(gap, ids))
            gap.clear()
            _append_assistant(canonical, said, ids)
    canonical.extend(_canonical_gap(gap, ids))
    return replace(request, messages=tuple(canonical))


class _CallIds:
    """Client ids -> ids that only count. Ids are random, so a template that shows them would otherwise make equal
    conversations differ. Nine letters and digits is the one form that every known template accepts (Mistral's)."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._count = 0

    def of_call(self, call_id: str) -> str:
        number = self._numbers[call_id] = self._count
        self._count += 1
        return _call_id(number)

    def number(self, call_id: str) -> int | None:
        return self._numbers.get(call_id)


def _call_id(number: int) -> str:
    return f"call{number:05d}"


def has_words(text: str) -> bool:
    """Whether text is more than white space and filler."""
    return bool(text.replace(FILLER, "").strip())


def _is_said(part: Part) -> bool:
    """Text without words is not: clients may or may not send it back."""
    return has_words(part.text) if isinstance(part, (TextPart, ReasoningPart)) else True


def _append_assistant(canonical: list[Message], parts: Iterable[Part], ids: _CallIds) -> None:
    """Nothing is put between texts: that would be text the model did not generate."""
    numbered = (replace(part, id=ids.of_call(part.id)) if isinstance(part, ToolCallPart) else part for part in parts)
    before = canonical.pop().parts if canonical and canonical[-1].role == "assistant" else ()
    canonical.append(Message(role="assistant", parts=join_texts((*before, *numbered), "")))


def _canonical_gap(gap: Sequence[Message], ids: _CallIds) -> list[Message]:
    results: list[tuple[int, ToolResultPart]] = []
    rest: list[Part] = []
    for message in gap:
        for part in message.parts:
            if isinstance(part, ToolResultPart):
                results.append(_canonical_result(part, ids))
            else:
                rest.append(part)
    results.sort(key=lambda numbered: numbered[0])
    messages = [Message(role="tool", parts=(result,)) for _, result in results]
    user = join_texts(rest, SEPARATOR)
    if user:
        messages.append(Message(role="user", parts=user))
    return messages


def _canonical_result(result: ToolResultPart, ids: _CallIds) -> tuple[int, ToolResultPart]:
    """With its call's number, so that parallel results sort into the order of their calls; without one it goes last."""
    number = ids.number(result.call_id)
    call_id = result.call_id if number is None else _call_id(number)
    parts: tuple[ResultPart, ...] = join_texts(result.parts, SEPARATOR)
    order = 1 << 62 if number is None else number
    return order, ToolResultPart(call_id=call_id, parts=parts, is_error=result.is_error)


def join_texts(parts: Iterable[_P], separator: str) -> tuple[_P, ...]:
    """Neighbouring texts as one, empty texts gone."""
    joined: list[_P] = []
    run: list[str] = []
    for part in parts:
        if isinstance(part, TextPart):
            if part.text:
                run.append(part.text)
            continue
        if run:
            joined.append(TextPart(text=separator.join(run)))
            run = []
        joined.append(part)
    if run:
        joined.append(TextPart(text=separator.join(run)))
    return tuple(joined)
