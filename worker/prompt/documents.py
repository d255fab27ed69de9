"""Documents as text: what a model that reads only text can be shown of them."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable

from shared.errors import UnsupportedContentError
from worker.files.reader import FILES

_KEPT_CHARACTERS = 16 * 1024 * 1024


def document_text(media_type: str, data: str, title: str) -> str:
    """The text of base64 `data`, under its title. Raises `UnsupportedContentError` for one that holds none."""
    try:
        raw = base64.b64decode(data, validate=True)
    except ValueError as error:  # binascii's is one, and so is what it says of other alphabets
        raise UnsupportedContentError(f"a {media_type} document is not base64: {error}") from error
    if media_type == "application/pdf":
        text = _pdf_texts.of(raw)
    elif media_type.startswith("text/") or media_type == "application/json":
        text = _plain_text(raw, media_type)
    else:
        raise UnsupportedContentError(f"This model does not support {media_type} documents")
    return f"{title}\n{text}" if title else text


def _plain_text(raw: bytes, media_type: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise UnsupportedContentError(f"a {media_type} document is not UTF-8 text: {error}") from error


class KeptTexts:
    """The texts of files by their content: a conversation brings its documents again with every turn. Thread-safe. The
    files themselves, of up to 24 MB each, are not held."""

    def __init__(self, read: Callable[[bytes], str], *, budget_characters: int) -> None:
        self._read = read
        self._left = budget_characters
        self._texts: OrderedDict[bytes, str] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, raw: bytes) -> str:
        """Raises what `read` raises."""
        digest = hashlib.sha256(raw).digest()
        with self._lock:
            known = self._texts.get(digest)
            if known is not None:
                self._texts.move_to_end(digest)
                return known
        text = self._read(raw)
        with self._lock:
            if digest not in self._texts:
                self._texts[digest] = text
                self._left -= len(text)
            while self._left < 0:
                self._left += len(self._texts.popitem(last=False)[1])
        return text


_pdf_texts = KeptTexts(FILES.pdf_text, budget_characters=_KEPT_CHARACTERS)
