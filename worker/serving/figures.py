"""What a worker's lease says of its engine and of the requests in it."""

from __future__ import annotations

from dataclasses import replace

from shared.registry import WorkerLease
from worker.engines.base import EngineStats
from worker.serving.runner import Runner

_LEAST_HANG_S = 2.0
_SLOWER = 3.0


def with_figures(lease: WorkerLease, runner: Runner, stalled_s: float, *, stall_s: float) -> WorkerLease:
    """As of now (from any thread). An engine that was silent for too long (`stalled_s`) makes it `stalled`: after
    `stall_s` the worker ends; sooner than that its requests are better off elsewhere."""
    stats, info, pace = runner.stats(), runner.info, runner.pace
    if stalled_s > hangs_after_s(stats, stall_s=stall_s):
        lease = replace(lease, state="stalled")
    if info is not None:
        lease = replace(
            lease,
            context_tokens=info.context_tokens,
            supports_tools=info.supports_tools,
            supports_reasoning=info.supports_reasoning,
            supports_images=info.supports_images,
            kinds=info.kinds,
            identity=info.identity,
            relays=info.relays,
        )
    return replace(
        lease,
        waiting_tokens=stats.waiting_tokens,
        prefill_tokens_per_s=stats.prefill_tokens_per_s,
        decode_tokens_per_s=stats.decode_tokens_per_s,
        cache_bytes=stats.cache_bytes,
        notes=stats.notes,
        waiting_s=stats.waiting_s,
        prefill_pass_s=stats.prefill_cost.pass_s,
        prefill_token_s=stats.prefill_cost.token_s,
        prefill_depth_s=stats.prefill_cost.depth_s,
        prefill_pass_tokens=stats.prefill_cost.pass_tokens,
        prefill_s=pace.prefill_s.mean,
        service_s=pace.service_s.mean,
        service_deviation_s=pace.service_s.deviation,
        wait_factor=runner.drift.wait.value,
        prefill_factor=runner.drift.alone.value,
        beside_factor=runner.drift.beside.value,
        tokens_per_byte=pace.tokens_per_byte.mean,
        restore_tokens_per_s=stats.restore_tokens_per_s,
        kept_bytes_per_token=stats.kept_bytes_per_token,
        link_bytes_per_s=stats.link_bytes_per_s,
        metrics={**_metrics(runner, stats), "progress_age_seconds": stalled_s},
    )


def hangs_after_s(stats: EngineStats, *, stall_s: float) -> float:
    """Seconds without a sign of life in its turn after which an engine is said to hang: several times what its longest
    step took, and what a whole pass of a prefill is predicted to take, and no less than a Mac may be busy with other
    things. `stall_s` while nothing is known of its steps."""
    if stats.stalled_s is None or not stats.longest_step_s:
        return stall_s
    cost = stats.prefill_cost
    pass_s = cost.predict_s(0, cost.pass_tokens) if cost.is_known else 0.0
    return min(stall_s, max(_LEAST_HANG_S, _SLOWER * max(stats.longest_step_s, pass_s)))


def _metrics(runner: Runner, stats: EngineStats) -> dict[str, float]:
    """The engine's own, and the counts of requests and tokens, by name without `wk_`."""
    totals = runner.totals
    return {
        **stats.metrics,
        "running": float(stats.running),
        "waiting": float(stats.waiting),
        "requests_finished_total": float(totals.finished),
        "requests_failed_total": float(totals.failed),
        "requests_cancelled_total": float(totals.cancelled),
        "requests_returned_total": float(totals.returned),
        "input_tokens_total": float(totals.input_tokens),
        "cached_tokens_total": float(totals.cached_tokens),
        "restored_tokens_total": float(totals.restored_tokens),
        "output_tokens_total": float(totals.output_tokens),
        "resumed_tokens_total": float(totals.resumed_tokens),
    }
