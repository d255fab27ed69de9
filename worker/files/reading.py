"""What is in a file: the text of a PDF, the pixels of an image.

For the helper process alone: its libraries read what anybody may send, hold Python for as long as that takes, and may
want any amount of memory.
"""

from __future__ import annotations

import io

import numpy as np
import pypdf
from numpy.typing import NDArray
from PIL import Image as pillow
from PIL import ImageOps, UnidentifiedImageError
from pypdf.errors import PyPdfError

from shared.errors import UnsupportedContentError
from worker.files.messages import IMAGE_REFUSAL, MAX_SIDE_PIXELS, UNREADABLE_PDF, too_wide

# Claude Code knows these words: it strips the document and sends the request again.
_NO_PDF_TEXT = "This model does not support PDF input that holds no text"
_MAX_PAGES = 500
_FORMATS = ("PNG", "JPEG", "GIF", "WEBP")  # those of the Messages API; others have larger decoders to attack
_DAMAGES = (
    OSError,
    SyntaxError,  # Pillow's word for a broken PNG chunk
    ValueError,
    TypeError,
    IndexError,
    EOFError,
    MemoryError,
    pillow.DecompressionBombError,
    pillow.DecompressionBombWarning,
)
_PDF_DAMAGES = (PyPdfError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, MemoryError)


def pdf_text(raw: bytes) -> str:
    """The pages' text, numbered, at most `_MAX_PAGES` of them (and a line that says so). Raises
    `UnsupportedContentError`."""
    try:
        reader = pypdf.PdfReader(io.BytesIO(raw))
        pages = [page.extract_text().strip() for page in reader.pages[:_MAX_PAGES]]
        total = len(reader.pages)
    except _PDF_DAMAGES as error:
        raise UnsupportedContentError(f"{UNREADABLE_PDF}: {type(error).__name__}") from error
    if not any(pages):
        raise UnsupportedContentError(_NO_PDF_TEXT)
    text = "\n\n".join(f"[page {number}]\n{page}" for number, page in enumerate(pages, 1) if page)
    return text if total <= _MAX_PAGES else f"{text}\n\n[{total - _MAX_PAGES} more pages are left out]"


def image_pixels(raw: bytes) -> NDArray[np.uint8]:
    """The red, green and blue of each pixel, (height, width, 3), upright. Raises `UnsupportedContentError`."""
    try:
        with pillow.open(io.BytesIO(raw), formats=_FORMATS) as image:
            if max(image.size) > MAX_SIDE_PIXELS:
                raise UnsupportedContentError(too_wide(image.size))
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except UnidentifiedImageError as error:
        raise UnsupportedContentError(f"{IMAGE_REFUSAL}: its data is not a PNG, JPEG, GIF or WebP image") from error
    except (pillow.DecompressionBombError, pillow.DecompressionBombWarning) as error:
        raise UnsupportedContentError(too_wide(None)) from error
    except _DAMAGES as error:
        raise UnsupportedContentError(f"{IMAGE_REFUSAL}: it cannot be decoded: {error}") from error
