"""Answers as they were generated, token by token, found again when a client sends them back as messages.

Rendering an answer anew need not give the tokens that were generated: the same text has many spellings in tokens, a
client writes a call's arguments in its own way, reasoning may not come back at all. The prefix cache holds what was
generated, so the prompt should too. An answer is remembered under the prompt it followed and what it visibly said.

What is remembered may be kept elsewhere, beside what was computed for these tokens, and be learnt by another process:
its key is made of tokens and words alone.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from shared import exact
from shared.messages import Message, ReasoningPart, TextPart, ToolCallPart

_BUDGET_BYTES = 32 * 1024 * 1024
_KEY_BYTES = 20


@dataclass(frozen=True, slots=True)
class Said:
    """What of an answer comes back: its text, its calls with their arguments in one notation, and its reasoning
    (empty when the client does not send it back)."""

    text: str
    calls: tuple[tuple[str, str], ...]
    reasoning: str

    @classmethod
    def of(cls, text: str, calls: Sequence[tuple[str, str]], reasoning: str) -> Said:
        normal = tuple((name, _normal(arguments)) for name, arguments in calls)
        return cls(text.strip(), normal, reasoning.strip())

    @classmethod
    def by(cls, message: Message) -> Said:
        return cls.of(
            "".join(part.text for part in message.parts if isinstance(part, TextPart)),
            [(part.name, part.arguments) for part in message.parts if isinstance(part, ToolCallPart)],
            "".join(part.text for part in message.parts if isinstance(part, ReasoningPart)),
        )

    def is_like(self, message: Message) -> bool:
        """Whether a message visibly says the same."""
        other = Said.by(message)
        return (self.text, self.calls) == (other.text, other.calls)

    def digest(self, prompt: bytes) -> bytes:
        content = repr((self.text, self.calls)).encode("utf-8", "replace")
        return hashlib.blake2b(content, key=prompt[:64], digest_size=_KEY_BYTES).digest()

    @property
    def thought(self) -> bytes:
        """A digest of the reasoning, empty where there is none."""
        if not self.reasoning:
            return b""
        return hashlib.blake2b(self.reasoning.encode("utf-8", "replace"), digest_size=_KEY_BYTES).digest()


def _normal(arguments: str) -> str:
    """Numbers by their value: clients write them in their own way."""
    try:
        return json.dumps(exact.plain(exact.loads(arguments)), sort_keys=True)
    except (ValueError, RecursionError):
        return arguments


@dataclass(frozen=True, slots=True)
class Spelling:
    """An answer's tokens as they were generated, without an end token. `key` is a digest of the prompt that it followed
    and of what it visibly said, `reasoning` one of what it thought, empty where nothing."""

    key: bytes
    reasoning: bytes
    tokens: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        return 36 * len(self.tokens) + 400


class AnswerMemory:
    """Thread-safe. Forgets the longest unused first."""

    def __init__(self, budget_bytes: int = _BUDGET_BYTES) -> None:
        self._budget_bytes = budget_bytes
        self._bytes = 0
        self._answers: OrderedDict[bytes, Spelling] = OrderedDict()
        self._lock = threading.Lock()

    def remember(self, prompt: bytes, said: Said, tokens: Sequence[int]) -> Spelling:
        """`prompt` is the digest of the prompt that was answered; `tokens` those generated, without an end token."""
        spelling = Spelling(said.digest(prompt), said.thought, tuple(tokens))
        self.learn(spelling)
        return spelling

    def learn(self, spelling: Spelling) -> None:
        """What was remembered elsewhere, or before."""
        with self._lock:
            old = self._answers.pop(spelling.key, None)
            self._bytes += spelling.size_bytes - (0 if old is None else old.size_bytes)
            self._answers[spelling.key] = spelling
            while self._bytes > self._budget_bytes:
                self._bytes -= self._answers.popitem(last=False)[1].size_bytes

    def recall(self, prompt: bytes, message: Message) -> tuple[int, ...] | None:
        """The tokens generated for this message after that prompt, if they are known. Reasoning that the client sends
        must be the same; reasoning that it keeps back is restored."""
        said = Said.by(message)
        key = said.digest(prompt)
        with self._lock:
            answer = self._answers.get(key)
            if answer is None or (said.reasoning and said.thought != answer.reasoning):
                return None
            self._answers.move_to_end(key)
            return answer.tokens
