"""How long streams wait for somebody else's prompt on real Macs: the scheduler's own decisions, the device simulated.

A pass takes `read_s + n * token_s + n * mean depth * depth_s`, times noise: a spread of 8%, a drift of 10% as the
machine warms, and now and then a disturbance. Prompts of several lengths come one after another while two streams
decode.

Where the constants come from. Prefill and decode rates are those that were published for mlx-lm on the machine:

    M4 Max, Qwen3-30B-A3B and gpt-oss-20b, 4 bits     github.com/ml-explore/mlx-lm/pull/406: rates at 512 and at 2,048
                                                      tokens, whose difference gives what a pass costs by itself
    M4 Max, Qwen3-4B, 4 bits                          mlx-lm's BENCHMARKS.md: 1,622 tokens/s at 2,048, 134.5 decoded
    M3 Pro, Qwen3-4B, 4 bits                          github.com/ml-explore/mlx-lm/pull/1569: 615 and 44.6
    M4, Qwen3-8B and 14B, 4 bits                      Apple's post on MLX and the M5: 4,096 tokens in 18.6 and 35.2 s
    M3 Max, Llama 3.3 70B, 4 bits                     github.com/ml-explore/mlx-examples/issues/1029: 83.8 and 9.3
    M3 Ultra, Llama 3.1 70B, 4 bits                   abhiramsalammagari.com/writing/dense-70b-mlx-m3-ultra: 170 at
                                                      4,000 tokens, 74 at 128,000

Derived: where no pass was measured by itself it costs what a decode step costs, as both read the weights once; where no
decode rate was published a step reads the active weights at 80% of the machine's bandwidth; attention's share, but for
the last row, where it was measured, is that of the model's shape at the rate of arithmetic that `token_s` implies.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from tests.bench.report import Table, median, percentile
from worker.engines.mlx.prefill.meter import PrefillMeter
from worker.engines.mlx.prefill.scheduler import MIN_CHUNK_TOKENS, DecodeShare, chunk_tokens

TARGET_S = 0.2
MAX_TOKENS = 2048
PROMPTS = (400, 5_600, 18_000, 300, 5_600, 60_000, 900, 5_600)
_SPREAD = 0.08
_DRIFT = 0.1
_DRIFT_PASSES = 400  # of a whole wave
_DISTURBED, _DISTURBANCE = 1 / 250, 1.4
_NOISE_ROOM, _WORST_NOISE = 1.4, (1 + _DRIFT) * _DISTURBANCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Mac:
    """A machine with a model. Seconds: of a pass by itself, of each token, of each token per token before it, and of a
    decode step of two streams."""

    name: str
    read_s: float
    token_s: float
    depth_s: float
    step_s: float

    def pass_s(self, start: int, tokens: int) -> float:
        return self.read_s + tokens * (self.token_s + self.depth_s * (start + tokens / 2))

    def target_s(self, start: int) -> float:
        """What can be kept by a chunk from that depth on: the target, as a pass in a hundred has it, else twice the
        target, as the worst ones have it, else nothing (infinity)."""
        least_s = self.pass_s(start, MIN_CHUNK_TOKENS) + self.step_s
        if least_s * _NOISE_ROOM <= TARGET_S:
            return TARGET_S
        return 2 * TARGET_S if least_s * _WORST_NOISE <= 2 * TARGET_S else math.inf


def _attention_s(token_s: float, billions: float, layers: int, width: int) -> float:
    """Of a token and each token before it: scores and sums over all heads (`width` in all), at the rate at which the
    other 2 operations per active weight take `token_s`."""
    return 4 * layers * width * token_s / (2 * billions * 1e9)


MACS = (
    Mac(
        name="M4 Max, Qwen3-30B-A3B",
        read_s=0.067,
        token_s=0.545e-3,
        depth_s=_attention_s(0.545e-3, 3.3, 48, 4096),
        step_s=0.013,
    ),
    Mac(
        name="M4 Max, gpt-oss-20b",
        read_s=0.0126,
        token_s=0.623e-3,
        depth_s=_attention_s(0.623e-3, 3.6, 12, 4096),
        step_s=0.011,
    ),
    Mac(
        name="M4 Max, Qwen3-4B",
        read_s=0.0074,
        token_s=0.613e-3,
        depth_s=_attention_s(0.613e-3, 4.0, 36, 4096),
        step_s=0.0085,
    ),
    Mac(
        name="M3 Pro, Qwen3-4B",
        read_s=0.0224,
        token_s=1.61e-3,
        depth_s=_attention_s(1.61e-3, 4.0, 36, 4096),
        step_s=0.025,
    ),
    Mac(name="M4, Qwen3-8B", read_s=0.048, token_s=4.5e-3, depth_s=_attention_s(4.5e-3, 8.2, 36, 4096), step_s=0.052),
    Mac(name="M4, Qwen3-14B", read_s=0.086, token_s=8.5e-3, depth_s=_attention_s(8.5e-3, 14.8, 40, 5120), step_s=0.093),
    Mac(
        name="M3 Max, Llama-3.3-70B",
        read_s=0.107,
        token_s=11.9e-3,
        depth_s=_attention_s(11.9e-3, 70.6, 80, 8192),
        step_s=0.115,
    ),
    Mac(name="M3 Ultra, Llama-3.1-70B", read_s=0.061, token_s=5.65e-3, depth_s=1.2e-7, step_s=0.066),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Between two tokens of a stream while prompts waited, and the target that could be kept (`Mac.target_s`)."""

    seconds: float
    target_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """`chunks` in tokens; `prefill_s` of all passes, and `alone_s` what the prompts would have taken in passes as large
    as they come, without streams."""

    gaps: list[Gap]
    chunks: list[int]
    prefill_s: float
    alone_s: float

    def within(self, target_s: float) -> list[float]:
        """The gaps, in seconds, where `target_s` could be kept."""
        return [gap.seconds for gap in self.gaps if gap.target_s <= target_s]

    @property
    def over(self) -> float:
        """Share of the gaps above the target, of those where it could be kept."""
        gaps_s = self.within(TARGET_S)
        return sum(gap_s > TARGET_S for gap_s in gaps_s) / max(1, len(gaps_s))

    @property
    def over_twice(self) -> int:
        """Gaps above twice the target, where that could be kept."""
        return sum(gap_s > 2 * TARGET_S for gap_s in self.within(2 * TARGET_S))

    @property
    def rate(self) -> float:
        """Of the prefill's passes, to that of the largest ones."""
        return self.alone_s / self.prefill_s


