"""What llama.cpp's server is asked for vectors, and what it says: pure. Its `/v1/embeddings` takes texts and token ids
in one list: https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md.
"""

from __future__ import annotations

import base64
import binascii
import math
from array import array
from collections.abc import Sequence
from typing import Any, Final

from shared.errors import GatewayError, InternalError, PromptTooLongError
from worker.engines.gguf.completion import translate

PATH: Final = "/v1/embeddings"
_TOO_LARGE: Final = ("is too large to process", "larger than the max context size")  # its words for one long text


def render_inputs(inputs: Sequence[str | Sequence[int]]) -> dict[str, Any]:
    return {"input": [one if isinstance(one, str) else list(one) for one in inputs], "encoding_format": "base64"}


def parse_vectors(data: Any, count: int) -> tuple[list[array[float]], int]:
    """Vectors of length 1 in the order of the inputs, and how many tokens these have. Raises `InternalError` for an
    answer that does not hold them."""
    try:
        rows = sorted(data["data"], key=lambda row: int(row["index"]))
        vectors = [_unit(_floats(row["embedding"])) for row in rows]
        tokens = int(data["usage"]["prompt_tokens"])
    except (TypeError, KeyError, ValueError, binascii.Error) as error:
        raise InternalError(f"llama.cpp's server: its vectors cannot be read: {error!r}") from error
    if len(vectors) != count:
        raise InternalError(f"llama.cpp's server: {len(vectors)} vectors of {count} inputs")
    return vectors, tokens


def _floats(value: Any) -> array[float]:
    vector = array("f")
    if isinstance(value, str):
        vector.frombytes(base64.b64decode(value, validate=True))
    else:
        vector.fromlist([float(each) for each in value])
    return vector


def _unit(vector: array[float]) -> array[float]:
    length = math.sqrt(math.fsum(value * value for value in vector)) or 1.0
    return array("f", [value / length for value in vector])


def relevance(query: array[float], text: array[float]) -> bytes:
    """Between 0 and 1, as the embeddings engine says it."""
    cosine = math.fsum(a * b for a, b in zip(query, text, strict=True))
    return array("f", [(cosine + 1.0) / 2.0]).tobytes()


def refusal(status: int, data: Any, window_tokens: int) -> GatewayError:
    """By its meaning."""
    error = translate(status, data)
    if any(words in error.message for words in _TOO_LARGE):
        return PromptTooLongError(f"prompt is too long: a text has more than {window_tokens} tokens ({error.message})")
    return error
