"""How short of memory the system says that the machine is, whatever takes it.

macOS keeps a level, which it raises long before it swaps or ends processes. `MacPressure` reads it; it was written from
Apple's headers and has not been run on a Mac yet. `PressureFile` stands in for it on other systems, for tests and for
drills: whoever writes `warning` or `critical` into the file is heard as the system would be.
"""

from __future__ import annotations

import ctypes
import logging
import sys
from pathlib import Path
from typing import Literal, Protocol, get_args

log = logging.getLogger(__name__)

Level = Literal["normal", "warning", "critical"]

# DISPATCH_MEMORYPRESSURE_NORMAL, _WARN and _CRITICAL, as `kern.memorystatus_vm_pressure_level` gives them.
_MAC_LEVELS: dict[int, Level] = {1: "normal", 2: "warning", 4: "critical"}
_MAC_NAME = b"kern.memorystatus_vm_pressure_level"


class Pressure(Protocol):
    def level(self) -> Level:
        """Now. Costs microseconds, and raises nothing."""


class MacPressure:
    """See the module's text."""

    def __init__(self, library: ctypes.CDLL | None = None) -> None:
        """Raises `OSError` where there is no C library to ask."""
        self._library = library or ctypes.CDLL(None, use_errno=True)

    def level(self) -> Level:
        value = ctypes.c_int(0)
        size = ctypes.c_size_t(ctypes.sizeof(value))
        failed = self._library.sysctlbyname(_MAC_NAME, ctypes.byref(value), ctypes.byref(size), None, 0)
        return "normal" if failed else _MAC_LEVELS.get(value.value, "normal")


class PressureFile:
    """See the module's text. Without a file there is no pressure."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def level(self) -> Level:
        try:
            text = self._path.read_text().strip()
        except (OSError, ValueError):
            return "normal"
        return next((level for level in get_args(Level) if level == text), "normal")


def build_pressure(folder: Path) -> Pressure:
    """The system's own where it has one, else the file `memory_pressure` in `folder`."""
    if sys.platform == "darwin":
        try:
            return MacPressure()
        except OSError as error:
            log.warning("the system's memory pressure cannot be heard: %s", error)
    return PressureFile(folder / "memory_pressure")
