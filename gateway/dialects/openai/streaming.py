"""Whether an answer is streamed, and what its client wants of the stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.dialects import fields


def parse_streaming(body: Mapping[str, Any]) -> tuple[bool, bool]:
    """(`stream`, whether the stream ends with its usage)."""
    stream = fields.boolean(body.get("stream"), "stream")
    if body.get("stream_options") is not None and not stream:
        fields.refuse("only allowed when `stream` is true", "stream_options")
    options = fields.optional_mapping(body.get("stream_options"), "stream_options")
    return stream, fields.boolean(options.get("include_usage"), "stream_options", "include_usage")
