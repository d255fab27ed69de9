"""Sound files of a tone, in any form that the decoder's library writes."""

from __future__ import annotations

import io
import wave

import av
import numpy as np
from numpy.typing import NDArray

# By what clients call them: container and codec.
FORMS = {
    "mp3": ("mp3", "libmp3lame"),
    "flac": ("flac", "flac"),
    "ogg": ("ogg", "libopus"),
    "webm": ("webm", "libopus"),
    "m4a": ("mp4", "aac"),
    "aac": ("adts", "aac"),
}


def tone(seconds: float, *, rate: int = 16_000, hz: float = 1000.0) -> NDArray[np.int16]:
    return (8000 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.int16)


def wav(seconds: float = 2.0, *, rate: int = 16_000, channels: int = 1) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.repeat(tone(seconds, rate=rate), channels).tobytes())
    return buffer.getvalue()


def encoded(form: str, seconds: float = 2.0, *, rate: int = 48_000) -> bytes:
    container_name, codec = FORMS[form]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container_name) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone(seconds, rate=rate)[None], format="s16", layout="mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=rate, frame_size=stream.frame_size or 0)
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            for packet in stream.encode(part):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return buffer.getvalue()
