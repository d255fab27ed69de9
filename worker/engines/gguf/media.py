"""Images for a model with a projector (mmproj): how a prompt that shows some is told to llama.cpp's server. Pure.

The server takes such a prompt as a text, with its own marker in the place of each image, and writes the tokens around
an image itself; what the model's template has written there is left out:
https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md (`multimodal_data`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shared.errors import UnsupportedContentError
from worker.files.messages import IMAGE_REFUSAL
from worker.prompt import Prompt

# What a family's template writes for an image -> what it writes before and behind it.
PATCHES: Final[Mapping[str, tuple[str, str]]] = {
    "<|image_pad|>": ("<|vision_start|>", "<|vision_end|>"),  # Qwen
    "<start_of_image>": ("", ""),  # Gemma 3
    "<|image|>": ("", ""),  # Llama 4, Gemma 4
    "[IMG]": ("", ""),  # Pixtral, Mistral
    "<image>": ("", ""),  # LLaVA, SmolVLM
}
_READ: Final = ("iVBOR", "/9j/", "R0lGOD", "Qk")  # PNG, JPEG, GIF, BMP: as base64 begins
_BREAK: Final = "\u200b"


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """`text` is the prompt with the server's marker for each of `images`, which are base64."""

    text: str
    images: tuple[str, ...]

    def render(self) -> dict[str, Any]:
        return {"prompt_string": self.text, "multimodal_data": list(self.images)}


class Placeholder:
    """An image processor that leaves the model's one token for an image: the server knows how many it is."""

    def __init__(self, patch: str) -> None:
        self.image_token = patch

    def __call__(self, text: str, *, images: Sequence[NDArray[np.uint8]]) -> tuple[str, Sequence[Any]]:
        return text, [np.zeros(1, dtype=np.float32) for _ in images]


class MediaWriter:
    """For one loaded model. `pieces` are the vocabulary's bytes by token, `control` the spellings of its control tokens
    by token, `marker` is the server's."""

    def __init__(self, pieces: Sequence[bytes], control: Mapping[int, str], *, patch: str, marker: str) -> None:
        self._pieces = pieces
        self._control = control
        self._around = PATCHES[patch]
        self._marker = marker
        spellings = sorted((each for each in control.values() if len(each) > 1), key=len, reverse=True)
        self._spelt = re.compile("|".join(map(re.escape, spellings)) or r"(?!)")

    def write(self, prompt: Prompt) -> Media | None:
        """None for a prompt without images. Raises `UnsupportedContentError` for one that the server cannot read."""
        if not prompt.spans:
            return None
        images = [prompt.images[span.digest].data for span in prompt.spans]
        if not all(data.startswith(_READ) for data in images):
            raise UnsupportedContentError(f"{IMAGE_REFUSAL}: this model reads PNG, JPEG, GIF and BMP images")
        edges = [0, *(edge for span in prompt.spans for edge in (span.start, span.end)), len(prompt.tokens)]
        texts = [self._text(prompt.tokens[a:b]) for a, b in zip(edges[::2], edges[1::2], strict=True)]
        return Media(text=self._marker.join(self._bare(texts)), images=tuple(images))

    def _bare(self, texts: Sequence[str]) -> Iterator[str]:
        """Without what the template has written around the images between them."""
        before, behind = self._around
        for number, text in enumerate(texts):
            bare = text.removeprefix(behind) if number > 0 else text
            yield bare.removesuffix(before) if number < len(texts) - 1 else bare

    def _text(self, tokens: Iterable[int]) -> str:
        return "".join(self._runs(tokens))

    def _runs(self, tokens: Iterable[int]) -> Iterator[str]:
        """The server reads control tokens wherever they are spelt, so those that a client has spelt are broken."""
        run = bytearray()
        for token in tokens:
            if token in self._control:
                yield self._broken(run)
                run.clear()
                yield self._control[token]
            else:
                run += self._pieces[token]
        yield self._broken(run)

    def _broken(self, run: bytes | bytearray) -> str:
        text = bytes(run).decode(errors="replace")
        return self._spelt.sub(lambda match: match[0][0] + _BREAK + match[0][1:], text)
