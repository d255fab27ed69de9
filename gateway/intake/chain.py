"""What tells a conversation's prefixes apart: a chain of digests over tools, system text and each message.

The bytes are those that travel to the worker anyway. The digests are no secret's: who knows the model, the tenant and
the key makes tags of them (`gateway.intake.tags`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b

from shared.messages import ImagePart, Message, TextPart, ToolResultPart
from shared.request import Chain, GenerateRequest, Link, Packed
from shared.trail import MOST_PIECES, PIECE_BYTES, TAG_BYTES

_IMAGE_BYTES = 4096  # an image takes as many tokens as about so much text, whatever its size


def build_chain(given: GenerateRequest, packed: Packed) -> Chain:
    """Of a request and what was packed of it."""
    data = memoryview(packed.data)
    messages = [data[start:end] for start, end in packed.messages]
    tools = b"".join(data[start:end] for start, end in packed.tools)
    system = _head_text(given).encode(errors="surrogatepass")
    sizes = [len(encoded) - _image_excess(message) for message, encoded in zip(given.messages, messages, strict=True)]
    return Chain(
        tools_first=tuple(_pieces(tools, system)),
        system_first=tuple(_pieces(system, tools)),
        messages=tuple(_ends(tools, messages, sizes)),
        tools_bytes=len(tools),
        head_bytes=len(tools) + len(system),
        text_bytes=len(tools) + (sum(sizes) if sizes else len(system)),
        first_user=next((index for index, message in enumerate(given.messages) if message.role == "user"), -1),
        images=sum(1 for message in given.messages for _ in _images(message)),
    )


def _pieces(*texts: bytes) -> Iterator[Link]:
    """A link for each whole piece."""
    text = b"\0".join(texts)
    chain = blake2b(digest_size=TAG_BYTES)
    for number in range(min(MOST_PIECES, len(text) // PIECE_BYTES)):
        end = (number + 1) * PIECE_BYTES
        chain.update(text[end - PIECE_BYTES : end])
        yield Link(chain.copy().digest(), end)


def _ends(tools: bytes, messages: Sequence[memoryview], sizes: Sequence[int]) -> Iterator[Link]:
    chain = blake2b(len(tools).to_bytes(8, "big") + tools, digest_size=TAG_BYTES)
    total = len(tools)
    for encoded, size in zip(messages, sizes, strict=True):
        chain.update(encoded)
        total += size
        yield Link(chain.copy().digest(), total)


def _head_text(given: GenerateRequest) -> str:
    """Of the system message, or a raw prompt. As text: an encoded text begins with its length, so that two which differ
    at their ends would have no piece in common."""
    if given.messages and given.messages[0].role == "system":
        return "".join(part.text for part in given.messages[0].parts if isinstance(part, TextPart))
    return given.raw_text


def _image_excess(message: Message) -> int:
    """Bytes of images beyond what an image counts for."""
    return sum(max(0, len(image.data) - _IMAGE_BYTES) for image in _images(message))


def _images(message: Message) -> Iterator[ImagePart]:
    for part in message.parts:
        inner = part.parts if isinstance(part, ToolResultPart) else (part,)
        yield from (each for each in inner if isinstance(each, ImagePart))
