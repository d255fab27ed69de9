"""What is in a sound file, for the helper process alone: samples at 16 kHz of one channel.

The form is told by the file's first bytes, and only its own reader is used: others open further files and addresses
that a file may name.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shared.errors import UnsupportedContentError
from worker.files.messages import MAX_SOUND_S, SOUND_REFUSAL, SOUND_SAMPLES_PER_S, too_long_sound

# FFmpeg's name of the reader, where in the file its sign stands, and the sign.
_FORMS: Final = (
    ("wav", 8, b"WAVE"),
    ("flac", 0, b"fLaC"),
    ("ogg", 0, b"OggS"),
    ("matroska", 0, b"\x1a\x45\xdf\xa3"),  # WebM
    ("mov", 4, b"ftyp"),  # MP4, M4A
    ("aiff", 0, b"FORM"),
    ("mp3", 0, b"ID3"),
)
_MPEG_SYNC: Final = 0xFFE0  # the first eleven bits of a frame
_ADTS_SYNC: Final = 0xFFF0  # AAC: the first twelve, and two that say no layer
_ADTS_MASK: Final = 0xFFF6


def sound_samples(raw: bytes) -> NDArray[np.int16]:
    """(samples,). Raises `UnsupportedContentError` for what is no sound, is damaged, or lasts too long."""
    import av

    form = _form(raw)
    if not form:
        raise UnsupportedContentError(f"{SOUND_REFUSAL}: its data is none of flac, m4a, mp3, mp4, ogg, wav and webm")
    try:
        with av.open(io.BytesIO(raw), mode="r", format=form, metadata_errors="ignore") as container:
            pieces = list(_bounded(_resampled(container)))
    except (av.FFmpegError, ValueError, IndexError, MemoryError) as error:
        raise UnsupportedContentError(f"{SOUND_REFUSAL}: it cannot be decoded: {type(error).__name__}") from error
    samples = np.concatenate(pieces) if pieces else np.zeros(0, np.int16)
    if not len(samples):
        raise UnsupportedContentError(f"{SOUND_REFUSAL}: there is no sound in it")
    return samples


def _form(raw: bytes) -> str:
    for name, at, sign in _FORMS:
        if raw[at : at + len(sign)] == sign:
            return name
    sync = int.from_bytes(raw[:2], "big")
    if sync & _ADTS_MASK == _ADTS_SYNC:
        return "aac"
    return "mp3" if sync & _MPEG_SYNC == _MPEG_SYNC else ""


def _resampled(container: Any) -> Iterator[NDArray[np.int16]]:
    """Raises `IndexError` where there is no track of sound."""
    import av

    resampler = av.AudioResampler(format="s16", layout="mono", rate=SOUND_SAMPLES_PER_S)
    for frame in container.decode(container.streams.audio[0]):
        for part in resampler.resample(frame):
            yield part.to_ndarray()[0]
    for part in resampler.resample(None):
        yield part.to_ndarray()[0]


def _bounded(pieces: Iterator[NDArray[np.int16]]) -> Iterator[NDArray[np.int16]]:
    left = MAX_SOUND_S * SOUND_SAMPLES_PER_S
    for piece in pieces:
        left -= len(piece)
        if left < 0:
            raise UnsupportedContentError(too_long_sound())
        yield piece
