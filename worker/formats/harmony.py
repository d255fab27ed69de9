"""The harmony format of gpt-oss: an answer is a row of messages, each a header and a body, between control tokens.

    <|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>commentary to=functions.NAME <|constrain|>json
    <|message|>{…}<|call|>

The header's channel says what the body is: reasoning (`analysis`), or text (`final`, `commentary`). A recipient in it
makes the body the arguments of a call. The first header's `<|start|>assistant` stands in the prompt. Control tokens are
known by their ids, so text that only spells one stays text.

The format: https://cookbook.openai.com/articles/openai-harmony
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal

START, CHANNEL, MESSAGE, CONSTRAIN = "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>"
END, CALL, RETURN = "<|end|>", "<|call|>", "<|return|>"
# What begins the messages of an answer.
ANALYSIS = f"{CHANNEL}analysis{MESSAGE}"
COMMENTARY = f"{CHANNEL}commentary{MESSAGE}"
FINAL = f"{CHANNEL}final{MESSAGE}"
# Begins a call; the tool's name follows.
FUNCTIONS = f"{CHANNEL}commentary to=functions."
# Begins an answer; and between two messages of one answer.
HEADER = f"{START}assistant"
NEXT = f"{END}{HEADER}"

# What every template of the format writes; some end a call as any other message.
_NEEDED = frozenset({START, CHANNEL, MESSAGE, END})
_CHANNELS = ("analysis", "commentary", "final")
_BEGUN_CHANNELS = tuple(name[:end] for name in _CHANNELS for end in range(len(name) + 1))
# A header is longer than this only when it is none: tools have names of up to 128 characters.
_HEADER_CHARS = 512
_ROLE = re.compile(r"\s*(?:(?:assistant|user|system|developer|tool)\b|functions\.\S+)?")
_RECIPIENT = re.compile(r"(?<!\S)to=(\S*)\s*")
_WORD = re.compile(r"\s*(\S*)")
_TYPE = re.compile(r"\s*<?[\w/+.-]*>?\s*")
# Whom an answer speaks to anyway.
_NOBODY = frozenset({"", "user", "assistant", "all"})


def is_harmony(control_tokens: Collection[str]) -> bool:
    """Whether a vocabulary or a template that has these control tokens is one of this format."""
    return _NEEDED.issubset(control_tokens)


def end_tokens(vocabulary: Mapping[str, int], ends: Collection[int]) -> frozenset[int]:
    """Ids that end an answer of such a model, whatever else its files say: a call and the last message do, the end of
    another message does not."""
    closing = {vocabulary[token] for token in (CALL, RETURN) if token in vocabulary}
    return frozenset({*ends, *closing} - {vocabulary[END]})


def call_of(recipient: str, offered: Collection[str]) -> str:
    """The tool that a message to this recipient calls; empty when it is none: a tool built into the model's training
    (`browser.search`, `python`), which nobody here would answer. `offered` are the names of the request's tools."""
    name = recipient.removeprefix("functions.")
    if name != recipient:
        return name
    return name if name.casefold() in {known.casefold() for known in offered} else ""


@dataclass(frozen=True, slots=True)
class Opened:
    """A message's body begins. `recipient` is empty for reasoning and text."""

    kind: Literal["reasoning", "text", "call"]
    recipient: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """More of the body."""

    text: str


@dataclass(frozen=True, slots=True)
class Closed:
    """The body ended; `is_complete` is false when the answer was cut inside it."""

    is_complete: bool = True


Step = Opened | Said | Closed


@dataclass(frozen=True, slots=True)
class _Header:
    """`rest` is what is no part of a header: text without markup around it."""

    channel: str
    recipient: str
    rest: str


