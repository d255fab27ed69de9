"""A device whose decode passes take as long as one is told, whatever the model: to see what the host adds to a step.

`install` changes this process: each pass is launched as it is, and its tokens are given out no sooner than the device
would have had them, passes one after another. Nothing computes meanwhile, as on a Mac, where the GPU does.
`environment` does the same in processes that are started with it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

STEP_VARIABLE = "MLXGW_BENCH_STEP_MS"
_HOOK = f"""
import os, sys
if {STEP_VARIABLE!r} in os.environ and ("worker" in sys.orig_argv or "tests.bench.bare" in sys.orig_argv):
    from tests.bench import paced
    paced.install(float(os.environ[{STEP_VARIABLE!r}]) / 1000)
"""


class Device:
    """One pass at a time. `slept_s` is for how long the host has waited for it, and `passes` how many there were."""

    def __init__(self, step_s: float) -> None:
        self._step_s = step_s
        self._ready_s = 0.0  # when the pass in flight is done
        self.slept_s = 0.0
        self.passes = 0

    def paced(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """`step` launches a pass and gives the tokens of the one before."""

        def wait_for(*arguments: Any, **more: Any) -> Any:
            before_s = self._ready_s
            self._ready_s = max(before_s, time.perf_counter()) + self._step_s
            given = step(*arguments, **more)
            left_s = before_s - time.perf_counter()
            if left_s > 0:
                time.sleep(left_s)
                self.slept_s += left_s
            self.passes += 1
            return given

        return wait_for


def install(step_s: float) -> Device:
    from mlx_lm.generate import BatchGenerator

    from worker.engines.mlx.decode.batch import DecodeGroup

    device = Device(step_s)
    for cls, name in ((DecodeGroup, "step"), (BatchGenerator, "next")):
        setattr(cls, name, device.paced(getattr(cls, name)))
    return device


def environment(folder: Path, repository: Path, step_s: float) -> Mapping[str, str]:
    """For processes whose device shall be paced; `folder` is for what makes it so."""
    (folder / "sitecustomize.py").write_text(_HOOK)
    paths = [str(folder), str(repository), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths), STEP_VARIABLE: f"{1000 * step_s}"}
