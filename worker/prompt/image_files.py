"""Images as a vision model reads them: checked, decoded and cut to patches, with the text that stands for each.

Anthropic's limits hold for every client: 5 MB of base64 text and 8000 pixels a side. Nothing is fetched: an image that
is only named by its URL is refused. Everything here runs on the threads of requests or of its own, never on the
engine's.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shared.errors import UnsupportedContentError
from shared.messages import ImagePart
from worker.files.messages import IMAGE_REFUSAL
from worker.files.reader import FILES

MAX_BASE64_BYTES = 5 * 1024 * 1024
_PIXEL_MEMO_BYTES = 256 * 1024 * 1024
_TEXT_MEMO = 4096
_THREADS = 2

Pixels = NDArray[np.float32]


class Processor(Protocol):
    """The image processor of a model, as mlx-lm has it: puts the tokens of one image in the place of each
    `image_token` of a text, and cuts the images, (height, width, 3) of bytes, to what the model embeds."""

    @property
    def image_token(self) -> str: ...

    def __call__(self, text: str, *, images: Sequence[NDArray[np.uint8]]) -> tuple[str, Sequence[Any]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """`digest` is that of its content. `text` stands for it in the prompt and makes `tokens` patch tokens, and others
    around them. `data` is the base64 text it came in."""

    digest: bytes
    text: str
    tokens: int
    data: str = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    text: str
    pixels: Pixels


class ImageReader:
    """Thread-safe. What was read before is remembered: a conversation brings its images again with every turn."""

    def __init__(self, processor: Processor) -> None:
        self.patch = processor.image_token
        self._processor = processor
        self._texts: OrderedDict[bytes, str] = OrderedDict()
        self._read: OrderedDict[bytes, _Read] = OrderedDict()
        self._read_bytes = 0
        self._lock = threading.Lock()
        self._turns = threading.BoundedSemaphore(_THREADS)  # a decoded image may take hundreds of megabytes
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="images")

    def read(self, part: ImagePart) -> Image:
        """Raises `UnsupportedContentError` for what is no image, too large, or not here."""
        if not part.data:
            raise UnsupportedContentError(
                f"{IMAGE_REFUSAL}: image URLs are not fetched, send the image itself as base64"
            )
        if len(part.data) > MAX_BASE64_BYTES:
            raise UnsupportedContentError(
                f"{IMAGE_REFUSAL}: image exceeds 5 MB maximum: {len(part.data)} bytes > {MAX_BASE64_BYTES} bytes"
            )
        digest = hashlib.sha256(part.data.encode("utf-8", "surrogatepass")).digest()
        text = self._texts.get(digest)
        if text is None:
            text = self._process(digest, part.data).text
        return Image(digest=digest, text=text, tokens=text.count(self.patch), data=part.data)

    def pixels(self, image: Image) -> Future[Pixels]:
        """What the model embeds, computed on a thread of its own unless it is known."""
        known = self._known(image.digest)
        if known is None:
            return self._pool.submit(lambda: self._process(image.digest, image.data).pixels)
        future: Future[Pixels] = Future()
        future.set_result(known.pixels)
        return future

    def close(self) -> None:
        """End the threads; what they are at is still finished."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _known(self, digest: bytes) -> _Read | None:
        with self._lock:
            known = self._read.get(digest)
            if known is not None:
                self._read.move_to_end(digest)
            return known

    def _process(self, digest: bytes, data: str) -> _Read:
        """Computed, unless another thread has done it while this one waited for its turn."""
        with self._turns:
            known = self._known(digest)
            if known is not None:
                return known
            try:
                text, (cut,) = self._processor(self.patch, images=[decode_image(data)])
            except ValueError as error:
                raise UnsupportedContentError(f"{IMAGE_REFUSAL}: {error}") from error
            # A copy in ordinary memory: the device's is the engine's to give out.
            read = _Read(text=text, pixels=np.array(cut))
            self._remember(digest, read)
            return read

    def _remember(self, digest: bytes, read: _Read) -> None:
        with self._lock:
            self._texts[digest] = read.text
            if len(self._texts) > _TEXT_MEMO:
                self._texts.popitem(last=False)
            if digest not in self._read:
                self._read[digest] = read
                self._read_bytes += read.pixels.nbytes
            while self._read_bytes > _PIXEL_MEMO_BYTES:
                self._read_bytes -= self._read.popitem(last=False)[1].pixels.nbytes


def decode_image(data: str) -> NDArray[np.uint8]:
    """The red, green and blue of each pixel, (height, width, 3), upright. Raises `UnsupportedContentError`."""
    try:
        raw = base64.b64decode("".join(data.split()), validate=True)  # some clients break lines
    except (binascii.Error, ValueError) as error:
        raise UnsupportedContentError(f"{IMAGE_REFUSAL}: its data is not base64: {error}") from error
    return FILES.image_pixels(raw)
