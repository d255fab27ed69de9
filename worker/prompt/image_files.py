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
from collections.abc import Mapping, Sequence
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Patches:
    """An image as a model of several inputs embeds it, by their names. `grid` is its rows and columns of tokens, for
    models that place them in a plane."""

    arrays: Mapping[str, NDArray[Any]]
    grid: tuple[int, int] | None = None

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())


Pixels = NDArray[np.float32] | Patches


class Processor(Protocol):
    """The image processor of a model, as mlx-lm has it: puts the tokens of one image in the place of each
    `image_token` of a text, and cuts the images, (height, width, 3) of bytes, to what the model embeds. It may have a
    `patch_token`, where its tokens are others than that one, and a `salt` (bytes), which tells it from those that cut
    the same image otherwise."""

    @property
    def image_token(self) -> str: ...

    def __call__(self, text: str, *, images: Sequence[NDArray[np.uint8]]) -> tuple[str, Sequence[Any]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """`digest` is that of its content and of what cuts it. `text` stands for it in the prompt and makes `tokens` patch
    tokens, with others around them, and perhaps between. `data` is the base64 text it came in."""

    digest: bytes
    text: str
    tokens: int
    grid: tuple[int, int] | None = None  # see `Patches`
    data: str = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    text: str
    grid: tuple[int, int] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    shown: _Shown
    pixels: Pixels


class ImageReader:
    """Thread-safe. What was read before is remembered: a conversation brings its images again with every turn."""

    def __init__(self, processor: Processor) -> None:
        self.patch = processor.image_token
        self.patch_token: str = getattr(processor, "patch_token", self.patch)
        self._salt: bytes = getattr(processor, "salt", b"")
        self._processor = processor
        self._shown: OrderedDict[bytes, _Shown] = OrderedDict()
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
        digest = hashlib.sha256(self._salt + part.data.encode("utf-8", "surrogatepass")).digest()
        shown = self._shown.get(digest) or self._process(digest, part.data).shown
        tokens = shown.text.count(self.patch_token)
        return Image(digest=digest, text=shown.text, tokens=tokens, grid=shown.grid, data=part.data)

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
            pixels = cut if isinstance(cut, Patches) else np.array(cut)
            grid = pixels.grid if isinstance(pixels, Patches) else None
            read = _Read(shown=_Shown(text=text, grid=grid), pixels=pixels)
            self._remember(digest, read)
            return read

    def _remember(self, digest: bytes, read: _Read) -> None:
        with self._lock:
            self._shown[digest] = read.shown
            if len(self._shown) > _TEXT_MEMO:
                self._shown.popitem(last=False)
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
