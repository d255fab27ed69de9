"""The paced device gives tokens out when a real one would have them."""

from __future__ import annotations

import pytest

from tests.bench import paced


class Clock:
    """Time that passes only when somebody works or sleeps."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def perf_counter(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def test_passes_follow_each_other_and_the_host_works_beside_them(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(paced, "time", clock)
    device = paced.Device(0.008)

    def step(host_s: float) -> str:
        clock.sleep(host_s)
        return "tokens"

    run = device.paced(step)
    assert run(0.002) == "tokens"  # nothing was under way before the first
    begun_s = clock.now_s
    for _ in range(10):
        run(0.002)
    assert clock.now_s - begun_s == pytest.approx(10 * 0.008, abs=0.003)
    slept_s = device.slept_s
    for _ in range(10):
        run(0.020)  # a host that is slower than the device never waits for it
    assert device.slept_s - slept_s <= 0.008
