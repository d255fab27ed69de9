"""How this process's threads share Python beside a thread that drives a device.

The engine's thread needs Python for a moment in every step, and a step takes milliseconds: with the interpreter's own
interval of 5 ms one busy thread beside it (a prompt that is rendered, a body that is decoded) makes a step of 8 ms last
34. What a loaded model and its libraries hold of Python's objects lives as long as the process: frozen, no collection
walks it again in the middle of a step.
"""

from __future__ import annotations

import gc
import sys

SWITCH_INTERVAL_S = 0.0005


def share_python() -> None:
    """Let threads that wait for Python have it soon. Once per process."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)


def freeze_objects() -> None:
    """Leave what lives now out of all later collections. Once the model is loaded."""
    gc.collect()
    gc.freeze()
