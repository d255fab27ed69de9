"""What Whisper reads of a sound: the logarithm of its power in bands of the mel scale, a hundred times a second.

As the model was trained (Radford et al. 2022, https://arxiv.org/abs/2212.04356, section 2.2): windows of 25 ms, 10 ms
apart, bands after Slaney, eight orders of magnitude below the loudest at the most, scaled to about -1 to 1. Each window
of thirty seconds is scaled by its own loudest moment.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

SAMPLES_PER_S: Final = 16_000
WINDOW_S: Final = 30
WINDOW_SAMPLES: Final = WINDOW_S * SAMPLES_PER_S
FRAMES_PER_S: Final = 100
_FFT: Final = 400  # samples
_HOP: Final = SAMPLES_PER_S // FRAMES_PER_S
_LINEAR_HZ: Final = 1000.0  # below it the scale is linear
_HZ_PER_MEL: Final = 200.0 / 3.0
_LOG_STEP: Final = float(np.log(6.4) / 27.0)
_LEAST_POWER: Final = 1e-10
_RANGE: Final = 8.0  # orders of magnitude

Floats = NDArray[np.float32]


def log_mel(samples: NDArray[np.int16], bands: int) -> Floats:
    """(samples,) at 16 kHz, of thirty seconds at the most -> (3000, bands); silence follows what is there."""
    padded = np.zeros(WINDOW_SAMPLES + _FFT, dtype=np.float32)
    sound = samples.astype(np.float32) / 32768.0
    half = _FFT // 2
    padded[half : half + len(sound)] = sound
    padded[:half] = padded[half + 1 : _FFT + 1][::-1]
    padded[-half:] = padded[-_FFT - 1 : -half - 1][::-1]
    frames = np.lib.stride_tricks.sliding_window_view(padded, _FFT)[::_HOP][:-1]
    power = np.abs(np.fft.rfft(frames * _hann(), axis=1)).astype(np.float32) ** 2
    loud = np.log10(np.maximum(power @ _filters(bands).T, _LEAST_POWER))
    scaled: Floats = ((np.maximum(loud, loud.max() - _RANGE) + 4.0) / 4.0).astype(np.float32)
    return scaled


@cache
def _hann() -> Floats:
    return (0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(_FFT) / _FFT)).astype(np.float32)


@cache
def _filters(bands: int) -> Floats:
    """(bands, frequencies): triangles of equal area, each from the middle of its neighbour below to that above."""
    frequencies = np.linspace(0, SAMPLES_PER_S / 2, _FFT // 2 + 1)
    edges = _hz(np.linspace(0.0, _mel(SAMPLES_PER_S / 2), bands + 2))
    below, middle, above = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (frequencies - below) / (middle - below), (above - frequencies) / (above - middle)
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return (triangles * 2.0 / (above - below)).astype(np.float32)


def _mel(hz: float) -> float:
    if hz < _LINEAR_HZ:
        return hz / _HZ_PER_MEL
    return _LINEAR_HZ / _HZ_PER_MEL + float(np.log(hz / _LINEAR_HZ)) / _LOG_STEP


def _hz(mels: NDArray[np.float64]) -> NDArray[np.float64]:
    bend = _LINEAR_HZ / _HZ_PER_MEL
    curved = _LINEAR_HZ * np.exp(_LOG_STEP * np.maximum(0.0, mels - bend))
    return np.where(mels < bend, mels * _HZ_PER_MEL, curved)