class _Noise:
    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)
        self._passes = 0

    def __call__(self) -> float:
        self._passes += 1
        phase = self._passes % _DRIFT_PASSES / _DRIFT_PASSES
        drift = 1 + _DRIFT * abs(2 * phase - 1)
        disturbed = _DISTURBANCE if self._dice.random() < _DISTURBED else 1.0
        return drift * disturbed * self._dice.lognormvariate(0, _SPREAD)


class Simulation:
    """Two streams that decode, and prompts one after another."""

    def __init__(self, mac: Mac, seed: int) -> None:
        self._mac = mac
        self._noise, self._meter, self._share = _Noise(seed), PrefillMeter(), DecodeShare()
        self._step_s = mac.step_s
        self._waited_s, self._target_s = 0.0, TARGET_S
        self.gaps: list[Gap] = []
        self.chunks: list[int] = []
        self.prefill_s = 0.0

    def prefill(self, total: int) -> None:
        position = 0
        while position < total:
            self._decode()
            if self._share.is_paid:
                position = self._advance(position, total)

    def _decode(self) -> None:
        step_s = self._mac.step_s * self._noise()
        self._step_s = 0.9 * self._step_s + 0.1 * step_s
        self.gaps.append(Gap(seconds=self._waited_s + step_s, target_s=self._target_s))
        self._waited_s, self._target_s = 0.0, TARGET_S
        self._share.step(step_s)

    def _advance(self, position: int, total: int) -> int:
        size = chunk_tokens(
            self._meter,
            depth=position,
            is_decoding=True,
            decode_step_s=self._step_s,
            stall_target_s=TARGET_S,
            max_tokens=MAX_TOKENS,
        )
        end = min(position + size, total)
        self._waited_s = self._mac.pass_s(position, end - position) * self._noise()
        self._target_s = self._mac.target_s(position)
        self._meter.observe(position, end, self._waited_s)
        self._share.chunk(self._waited_s)
        self.prefill_s += self._waited_s
        self.chunks.append(end - position)
        return end


def simulate(mac: Mac, *, seed: int = 1, rounds: int = 3) -> Outcome:
    simulation = Simulation(mac, seed)
    for total in PROMPTS * rounds:
        simulation.prefill(total)
    alone_s = rounds * sum(mac.pass_s(start, size) for total in PROMPTS for start, size in _whole(total))
    return Outcome(gaps=simulation.gaps[1:], chunks=simulation.chunks, prefill_s=simulation.prefill_s, alone_s=alone_s)


def _whole(total: int) -> Iterator[tuple[int, int]]:
    for start in range(0, total, MAX_TOKENS):
        yield start, min(MAX_TOKENS, total - start)


def measure_chunks() -> Table:
    table = Table(
        title=f"Simulated: gaps of two streams while prompts of 300 to 60,000 tokens are prefilled, target {TARGET_S}s",
        head=(
            "",
            "chunk, median",
            "gaps",
            "can be kept",
            "over",
            "99th",
            "over twice",
            "longest",
            "prefill",
            "streams",
        ),
    )
    for mac in MACS:
        done = simulate(mac)
        within_s, all_s = done.within(TARGET_S), [gap.seconds for gap in done.gaps]
        table.add(
            mac.name,
            f"{median(done.chunks):.0f}",
            f"{len(all_s):,}",
            f"{100 * len(within_s) / len(all_s):.0f}%",
            f"{100 * done.over:.2f}%",
            f"{1000 * percentile(within_s, 0.99):.0f} ms" if within_s else "-",
            f"{done.over_twice}",
            f"{1000 * max(all_s):.0f} ms",
            f"{100 * done.rate:.0f}%",
            f"{len(all_s) / sum(all_s):.1f}/s",
        )
    table.notes += [
        "can be kept: the gaps without a chunk, and with one at a depth where 32 tokens and a step fit into the target",
        "over, 99th: of these; over twice: where 32 tokens fit into twice the target",
        "prefill: the rate of its passes, to that of passes of 2,048 tokens; streams: tokens a second of each",
    ]
    return table
