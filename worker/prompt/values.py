"""What the builder hands out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from worker.prompt.image_files import Image
from worker.prompt.image_pieces import ImageSpan, cache_keys
from worker.prompt.memory import Said, Spelling


@dataclass(frozen=True, slots=True)
class Boundary:
    """A prefix of the prompt that later prompts share. `offset` counts tokens; `index` is the message that ends there
    ("tools": what conversations with these tools share whatever their system text says; "system": the end of the head;
    "prompt": the end of the last message, before the generation header)."""

    kind: Literal["tools", "system", "message", "prompt"]
    index: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """`in_reasoning` says that the generation header opens a reasoning block; `continues` that the answer goes on
    from an assistant message the client began. `spans` are where the tokens of images stand, in order, and `images`
    holds these by their digest. `warnings` say what the model sees otherwise than it was sent. `marks` are where the
    prefixes of the request's trail lie, in tokens."""

    tokens: list[int]
    boundaries: tuple[Boundary, ...]
    in_reasoning: bool
    continues: bool = False
    spans: tuple[ImageSpan, ...] = ()
    images: Mapping[bytes, Image] = field(default_factory=dict, repr=False, compare=False)
    warnings: tuple[str, ...] = ()
    marks: tuple[tuple[bytes, int], ...] = field(default=(), repr=False, compare=False)
    recorder: Callable[[Said, Sequence[int]], Spelling] | None = field(default=None, repr=False, compare=False)

    @property
    def cache_keys(self) -> Sequence[int]:
        """The tokens by which the prefix cache knows the prompt: those of an image are its own."""
        return cache_keys(self.tokens, self.spans) if self.spans else self.tokens

    def remember(self, said: Said, tokens: Sequence[int]) -> Spelling | None:
        """Keep an answer as it was generated, for the turn in which it comes back as a message; what was kept.
        Thread-safe."""
        return self.recorder(said, tokens) if self.recorder is not None and tokens else None
