"""Images on their way into the model: their pixels become the rows that stand at their patch tokens.

An image's rows are computed in a step of their own, once, before the first chunk of the prompt that reaches into it; so
a chunk may end inside an image. Pixels are decoded on threads of the reader's: a sequence goes on up to an image that
is not there yet, and is then not picked. Belongs to the engine thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager

import mlx.core as mx

from worker.engines.mlx.eyes.base import Eyes, Seen, joined
from worker.engines.mlx.eyes.places import Pass, moved_behind, positions
from worker.engines.mlx.prefill.sequence import Sequence, Sight
from worker.prompt.image_files import ImageReader, Pixels
from worker.prompt.image_pieces import ImageSpan


class Vision:
    def __init__(self, eyes: Eyes, reader: ImageReader) -> None:
        self._eyes = eyes
        self._reader = reader
        self._awaited: set[Future[Pixels]] = set()
        self.images = 0  # embedded so far

    def is_ready(self, sequence: Sequence) -> bool:
        """Whether the sequence can go on: it is not at an image that has yet to be decoded."""
        span = self._next(sequence)
        return span is None or self._pixels(sequence, span).done() or span.start > sequence.position

    @property
    def is_waiting(self) -> bool:
        return any(not future.done() for future in self._awaited)

    def wait(self, timeout_s: float) -> None:
        """Return when an image is decoded, or after `timeout_s`."""
        wait(self._awaited, timeout_s, return_when="FIRST_COMPLETED")

    def reach(self, sequence: Sequence, end: int) -> int:
        """How far towards `end` the prompt can be computed in this step: up to an image that is not there yet, or not
        at all when the step was spent on embedding one. Raises `UnsupportedContentError` for an image that is no image
        after all."""
        span = self._next(sequence)
        if span is None or span.start >= end:
            return end
        pixels = self._pixels(sequence, span)
        if not pixels.done():
            return max(sequence.position, span.start)
        tokens = mx.array(sequence.tokens[span.start : span.end], mx.int32)
        seen = self._eyes.image(tokens, pixels.result())
        mx.eval(seen.rows, *seen.deep)
        sight = _sight(sequence)
        del sight.pixels[span.start]
        self._awaited.discard(pixels)
        sight.seen[span.start] = seen
        self.images += 1
        return sequence.position

    @contextmanager
    def passing(self, sequence: Sequence, start: int, end: int) -> Iterator[mx.array | None]:
        """The pass over tokens `start..end` is made in this block. What the model reads at them, [1, tokens, width];
        None where these are no image's."""
        seen, places = self._seen(sequence, start, end), self._eyes.places
        rows = None if seen is None else seen.rows[None]
        if places is None:
            yield rows
            return
        placed = positions(sequence.prompt, start, end)
        told = Pass(
            moved=moved_behind(sequence.prompt, start),
            placed=None if placed is None else mx.array(placed),
            deep=() if seen is None else [rows[None] for rows in seen.deep],
        )
        with places.of(told):
            yield rows

    def _seen(self, sequence: Sequence, start: int, end: int) -> Seen | None:
        spans = [span for span in sequence.prompt.spans if span.start < end and span.end > start]
        if not spans:
            return None
        pieces: list[Seen] = []
        ready = _sight(sequence).seen
        at = start
        for span in spans:
            if span.start > at:
                pieces.append(self._words(sequence, at, span.start))
            first, at = max(span.start, start), min(span.end, end)
            pieces.append(ready[span.start].part(first - span.start, at - span.start))
            if at == span.end:
                del ready[span.start]
        if at < end:
            pieces.append(self._words(sequence, at, end))
        return joined(pieces)

    def close(self) -> None:
        self._reader.close()

    def _words(self, sequence: Sequence, start: int, end: int) -> Seen:
        return Seen(self._eyes.words(mx.array(sequence.tokens[start:end], mx.int32)))

    def _next(self, sequence: Sequence) -> ImageSpan | None:
        """The first image, of those not read to their end, whose rows are not there."""
        seen = sequence.sight.seen if sequence.sight is not None else {}
        ahead = (span for span in sequence.prompt.spans if span.end > sequence.position)
        return next((span for span in ahead if span.start not in seen), None)

    def _pixels(self, sequence: Sequence, span: ImageSpan) -> Future[Pixels]:
        sight = _sight(sequence)
        if span.start not in sight.pixels:
            future = self._reader.pixels(sequence.prompt.images[span.digest])
            sight.pixels[span.start] = future
            # Done ones go: they hold the pixels.
            self._awaited = {other for other in (*self._awaited, future) if not other.done()}
        return sight.pixels[span.start]


def _sight(sequence: Sequence) -> Sight:
    if sequence.sight is None:
        sequence.sight = Sight()
    return sequence.sight
