"""A model of speech as mlx-audio has it: which voices it has, and what it can be asked for.

Of mlx-audio (0.6) only `tts.utils.load` and each model's `generate` are used, whose parameters differ from model to
model: what a model does not name it cannot do.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shared.errors import InvalidRequestError, ModelUnavailableError

# Those of the vendor, of which its package sends one always: here they stand for the model's own.
VENDOR_VOICES: Final = frozenset(
    {
        *("alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx", "sage", "shimmer"),
        "verse",
    }
)

_NAME: Final = re.compile(r"[\w-]{0,64}")  # some models would read a path or fetch an address
_KOKORO: Final = re.compile(r"([a-z])[fm]_\w+")  # whose voices' names begin with their language's code


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechModel:
    """`voices` are those in the model's folder, none where it tells none. `usual` is the voice of who names one of the
    vendor's, empty for the model's own choice; `renamed` says otherwise for some."""

    network: Any
    takes: frozenset[str]
    rate: int
    voices: tuple[str, ...] = ()
    usual: str = ""
    renamed: Mapping[str, str]

    def voice(self, asked: str) -> str:
        """Raises `InvalidRequestError` for one that the model does not have."""
        found = self.renamed.get(asked, asked)
        if found in self.voices or (not self.voices and found not in VENDOR_VOICES and _NAME.fullmatch(found)):
            return found
        if asked in VENDOR_VOICES or not asked:
            return self.usual
        raise InvalidRequestError(
            f"voice: this model does not have it; it has: {', '.join(self.voices) or 'names of its own'}", param="voice"
        )

    def options(self, *, voice: str, speed: float, instructions: str) -> dict[str, Any]:
        """Raises `InvalidRequestError` for what the model cannot do."""
        found: dict[str, Any] = {"verbose": False} if "verbose" in self.takes else {}
        if own := self.voice(voice):
            found["voice"] = own
            if "lang_code" in self.takes and (match := _KOKORO.fullmatch(own)):
                found["lang_code"] = match[1]
        if speed != 1.0:
            if "speed" not in self.takes:
                raise InvalidRequestError("speed: this model speaks at one speed", param="speed")
            found["speed"] = speed
        if instructions:
            if "instruct" not in self.takes:
                raise InvalidRequestError("instructions: this model takes none", param="instructions")
            found["instruct"] = instructions
        return found

    def say(self, text: str, options: Mapping[str, Any]) -> Iterator[NDArray[np.float32]]:
        """(samples,), part by part."""
        for result in self.network.generate(text=text, **options):
            yield np.array(result.audio, dtype=np.float32).reshape(-1)


def load_speech(folder: Path, options: Mapping[str, Any]) -> SpeechModel:
    """`options` are those of the model's spec: `voice`, and `voices` by the vendor's names, checked. Raises
    `ModelUnavailableError` with the reason."""
    from huggingface_hub import constants
    from mlx_audio.tts.utils import load

    constants.HF_HUB_OFFLINE = True  # voices that are not here are not fetched in the midst of an answer
    try:
        network = load(folder)
    except Exception as error:  # a folder may hold anything, and a model's own packages may be missing
        raise ModelUnavailableError(f"mlx-audio cannot load it: {error}") from error
    takes = frozenset(inspect.signature(network.generate).parameters)
    voices = tuple(sorted(path.stem for path in (folder / "voices").glob("*.safetensors")))
    usual = options.get("voice", voices[0] if voices else "")
    renamed = options.get("voices", {})
    return SpeechModel(
        network=network, takes=takes, rate=int(network.sample_rate), voices=voices, usual=usual, renamed=renamed
    )
