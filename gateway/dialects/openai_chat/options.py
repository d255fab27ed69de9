"""What a body says beside the conversation: what its client gets back of it, and what nothing here can do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from gateway.dialects import fields
from gateway.dialects.openai.metadata import parse_metadata
from shared.request import Priority

_VERBOSITIES: Final = ("low", "medium", "high")
_FLEX: Final = "flex"
_TIERS: Final = ("auto", "default", _FLEX, "scale", "priority", "fast")


def parse_echoed(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that come back in the answer."""
    echoed: dict[str, Any] = {}
    metadata = parse_metadata(body.get("metadata"), "metadata")
    if metadata is not None:
        echoed["metadata"] = metadata
    if body.get("service_tier") is not None:
        if body["service_tier"] not in _TIERS:
            fields.refuse(f"Input should be one of {', '.join(_TIERS)}", "service_tier")
        echoed["service_tier"] = _FLEX if body["service_tier"] == _FLEX else "default"
    return echoed


def priority_of(body: Mapping[str, Any]) -> Priority:
    """The tier "flex" is for what may take its time."""
    return "batch" if body.get("service_tier") == _FLEX else "interactive"


def parse_unheeded(body: Mapping[str, Any]) -> Iterator[str]:
    """Warnings of what is accepted and not done. Raises `FieldError` for what an answer without it would not be."""
    verbosity = body.get("verbosity")
    if verbosity not in (None, *_VERBOSITIES):
        fields.refuse(f"Input should be one of {', '.join(_VERBOSITIES)}", "verbosity")
    if verbosity not in (None, "medium"):
        yield "`verbosity` is not honoured: models here have no such switch"
    with fields.within("modalities"):
        for kind in fields.each(fields.optional_sequence(body.get("modalities")), fields.string):
            if kind != "text":
                fields.refuse(f"{kind[:50]!r} is not available here, only 'text'")
    if body.get("web_search_options") is not None:
        yield "not available here: web search"
    if body.get("moderation") is not None:
        yield "not available here: moderation"
    _check_prediction(body.get("prediction"))


def _check_prediction(value: Any) -> None:
    """It only makes answers faster: here drafts are made without it."""
    with fields.within("prediction"):
        prediction = fields.optional_mapping(value)
        if value is not None and prediction.get("type") != "content":
            fields.refuse("Input should be 'content'", "type")
        if value is not None and not isinstance(prediction.get("content"), str | list):
            fields.refuse("Input should be a text or a list of parts", "content")
