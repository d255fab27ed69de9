"""Tool calls in the text a model generates, for every format that mlx-lm can parse, streamed."""

from worker.formats.readers.bodies import BodyCall
from worker.formats.readers.definitions import definition
from worker.formats.readers.families import CallFormat, family_of
from worker.formats.readers.reader import CallBegun, CallDelta, CallEnded, CallEvent, CallReader, CallText

__all__ = [
    "BodyCall",
    "CallBegun",
    "CallDelta",
    "CallEnded",
    "CallEvent",
    "CallFormat",
    "CallReader",
    "CallText",
    "definition",
    "family_of",
]
