"""Tool calls in the text that a model generates, for every family of `worker.formats.families`, streamed."""

from worker.formats.readers.bodies import BodyCall
from worker.formats.readers.definitions import Tools
from worker.formats.readers.formats import CallFormat
from worker.formats.readers.reader import CallBegun, CallDelta, CallEnded, CallEvent, CallReader, CallText
from worker.formats.readers.shown import ReadCall, read_calls, shown_format

__all__ = [
    "BodyCall",
    "CallBegun",
    "CallDelta",
    "CallEnded",
    "CallEvent",
    "CallFormat",
    "CallReader",
    "CallText",
    "ReadCall",
    "Tools",
    "read_calls",
    "shown_format",
]
