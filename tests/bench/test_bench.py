"""The bench's own arithmetic, its prompts, and one small run of it."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest

from tests.bench.against import COLD, compared, verdict
from tests.bench.chunks import MACS, Mac, simulate
from tests.bench.prompts import Renderer, append_turn, build_head, build_short
from tests.bench.report import Table, percentile, ratio, seconds
from tests.bench.stalls import longest_gap
from tests.bench.wire import Answer
from tests.support.models import CheckpointMaker
from tests.support.processes import REPOSITORY


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(n) for n in range(1, 101)]
    assert percentile(values, 0.5) == 50.0
    assert percentile(values, 0.99) == 99.0
    assert percentile([7.0], 0.99) == 7.0


def test_times_and_ratios_read_well() -> None:
    assert [seconds(value) for value in (0.00123, 0.0456, 1.5, 12.345)] == ["1.23 ms", "46 ms", "1500 ms", "12.35 s"]
    assert ratio(3.0, 2.0) == "1.50x"


def test_tables_align_and_refuse_rows_of_another_width() -> None:
    table = Table(title="title", head=("", "one"))
    table.add("first", "1")
    assert table.render() == "title\n         one\n  -----  ---\n  first    1"
    with pytest.raises(ValueError, match="3 cells"):
        table.add("second", "1", "2")


def test_the_longest_gap_counts_where_it_touches_the_span() -> None:
    answer = Answer(text="", first_s=0.0, total_s=9.0, text_times_s=(0.0, 1.0, 1.5, 4.0, 4.5, 9.0))
    assert longest_gap(answer, 1.2, 4.2) == 2.5
    assert longest_gap(answer, 4.2, 5.0) == 4.5
    assert longest_gap(answer, 0.0, 0.5) == 1.0


def test_heads_have_exactly_the_length_asked_for_and_turns_append_to_them(random_checkpoint: CheckpointMaker) -> None:
    renderer = Renderer(random_checkpoint("full"))
    head = build_head(renderer, 9_000, salt="a")
    assert renderer.count(head) == 9_000
    longer = renderer.tokens(append_turn(head, "words that were said ", 1))
    head_ids = renderer.tokens(head)
    assert longer[:9_000] == head_ids
    assert 9_050 < len(longer) < 9_300
    other = renderer.tokens(build_head(renderer, 9_000, salt="b"))
    assert renderer.tokens(build_short("a", max_tokens=1)) != renderer.tokens(build_short("b", max_tokens=1))
    shared = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(other, head_ids, strict=True)))
    assert shared < 100


@pytest.mark.parametrize("mac", MACS, ids=lambda mac: mac.name)
def test_chunks_keep_the_stall_target_on_simulated_macs(mac: Mac) -> None:
    """Where no chunk is short enough for it, they do not give their rate away."""
    done = simulate(mac, rounds=1)
    assert done.over <= 0.01
    assert done.over_twice <= 1  # of thousands: a disturbed pass that the noise made longer still
    assert done.rate >= 0.5
    decoded_s = mac.step_s * len(done.gaps)
    assert decoded_s / (decoded_s + done.prefill_s) >= 0.14


def test_a_row_is_worse_only_where_the_rounds_of_both_do_not_overlap() -> None:
    assert verdict([10, 12], [13, 14], is_rate=False) == verdict([13, 14], [10, 12], is_rate=True) == "WORSE"
    assert verdict([13, 14], [10, 12], is_rate=False) == verdict([10, 12], [13, 14], is_rate=True) == "better"
    assert verdict([10, 14], [13, 20], is_rate=False) == "same"
    table = compared({"old": [{COLD: 10.0}, {COLD: 30.0}], "new": [{COLD: 40.0}, {COLD: 60.0}]})
    assert table.rows[0][1:] == ("20.0 (10.0-30.0)", "50.0 (40.0-60.0)", "2.50x", "WORSE")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_small_run_prints_its_tables() -> None:
    command = [sys.executable, "-m", "tests.bench", "turns", "--tokens", "9000", "--params", "3e5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=360, check=False, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr[-2000:]
    for name in ("this stack", "mlx_lm server", "bare engine"):
        assert name in done.stdout
    assert "the answers of all are the same" in done.stdout
    assert "lost its prefix" not in done.stdout
