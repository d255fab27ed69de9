"""What a worker's lease says of its engine and of the requests in it."""

from __future__ import annotations

from dataclasses import replace

from shared.registry import WorkerLease
from worker.engines.base import EngineStats
from worker.serving.runner import Runner


def with_figures(lease: WorkerLease, runner: Runner, *, stall_s: float) -> WorkerLease:
    """As of now (from any thread). An engine without progress for longer than `stall_s` makes it `stalled`."""
    stats, info, pace, stalled_s = runner.stats(), runner.info, runner.pace, runner.stalled_s()
    if stalled_s > stall_s:
        lease = replace(lease, state="stalled")
    if info is not None:
        lease = replace(
            lease,
            context_tokens=info.context_tokens,
            supports_tools=info.supports_tools,
            supports_reasoning=info.supports_reasoning,
            supports_images=info.supports_images,
            kinds=info.kinds,
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
        metrics={**_metrics(runner, stats), "progress_age_seconds": stalled_s},
    )


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