class Turn:
    """Splits one answer into messages. Every character that is fed is in a body, or was part of a header.

    `is_call` says whether a recipient is a tool. Text that no header precedes is text, and a header that no body
    follows is shown where it holds more than routing; where the answer is cut in it, one that names a recipient, or
    begins to, is dropped.
    """

    __slots__ = ("_is_call", "_segments", "in_body")

    def __init__(self, is_call: Callable[[str], bool]) -> None:
        self._is_call = is_call
        self.in_body = False
        self._segments: list[tuple[str, str]] = []

    def text(self, text: str) -> list[Step]:
        if not text:
            return []
        if self.in_body:
            return [Said(text)]
        if not self._segments:
            self._segments.append((START, ""))
        mark, before = self._segments[-1]
        room = _HEADER_CHARS - sum(len(held) for _, held in self._segments)
        self._segments[-1] = (mark, before + text[:room])
        if len(text) < room:
            return []
        return [*self._shown(is_complete=False), *self.text(text[room:])]

    def control(self, token: str) -> list[Step]:
        """`token` is a control token's text; one that has no meaning where it stands is passed over."""
        if token in (MESSAGE, CONSTRAIN):
            if self.in_body:
                return []
            if token == MESSAGE:
                return self._opened()
            self._segments.append((token, ""))
            return []
        if token == CHANNEL:
            steps: list[Step] = self._close() if self.in_body else []
            self._segments.append((token, ""))
            return steps
        if token not in (START, END, CALL, RETURN):
            return []
        steps = self._ended(is_complete=True)
        if token == START:
            self._segments.append((token, ""))
        return steps

    def go_on(self) -> None:
        """The prompt ends here. A role that it has given is not looked for in what the model writes."""
        if not self.in_body and self._segments:
            self._segments.append(("", ""))

    def finish(self, *, is_complete: bool) -> list[Step]:
        """No more comes; `is_complete` when the model ended the answer itself."""
        return self._ended(is_complete=is_complete)

    def _close(self, *, is_complete: bool = True) -> list[Step]:
        self.in_body = False
        return [Closed(is_complete)]

    def _ended(self, *, is_complete: bool) -> list[Step]:
        """A message ends, or a header that no body followed."""
        steps = [] if self.in_body or (not is_complete and self._is_routing()) else self._shown(is_complete=is_complete)
        if self.in_body:
            steps = [*steps, *self._close(is_complete=is_complete)]
        self._segments.clear()
        return steps

    def _is_routing(self) -> bool:
        """Whether the header that was begun is nothing but a recipient, with a type of content perhaps, or may be."""
        header = _read(self._segments, has_body=False, channels=_BEGUN_CHANNELS)
        rest = header.rest.strip()
        return "to=".startswith(rest) or (bool(header.recipient) and " " not in rest)

    def _opened(self) -> list[Step]:
        header = _read(self._segments, has_body=True, channels=_CHANNELS)
        self._segments.clear()
        self.in_body = True
        steps: list[Step] = []
        if header.rest:
            steps = [Opened("text"), Said(header.rest), Closed()]
        return [*steps, *self._begin(header)]

    def _begin(self, header: _Header) -> list[Step]:
        if header.recipient in _NOBODY:
            return [Opened("reasoning" if header.channel == "analysis" else "text")]
        if self._is_call(header.recipient):
            return [Opened("call", header.recipient)]
        return [Opened("text"), Said(f"to={header.recipient} ")]

    def _shown(self, *, is_complete: bool) -> list[Step]:
        """What a header without a body is: a call without arguments, or text."""
        header = _read(self._segments, has_body=False, channels=_CHANNELS if is_complete else _BEGUN_CHANNELS)
        self._segments.clear()
        addressed = header.recipient not in _NOBODY
        if addressed and is_complete and not header.rest and self._is_call(header.recipient):
            self.in_body = True
            return [Opened("call", header.recipient)]
        text = " ".join(part for part in (f"to={header.recipient}" if addressed else "", header.rest) if part)
        if not text:
            return []
        self.in_body = True
        return [Opened("text"), Said(text)]


def _read(segments: list[tuple[str, str]], *, has_body: bool, channels: Collection[str]) -> _Header:
    """A header's parts. Before a body, a channel may have any name and a type of content may follow it; without one
    only one of `channels` counts as such."""
    channel = recipient = ""
    rest: list[str] = []
    for mark, text in segments:
        if found := _RECIPIENT.search(text):
            recipient = recipient or found[1]
            text = text[: found.start()] + text[found.end() :]
        if mark == START:
            text = text[_end(_ROLE, text) :]
        elif mark == CONSTRAIN:
            text = text[_end(_TYPE, text) :]
        elif mark == CHANNEL:
            word = _WORD.match(text)
            name = word[1] if word else ""
            if name and (has_body or name in channels):
                channel = name
                text = text[_end(_WORD, text) :]
            if has_body:
                text = text[_end(_TYPE, text) :]
        if text.strip():
            rest.append(text.lstrip())
    return _Header(channel, recipient, "".join(rest))


def _end(pattern: re.Pattern[str], text: str) -> int:
    match = pattern.match(text)
    return match.end() if match else 0
