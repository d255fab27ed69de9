"""How hot the machine is and what it draws, as far as it tells without root.

macOS keeps a thermal state for every program (`NSProcessInfo.thermalState`): from 2 on it slows the machine down. It is
asked through the Objective-C runtime. Watts and the use of the GPU are told by nothing public; where somebody has
installed `macmon`, it is asked, and else they are left out. `MacHeat` and `Macmon` were written from Apple's headers
and macmon's documentation, and have not been run on a Mac yet. `HeatFile` stands in for the state on other systems:
whoever writes 0 to 3 into the file is heard.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

log = logging.getLogger(__name__)

STATES: Final = (0, 1, 2, 3)  # nominal, fair, serious, critical
_MACMON: Final = ("macmon", "pipe", "--samples", "1", "--interval", "200")
_ASK_S: Final = 3.0


class Heat(Protocol):
    def state(self) -> int | None:
        """One of `STATES`, None where it is not told. Costs microseconds, and raises nothing."""


class Runtime(Protocol):
    """What is asked of the Objective-C runtime."""

    def the_class(self, name: bytes) -> Any: ...

    def send(self, result: Any, receiver: Any, selector: bytes) -> Any:
        """The answer to a message without arguments, which is of the type `result`."""


class MacRuntime:
    """Raises `OSError` where there is none."""

    def __init__(self) -> None:
        ctypes.CDLL("/System/Library/Frameworks/Foundation.framework/Foundation")  # NSProcessInfo is in there
        self._library = ctypes.CDLL(ctypes.util.find_library("objc") or "libobjc.dylib")
        for name in ("objc_getClass", "sel_registerName"):
            function = getattr(self._library, name)
            function.restype, function.argtypes = ctypes.c_void_p, [ctypes.c_char_p]

    def the_class(self, name: bytes) -> Any:
        return self._library.objc_getClass(name)

    def send(self, result: Any, receiver: Any, selector: bytes) -> Any:
        """`objc_msgSend` is to be called as the function that it ends in, so as one of this type."""
        called = ctypes.cast(self._library.objc_msgSend, ctypes.CFUNCTYPE(result, ctypes.c_void_p, ctypes.c_void_p))
        return called(receiver, self._library.sel_registerName(selector))


class MacHeat:
    """See the module's text."""

    def __init__(self, runtime: Runtime | None = None) -> None:
        """Raises `OSError` where there is no runtime."""
        self._runtime = runtime or MacRuntime()
        self._process = self._runtime.send(ctypes.c_void_p, self._runtime.the_class(b"NSProcessInfo"), b"processInfo")

    def state(self) -> int | None:
        found = self._runtime.send(ctypes.c_long, self._process, b"thermalState")
        return int(found) if found in STATES else None


class HeatFile:
    """See the module's text. Without a file nothing is told."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def state(self) -> int | None:
        try:
            text = self._path.read_text().strip()
        except (OSError, ValueError):
            return None
        return next((state for state in STATES if str(state) == text), None)


def build_heat(folder: Path) -> Heat:
    """The system's own where it has one, else the file `thermal_state` in `folder`."""
    if sys.platform == "darwin":
        try:
            return MacHeat()
        except OSError as error:
            log.warning("the system's thermal state cannot be read: %s", error)
    return HeatFile(folder / "thermal_state")


class Macmon:
    """What the program `macmon` measures in a fifth of a second. `command` is None where it is not installed."""

    def __init__(self, command: Sequence[str] | None = None) -> None:
        self._command = command if command is not None else _MACMON if shutil.which(_MACMON[0]) else None

    def read(self) -> dict[str, float]:
        """`power_watts` of the whole chip and `gpu_used_ratio`, as far as they are told. May take seconds."""
        if self._command is None:
            return {}
        try:
            said = subprocess.run(list(self._command), capture_output=True, timeout=_ASK_S, check=True).stdout
            return figures_of(json.loads(said.splitlines()[0]))
        except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
            log.warning("macmon is asked no more: %s", error)
            self._command = None
            return {}


def figures_of(told: Any) -> dict[str, float]:
    """Of a line of macmon's. What it leaves out is left out."""
    if not isinstance(told, Mapping):
        return {}
    used = told.get("gpu_usage")
    found = {
        "power_watts": told.get("all_power"),
        "gpu_used_ratio": used[1] if isinstance(used, list) and len(used) == 2 else None,
    }
    return {name: float(value) for name, value in found.items() if isinstance(value, int | float)}
