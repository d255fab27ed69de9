"""What the echo engine says: a whole answer, planned from the conversation before any of it is generated. Pure but for
the moment at which it was planned.

Lines of the last user message that begin with one of these are obeyed, all others are echoed:

    call NAME {"json": 1}    call the tool NAME (when the request has it), arguments as written, even if broken
    echo:think TEXT          reason TEXT first (unless the request switches reasoning off)
    echo:words N             say N words
    echo:clock               say first, in monotonic ns, when this request was prepared, submitted, and this said
    echo:fail CODE TEXT      end with `Failed`, a code of `shared.errors`
    echo:hang                keep running without ever saying anything (alone, it counts as a stall in the end)
    echo:freeze              the engine stops making progress, as with a hung GPU
    echo:break               the engine raises out of `step`
    echo:die                 the process is killed, as by a fault of the system's

After a tool's result the result's text is echoed and nothing in it is obeyed. A tool choice of "any" or "tool"
calls a tool with `{}` when no line does.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import orjson

from shared.events import (
    Event,
    Failed,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    ToolCallFinished,
    ToolCallStarted,
)
from shared.exact import dump_bytes
from shared.messages import Message, ReasoningPart, TextPart, ToolCallPart, ToolResultPart
from shared.request import GenerateRequest

_WORD = re.compile(r"\s*\S+|\s+$")
_CALL = re.compile(r"call ([\w.-]+) (\{.*)")
_DIRECTIVE = re.compile(r"echo:(think|words|clock|fail|hang|freeze|break|die)\b ?(.*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What the last message asks the engine to do. `mode` is "" or clock, hang, freeze, break, die."""

    reasoning: str = ""
    text: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    failure: Failed | None = None
    mode: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One generated word: which text it adds to (`kind`) and the events it makes."""

    kind: str
    text: str
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A whole answer, known before it is generated. `prepared_ns` is when, on the monotonic clock."""

    tokens: tuple[Token, ...]
    reason: FinishReason
    prepared_ns: int
    stop_sequence: str = ""
    failure: Failed | None = None
    mode: str = ""


def split_words(text: str) -> list[str]:
    """Words with the white space before them; joined they are the text again."""
    return _WORD.findall(text)


def prompt_words(request: GenerateRequest) -> tuple[list[str], list[int]]:
    """The words of everything the client sent, at least one: tools, raw prompt, messages. And how many they are up to
    the end of the tools, and of each message."""
    words: list[str] = []
    for tool in request.tools:
        for text in (tool.name, tool.description, dump_bytes(tool.parameters).decode()):
            words += text.split()
    words += request.raw_text.split()
    ends = [len(words)]
    for message in request.messages:
        for text in _texts(message):
            words += text.split()
        ends.append(len(words))
    return words or [""], ends


def count_words(request: GenerateRequest) -> int:
    """Words of everything the client sent, at least 1."""
    return len(prompt_words(request)[0])


def said_words(tokens: Sequence[Token]) -> list[str]:
    """An answer's words as `prompt_words` finds them once the answer is part of the conversation."""
    words: list[str] = []
    for token in tokens:
        words += [event.name for event in token.events if isinstance(event, ToolCallStarted)]
        words += token.text.split()
    return words


def _demanded_call(request: GenerateRequest) -> list[tuple[str, str]]:
    if not request.tools or request.tool_choice.mode not in ("any", "tool"):
        return []
    return [(request.tool_choice.name or request.tools[0].name, "{}")]


def parse_script(request: GenerateRequest) -> Script:
    """Read the last message as the module's text says."""
    last = request.messages[-1] if request.messages else None
    if last is None:
        return Script(text=request.raw_text)
    if last.role == "tool":
        return Script(text="\n".join(_texts(last)))
    lines: list[str] = []
    calls: list[tuple[str, str]] = []
    reasoning: list[str] = []
    words: list[str] = []
    failure: Failed | None = None
    mode = ""
    names = {tool.name for tool in request.tools} if request.tool_choice.mode != "none" else set()
    for line in "\n".join(_texts(last)).split("\n"):
        call = _CALL.fullmatch(line.strip())
        directive = _DIRECTIVE.fullmatch(line.strip())
        if call and call[1] in names:
            calls.append((call[1], call[2]))
        elif directive is None:
            lines.append(line)
        elif directive[1] == "think":
            reasoning.append(directive[2])
        elif directive[1] == "words":
            words = [f"word{n}" for n in range(int(directive[2]) if directive[2].isdigit() else 0)]
        elif directive[1] == "fail":
            code, _, message = directive[2].partition(" ")
            failure = Failed(code=code or "internal", message=message or "echo:fail")
        else:
            mode = directive[1]
    calls = calls or _demanded_call(request)
    return Script(
        reasoning="" if request.reasoning.enabled is False else "\n".join(reasoning),
        text=" ".join(words) if words else "\n".join(lines).strip("\n"),
        calls=tuple(calls if request.tool_choice.parallel else calls[:1]),
        failure=failure,
        mode=mode,
    )


