"""Sound as clients ask for it, part by part as it is made."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from shared.work import SoundForm

Samples = NDArray[np.float32]

_PCM_HZ: Final = 24_000  # as the vendor's raw samples have it
_UNKNOWN: Final = 0xFFFFFFFF  # how long a stream will be
_ENCODED: Final = {  # container, codec, and its rate where it has one
    "mp3": ("mp3", "libmp3lame", 0),
    "opus": ("ogg", "libopus", 48_000),
    "aac": ("adts", "aac", 0),
    "flac": ("flac", "flac", 0),
}


class Encoder(Protocol):
    def feed(self, samples: Samples) -> bytes:
        """(samples,) of one channel, between -1 and 1. What can be sent of them."""

    def end(self) -> bytes:
        """The rest."""


def encoder_of(form: SoundForm, rate: int) -> Encoder:
    """For samples of that rate."""
    if form == "wav":
        return _Wav(rate)
    return _Raw(rate) if form == "pcm" else _Compressed(form, rate)


class _Wav:
    """16 bits, after RIFF's head, whose lengths are those of a stream."""

    def __init__(self, rate: int) -> None:
        sizes = (_UNKNOWN, b"WAVE", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16, b"data", _UNKNOWN)
        self._head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", *sizes)

    def feed(self, samples: Samples) -> bytes:
        head, self._head = self._head, b""
        return head + _whole(samples).tobytes()

    def end(self) -> bytes:
        return self._head


class _Raw:
    def __init__(self, rate: int) -> None:
        import av

        self._resampler = av.AudioResampler(format="s16", layout="mono", rate=_PCM_HZ)
        self._rate = rate

    def feed(self, samples: Samples) -> bytes:
        return self._bytes(self._resampler.resample(_frame(samples, self._rate)))

    def end(self) -> bytes:
        return self._bytes(self._resampler.resample(None))

    def _bytes(self, frames: Iterable[Any]) -> bytes:
        return b"".join(frame.to_ndarray()[0].tobytes() for frame in frames)


class _Pipe:
    """What a container writes, which cannot go back in it: what was sent is sent."""

    def __init__(self) -> None:
        self._data = bytearray()

    def write(self, data: bytes) -> int:
        self._data += data
        return len(data)

    def take(self) -> bytes:
        data = bytes(self._data)
        self._data.clear()
        return data


class _Compressed:
    def __init__(self, form: SoundForm, rate: int) -> None:
        import av

        container, codec, own_rate = _ENCODED[form]
        self._pipe = _Pipe()
        self._container: Any = av.open(self._pipe, "w", format=container)
        self._stream: Any = self._container.add_stream(codec, rate=own_rate or rate, layout="mono")
        self._stream.open()
        self._resampler = av.AudioResampler(
            format=self._stream.format, layout="mono", rate=own_rate or rate, frame_size=self._stream.frame_size or 0
        )
        self._rate = rate
        self._is_open = True

    def feed(self, samples: Samples) -> bytes:
        self._encode(self._resampler.resample(_frame(samples, self._rate)))
        return self._pipe.take()

    def end(self) -> bytes:
        if self._is_open:
            self._is_open = False
            self._encode([*self._resampler.resample(None), None])
            self._container.close()
        return self._pipe.take()

    def _encode(self, frames: Iterable[Any]) -> None:
        for frame in frames:
            for packet in self._stream.encode(frame):
                self._container.mux(packet)


def _whole(samples: Samples) -> NDArray[np.int16]:
    return (np.clip(samples, -1.0, 1.0) * 32767.0).astype("<i2")


def _frame(samples: Samples, rate: int) -> Any:
    import av

    frame = av.AudioFrame.from_ndarray(_whole(samples)[None], format="s16", layout="mono")
    frame.sample_rate = rate
    return frame
