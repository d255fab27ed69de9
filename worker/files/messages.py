"""What both ends say: the kinds of files, how messages begin and are received, and the words of refusals."""

from __future__ import annotations

import socket
import struct
from typing import Final

PDF: Final = 1
IMAGE: Final = 2
SOUND: Final = 3

# A request: the kind of file and how long it is. An answer: whether it was read, and how long the rest is.
HEADER: Final = struct.Struct("!BQ")
READ: Final = 0
REFUSED: Final = 1
SIZE: Final = struct.Struct("!II")  # height and width of an image, before its pixels

# Claude Code takes these as "strip the images, or the document, and send again".
IMAGE_REFUSAL: Final = "Could not process image"
UNREADABLE_PDF: Final = "This model does not support PDF input that cannot be read"
MAX_SIDE_PIXELS: Final = 8000
SOUND_REFUSAL: Final = "Invalid file format"  # as the vendor says it
MAX_SOUND_S: Final = 2 * 60 * 60
SOUND_SAMPLES_PER_S: Final = 16_000


def too_wide(size: tuple[int, int] | None) -> str:
    """The refusal of an image of that width and height, as far as they are known."""
    shown = f" ({size[0]} x {size[1]})" if size else ""
    return f"{IMAGE_REFUSAL}: the image dimensions exceed max allowed size: {MAX_SIDE_PIXELS} pixels{shown}"


def too_long_sound() -> str:
    return f"the sound lasts longer than {MAX_SOUND_S // 60} minutes"


def receive(connection: socket.socket, size: int) -> memoryview:
    """Exactly so many bytes. Raises `EOFError` when the other end has closed."""
    buffer = memoryview(bytearray(size))
    received = 0
    while received < size:
        count = connection.recv_into(buffer[received:])
        if count == 0:
            raise EOFError("the other end has closed")
        received += count
    return buffer
