"""The end of a request, told: one line in the log, and a trace."""

from __future__ import annotations

import logging

import orjson

from gateway.trace.file import TraceFile
from gateway.trace.spans import end_span
from gateway.trace.story import SHAPES, Story

logger = logging.getLogger(__name__)


def tell(story: Story, traces: TraceFile) -> None:
    """Raises nothing: whatever is wrong with a story, its request has ended as it has."""
    try:
        end_span(story)
        if story.request is not None:
            fields = story.fields()
            logger.info("%s", story.line(fields), extra={"fields": fields})
        if story.predicted is not None:
            logger.debug("%s %s", story.id, story.predicted.text)
        if traces.is_on or story.debug >= SHAPES:
            told = story.told()
            traces.write(told)
            if story.debug >= SHAPES:
                shown = {name: value for name, value in told.items() if name != "body"}
                logger.info("%s in full: %s", story.id, orjson.dumps(shown, default=str).decode())
    except Exception:  # any bug in here is not the client's affair
        logger.exception("request %s: its end could not be told", story.id)
