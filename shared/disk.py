"""Whether a folder's disk takes what is written to it, found out by writing: what is free is not always ours."""

from __future__ import annotations

import tempfile
from pathlib import Path

_PROBE_BYTES = 64 * 1024
_NOTHING = "nothing can be written to"


def write_trouble(folder: Path) -> str:
    """Why nothing can be kept in the folder; empty where something can. A folder that is missing is its parent's
    business."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
    except OSError as error:
        return f"{_NOTHING} {folder}: {error.strerror}"
    return ""


def subject_and_effect(fault: str) -> tuple[str, str]:
    """What a fault that a host or a gateway tells is about, and what it means: the disk, else a settings file."""
    if fault.startswith(_NOTHING):
        return "disk", "answers go on, caches, logs and batches are not kept"
    return "settings", "the last good content stays in force"
