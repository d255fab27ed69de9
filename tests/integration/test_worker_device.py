"""Two MLX engines in two processes on one host: their steps take turns, and both get on."""

import subprocess
import sys
import textwrap
from itertools import pairwise

import pytest

from tests.support.models import AGENT_FULL, REPOSITORY

# Runs one long generation and writes down when each turn had the device: from taking it to offering it on.
ENGINE = textwrap.dedent(
    """
    import sys, threading, time
    from pathlib import Path
    from shared.config import Settings
    from shared.messages import Message, TextPart
    from shared.registry import ModelSpec
    from shared.request import GenerateRequest, SamplingParams
    from worker.device.turns import Turns
    from worker.engines.mlx import engine as mlx_engine
    from worker.engines.stepped import SteppedEngine

    model, state, steps = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    held, done = [], threading.Event()

    class NotedTurns(Turns):
        def take(self):
            super().take()
            self.began_ns = time.monotonic_ns()

        def offer(self, *, is_idle):
            held.append((self.began_ns, time.monotonic_ns()))
            super().offer(is_idle=is_idle)
            if len(held) == steps:
                done.set()

    class Outbox:
        def emit(self, outputs):
            pass

        def alive(self):
            pass

        def broken(self, error):
            print(error, flush=True)

    mlx_engine.Turns = NotedTurns
    engine = SteppedEngine(mlx_engine.MlxEngine(ModelSpec(id="m", source=model), Settings(state_dir=state)))
    engine.load(lambda done: None)
    engine.start(Outbox())
    message = Message(role="user", parts=(TextPart(text="hello"),))
    sampling = SamplingParams(max_tokens=100_000, temperature=0.0, logit_bias={2: -1000.0})
    prepared = engine.prepare(GenerateRequest(id="r", model="m", messages=(message,), sampling=sampling))
    print("ready", flush=True)
    sys.stdin.readline()
    engine.submit(prepared)
    done.wait()
    for began, ended in held[:steps]:
        print(began, ended)
    sys.stdout.flush()
    engine.cancel("r")
    engine.unload(30)
    """
)


@pytest.mark.slow
def test_steps_of_two_engines_never_overlap_and_neither_starves(tmp_path):
    def engine():
        command = [sys.executable, "-c", ENGINE, str(AGENT_FULL), str(tmp_path), "150"]
        return subprocess.Popen(
            command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    engines = [engine(), engine()]
    for process in engines:
        assert process.stdout.readline() == "ready\n"
    for process in engines:
        process.stdin.write("go\n")
    outputs = [process.communicate()[0] for process in engines]
    steps = sorted(
        (*map(int, line.split()), owner) for owner, output in enumerate(outputs) for line in output.splitlines()
    )
    assert len(steps) == 300
    assert all(first[1] <= second[0] for first, second in pairwise(steps))
    first_end = min(max(end for _, end, owner in steps if owner == name) for name in (0, 1))
    shared = [owner for began, _, owner in steps if began < first_end]
    assert min(shared.count(0), shared.count(1)) > len(shared) * 0.3