def build_plan(request: GenerateRequest, budget_tokens: int) -> Plan:
    """The answer, cut at the first stop sequence in its text and at `budget_tokens`."""
    script = parse_script(request)
    text, stop = _cut(script.text, request.sampling.stop)
    calls = () if stop else script.calls
    tokens = _within_budget(_tokens(script.reasoning, text, calls, request), request.reasoning.budget_tokens)
    reason: FinishReason = "stop_sequence" if stop else "tool_calls" if calls else "stop"
    if len(tokens) > budget_tokens:
        tokens, reason, stop = _truncated(tokens, budget_tokens), "length", ""
        limit = request.sampling.max_tokens
        if limit is None or limit > budget_tokens:
            reason = "context_length"
    return Plan(
        tokens=tuple(tokens),
        reason=reason,
        prepared_ns=time.monotonic_ns(),
        stop_sequence=stop,
        failure=script.failure,
        mode=script.mode,
    )


def _cut(text: str, stops: tuple[str, ...]) -> tuple[str, str]:
    """(text before the earliest stop sequence, that sequence); the longest wins at one place."""
    found = [(text.find(stop), -len(stop), stop) for stop in stops if stop and stop in text]
    if not found:
        return text, ""
    at, _, stop = min(found)
    return text[:at], stop


def _tokens(reasoning: str, text: str, calls: tuple[tuple[str, str], ...], request: GenerateRequest) -> Iterator[Token]:
    for word in split_words(reasoning):
        yield Token(kind="reasoning", text=word, events=(ReasoningDelta(text=word),))
    with_logprobs = request.sampling.top_logprobs is not None
    for word in split_words(text):
        logprobs = (TokenLogprob(token=word, logprob=0.0, token_bytes=word.encode()),) if with_logprobs else ()
        yield Token(kind="text", text=word, events=(TextDelta(text=word, logprobs=logprobs),))
    for index, (name, arguments) in enumerate(calls):
        pieces = split_words(arguments)
        for number, piece in enumerate(pieces):
            events: list[Event] = [ToolCallDelta(index=index, arguments=piece)]
            if number == 0:
                events.insert(0, ToolCallStarted(index=index, id=f"call_{request.id}_{index}", name=name))
            if number == len(pieces) - 1:
                events.append(ToolCallFinished(index=index, is_valid=_is_object(arguments)))
            yield Token(kind="call", text=piece, events=tuple(events))


def _within_budget(tokens: Iterable[Token], budget_tokens: int | None) -> list[Token]:
    """The answer goes on where its reasoning has used up the budget for it."""
    every = list(tokens)
    if budget_tokens is None:
        return every
    thoughts = [token for token in every if token.kind == "reasoning"][:budget_tokens]
    return [*thoughts, *(token for token in every if token.kind != "reasoning")]


def _truncated(tokens: list[Token], budget_tokens: int) -> list[Token]:
    """The first tokens; a tool call that is cut is closed as invalid."""
    kept = tokens[:budget_tokens]
    if kept and kept[-1].kind == "call" and not isinstance(kept[-1].events[-1], ToolCallFinished):
        last = kept[-1]
        index = next(event.index for event in last.events if isinstance(event, ToolCallDelta))
        closing = ToolCallFinished(index=index, is_valid=False)
        kept[-1] = Token(kind=last.kind, text=last.text, events=(*last.events, closing))
    return kept


def _is_object(text: str) -> bool:
    try:
        return isinstance(orjson.loads(text), dict)
    except orjson.JSONDecodeError:
        return False


def _texts(message: Message) -> Iterator[str]:
    for part in message.parts:
        match part:
            case TextPart(text=text) | ReasoningPart(text=text):
                yield text
            case ToolCallPart(name=name, arguments=arguments):
                yield f"{name} {arguments}"
            case ToolResultPart(parts=parts):
                yield from (piece.text for piece in parts if isinstance(piece, TextPart))
            case _:
                pass
