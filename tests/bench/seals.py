"""What a frame's seal costs by the frame's size: one code made where it leaves, one checked where it arrives."""

from __future__ import annotations

import random
import timeit

from shared import wire
from shared.events import TextDelta
from shared.seal import Keyring, Purpose
from shared.wire import Frame, FrameEntry
from tests.bench.report import Table

SIZES_BYTES = (200, 2_000, 100_000)
_REPEATS = 5
_SPEND_S = 0.05  # for each repeat


def measure_seals() -> Table:
    """The fastest of some repeats, in µs, beside what encoding and decoding the same frame take."""
    seal = Keyring(b"a secret of the bench").of("host").seal(Purpose.FRAME, "gateway")
    table = Table(title="the seal of a frame, µs", head=("frame", "bytes", "close", "open", "encode", "decode"))
    for size in SIZES_BYTES:
        frame = _frame(size)
        data = wire.encode_frame(frame)
        message = seal.close(data)
        costs = (
            _fastest_us(lambda data=data: seal.close(data)),
            _fastest_us(lambda message=message: seal.open(message)),
            _fastest_us(lambda frame=frame: wire.encode_frame(frame)),
            _fastest_us(lambda data=data: wire.decode_frame(data)),
        )
        table.add(f"{size:,} B", f"{len(message):,}", *(f"{cost:.1f}" for cost in costs))
    return table


def _frame(size_bytes: int) -> Frame:
    """One that takes about so many bytes."""
    text = random.Random(size_bytes).randbytes(max(1, (size_bytes - 100) // 2)).hex()
    entry = FrameEntry(request_id="r" * 16, attempt=1, seq=9, token_ids=(1234,), events=(TextDelta(text=text),))
    return Frame(worker="host.model.e1", epoch="e1", seq=1000, entries=(entry,))


def _fastest_us(action: object) -> float:
    timer = timeit.Timer(action)  # type: ignore[arg-type]
    number = max(1, int(_SPEND_S / max(1e-7, timer.timeit(10) / 10)))
    return min(timer.repeat(_REPEATS, number)) / number * 1e6
