"""Prompts rendered whole, for templates that cannot be taken apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from shared.errors import InvalidRequestError, UnsupportedContentError
from worker.files.messages import IMAGE_REFUSAL
from worker.prompt.conversation import Conversation
from worker.prompt.encode import Encoder
from worker.prompt.head import Head, Heads
from worker.prompt.image_files import Image
from worker.prompt.image_pieces import Patch, find_spans, with_images
from worker.prompt.pieces import PieceRenderer, ending
from worker.prompt.prefill import Prefill
from worker.prompt.sequences import common_length
from worker.prompt.turns import Turns
from worker.prompt.values import Boundary, Prompt

# Boundaries are looked for at the ends of this many last units: each costs a rendering.
_CUTS = 6


class WholeBuilder:
    """Thread-safe."""

    def __init__(
        self, turns: Turns, renderer: PieceRenderer, encoder: Encoder, heads: Heads, patch: Patch | None = None
    ) -> None:
        self._patch = patch
        self._turns = turns
        self._renderer = renderer
        self._encoder = encoder
        self._heads = heads

    def build(self, head: Head, conversation: Conversation, prefill: Prefill | None) -> Prompt:
        count = len(conversation.units)
        body = self._render(head, conversation, count, header=False)
        text = self._render(head, conversation, count, header=True)
        opened = self._heads.opens_reasoning(ending(text, body, conversation.units[-1]))
        if prefill is not None:
            text += prefill.text(opened=opened)
        images = _images(conversation, count)
        shown = with_images(text, images, self._patch)
        if shown is None:
            raise UnsupportedContentError(f"{IMAGE_REFUSAL}: the model's chat template has no place for an image here")
        tokens = self._encoder.encode(shown)
        return Prompt(
            tokens=tokens,
            boundaries=self._boundaries(head, conversation, tokens),
            in_reasoning=opened and prefill is None,
            continues=prefill is not None,
            spans=find_spans(tokens, images, self._patch),
        )

    def _render(self, head: Head, conversation: Conversation, count: int, *, header: bool) -> str:
        dicts = [*conversation.system, *(item for unit in conversation.units[:count] for item in unit.dicts)]
        return self._turns.whole(dicts, head.last_scene) if header else self._turns.body(dicts, head.scene)

    def _boundaries(self, head: Head, conversation: Conversation, tokens: Sequence[int]) -> tuple[Boundary, ...]:
        units = conversation.units
        out = list(self._heads.boundaries(head, conversation, self._renderer, tokens))
        for count in range(max(1, len(units) - _CUTS), len(units) + 1):
            try:
                body = self._render(head, conversation, count, header=False)
            except InvalidRequestError:
                continue  # a conversation that may not end here
            prefix = self._encoder.encode(with_images(body, _images(conversation, count), self._patch) or body)
            if common_length(prefix, tokens) == len(prefix) > (out[-1].offset if out else 0):
                kind: Literal["message", "prompt"] = "prompt" if count == len(units) else "message"
                out.append(Boundary(kind, max(0, units[count - 1].end - 1), len(prefix)))
        return tuple(out)


def _images(conversation: Conversation, count: int) -> list[Image]:
    return [image for unit in conversation.units[:count] for image in unit.images]
