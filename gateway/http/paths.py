"""Paths as clients join them, with a slash too many, brought to the one form that the routes know."""

from __future__ import annotations

import re

# Behind this stands a model's id, which may be a folder's path and keeps its slashes.
_BEFORE_AN_ID = re.compile(r"/+(?:anthropic/+)?v1/+models/")
_SLASHES = re.compile(r"/{2,}")


def normal_path(path: str) -> str:
    """The path without repeated and trailing slashes."""
    before = _BEFORE_AN_ID.match(path)
    if before is not None:
        return _SLASHES.sub("/", before[0]) + path[before.end() :]
    return _SLASHES.sub("/", path).rstrip("/") or "/"
