"""What is on the boards: one table of rows, panels and queries. `render` makes Grafana's JSON of it.

`MODEL` and `HOST` stand for the selections of the variables at the top of each board, `RATE` for the span that Grafana
finds right for the time that is shown. A panel says in words when it has nothing to show (`empty`), and is red from
`red` on (or below, where `red` lies under `orange`); no panel has a limit that nobody chose.
"""

from __future__ import annotations

from typing import Final

from deploy.grafana.shapes import Board, Panel, Query, Row

MODEL: Final = 'model=~"$model"'
HOST: Final = 'host=~"$host"'
CLASS: Final = 'class=~"$class"'
RATE: Final = "$__rate_interval"
FAILED: Final = "worker_lost|broker_unavailable|internal|deadline_exceeded|overloaded|model_unavailable"
NO_REQUESTS: Final = "no requests"


def _q(expr: str, legend: str = "") -> Query:
    return Query(expr=expr, legend=legend)


def _quantile(share: float, metric: str, by: str = "", where: str = MODEL) -> str:
    labels = ", ".join(filter(None, ("le", by)))
    return f"histogram_quantile({share}, sum by ({labels}) (rate({metric}_bucket{{{where}}}[{RATE}])))"


def _heatmap(title: str, metric: str, where: str, unit: str, text: str = "") -> Panel:
    query = _q(f"sum by (le) (increase({metric}_bucket{{{where}}}[{RATE}]))", "{{le}}")
    return Panel(title=title, queries=(query,), unit=unit, kind="heatmap", help=text, empty=NO_REQUESTS, width=8)


_KEPT: Final = (
    f'sum(increase(gw_first_token_promises_total{{kept="yes",{MODEL}}}[24h]))'
    f" / (sum(increase(gw_first_token_promises_total{{{MODEL}}}[24h])) > 0)"
)
_BUDGET: Final = (
    f'1 - sum(increase(gw_requests_total{{outcome=~"{FAILED}"}}[7d]))'
    ' / (sum(increase(gw_requests_total{outcome!~"client_error|cancelled"}[7d])) > 0) / 0.01'
)
_CACHED_SHARE: Final = (
    f"sum(rate(wk_cached_tokens_total{{{MODEL}}}[{RATE}])) / (sum(rate(wk_input_tokens_total{{{MODEL}}}[{RATE}])) > 0)"
)
_HOT: Final = f'cache="hot",class="interactive",{MODEL}'
_UP: Final = (("0", "down", "red"), ("1", "works", "green"))

STATUS: Final = Board(
    uid="mlxgw-status",
    title="mlx-gateway: is it working?",
    about="For whoever only uses it: no query language is needed to read this.",
    rows=(
        Row(
            title="Now",
            panels=(
                Panel(
                    title="The service",
                    queries=(_q('max(up{job="mlx-gateway"}) * min(gw_redis_up)'),),
                    kind="tile", words=_UP, width=6, empty="down",
                ),
                Panel(
                    title="Models that answer",
                    queries=(_q('count(max by (model) (host_model_state{state="ready"}) == 1) or vector(0)'),),
                    kind="tile", red=0, orange=1, width=6,
                ),
                Panel(
                    title="Answers that failed in the last hour",
                    queries=(_q("gw:failures:ratio1h"),),
                    unit="percentunit", kind="tile", orange=0.01, red=0.05, width=6, empty=NO_REQUESTS,
                ),
                Panel(
                    title="Requests that wait for their turn",
                    queries=(_q("sum(gw_queue_depth) + sum(wk_waiting)"),),
                    kind="tile", orange=8, red=32, width=6,
                ),
            ),
        ),
        Row(
            title="How fast",
            panels=(
                Panel(
                    title="First word of an answer in a conversation that goes on",
                    queries=(_q(_quantile(0.5, "gw_ttft_seconds", where='cache="hot"'), "half of them within"),),
                    unit="s", kind="tile", width=8, empty=NO_REQUESTS,
                ),
                Panel(
                    title="First word of an answer to something new",
                    queries=(_q(_quantile(0.5, "gw_ttft_seconds", where='cache="cold"'), "half of them within"),),
                    unit="s", kind="tile", width=8, empty=NO_REQUESTS,
                ),
                Panel(
                    title="Words written, in tokens a second",
                    queries=(_q(f"sum(rate(wk_output_tokens_total[{RATE}]))"),),
                    kind="tile", width=8,
                ),
            ),
        ),
    ),
)  # fmt: skip

OVERVIEW: Final = Board(
    uid="mlxgw-overview",
    title="mlx-gateway: overview",
    rows=(
        Row(
            title="Can people work?",
            panels=(
                Panel(title="Gateways", queries=(_q('sum(up{job="mlx-gateway"})'),), kind="tile", red=0, orange=1, width=3),
                Panel(title="Macs answering", queries=(_q('sum(up{job="mlx-host"})'),), kind="tile", red=0, orange=1, width=3),
                Panel(
                    title="Models ready, failed",
                    queries=(
                        _q(f'sum(host_model_state{{state="ready",{MODEL}}})', "ready"),
                        _q(f'sum(host_model_state{{state="failed",{MODEL}}})', "failed"),
                    ),
                    kind="tile", width=4,
                ),
                Panel(
                    title="Failed answers, 1 h",
                    queries=(_q("gw:failures:ratio1h"),),
                    unit="percentunit", kind="tile", orange=0.01, red=0.05, width=4, empty=NO_REQUESTS,
                ),
                Panel(
                    title="Error budget left, 7 d",
                    queries=(_q(_BUDGET),),
                    unit="percentunit", kind="tile", orange=0.25, red=0, width=4, empty=NO_REQUESTS,
                    help="Of the one answer in a hundred that may fail.",
                ),
                Panel(
                    title="First token, known conversation",
                    queries=(_q(_quantile(0.95, "gw_ttft_seconds", where=_HOT), "95% within"),),
                    unit="s", kind="tile", red=2.5, width=3, empty=NO_REQUESTS,
                ),
                Panel(
                    title="Promises kept, 24 h",
                    queries=(_q(_KEPT),),
                    unit="percentunit", kind="tile", orange=0.95, red=0.9, width=3, empty=NO_REQUESTS,
                    help="First tokens within 1.25 times what was predicted at admission, or within a second of it.",
                ),
            ),
        ),
        Row(
            title="Now",
            panels=(
                Panel(
                    title="Running, waiting",
                    queries=(
                        _q(f"sum(wk_running{{{MODEL}}})", "running"),
                        _q(f"sum(wk_waiting{{{MODEL}}}) + sum(gw_queue_depth{{{MODEL}}})", "waiting"),
                    ),
                    width=8,
                ),
                Panel(
                    title="Tokens a second",
                    queries=(
                        _q(f"sum(rate(wk_output_tokens_total{{{MODEL}}}[{RATE}]))", "written"),
                        _q(f"sum(rate(wk_computed_tokens_total{{{MODEL}}}[{RATE}]))", "of prompts, computed"),
                    ),
                    width=8,
                ),
                Panel(
                    title="Cached share of prompts",
                    queries=(_q(_CACHED_SHARE, "cached"),),
                    unit="percentunit", width=8, empty=NO_REQUESTS,
                ),
            ),
        ),
        Row(
            title="Models",
            panels=(
                Panel(
                    title="By model",
                    kind="table",
                    width=24,
                    empty=NO_REQUESTS,
                    queries=(
                        _q(f"60 * sum by (model) (rate(gw_requests_total{{{MODEL}}}[5m]))", "requests a minute"),
                        _q(f'histogram_quantile(0.95, sum by (le, model) (rate(gw_ttft_seconds_bucket{{cache="hot",{MODEL}}}[5m])))', "first token, hot, p95 (s)"),
                        _q(f'histogram_quantile(0.95, sum by (le, model) (rate(gw_ttft_seconds_bucket{{cache="cold",{MODEL}}}[5m])))', "first token, cold, p95 (s)"),
                        _q(f"sum by (model) (rate(wk_cached_tokens_total{{{MODEL}}}[5m])) / (sum by (model) (rate(wk_input_tokens_total{{{MODEL}}}[5m])) > 0)", "cached share"),
                        _q(f'sum by (model) (increase(gw_requests_total{{outcome=~"{FAILED}",{MODEL}}}[1h]))', "failed, 1 h"),
                    ),
                ),
            ),
        ),
    ),
)  # fmt: skip

LATENCY: Final = Board(
    uid="mlxgw-latency",
    title="mlx-gateway: latency by cache class",
    rows=(
        Row(
            title="First token",
            panels=(
                _heatmap("Nine tenths or more cached", "gw_ttft_seconds", f'cache="hot",{MODEL}', "s"),
                _heatmap("Partly cached", "gw_ttft_seconds", f'cache="warm",{MODEL}', "s"),
                _heatmap("Nothing cached", "gw_ttft_seconds", f'cache="cold",{MODEL}', "s"),
                Panel(
                    title="By cache class",
                    queries=tuple(
                        _q(_quantile(share, "gw_ttft_seconds", "cache", f"{CLASS},{MODEL}"), f"{{{{cache}}}} p{share * 100:.0f}")
                        for share in (0.5, 0.95, 0.99)
                    ),
                    unit="s", empty=NO_REQUESTS,
                ),
                Panel(
                    title="Seconds per 1,000 computed tokens",
                    queries=(
                        _q(f"1000 * sum(rate(gw_ttft_seconds_sum{{{MODEL}}}[{RATE}])) / (sum(rate(gw_prompt_tokens_sum{{{MODEL}}}[{RATE}])) - sum(rate(gw_cached_tokens_sum{{{MODEL}}}[{RATE}])) > 0)", "first token"),
                    ),
                    unit="s", empty=NO_REQUESTS,
                ),
                Panel(
                    title="Where the time to the first token goes",
                    queries=(
                        _q(f'sum(rate(gw_overhead_seconds_sum[{RATE}])) / (sum(rate(gw_overhead_seconds_count{{stage="parse"}}[{RATE}])) > 0)', "gateway"),
                        _q(f"sum(rate(gw_queue_wait_seconds_sum{{{MODEL}}}[{RATE}])) / (sum(rate(gw_queue_wait_seconds_count{{{MODEL}}}[{RATE}])) > 0)", "until its prefill begins"),
                        _q(f"sum(rate(gw_ttft_seconds_sum{{{MODEL}}}[{RATE}])) / (sum(rate(gw_ttft_seconds_count{{{MODEL}}}[{RATE}])) > 0)", "until the first token"),
                    ),
                    unit="s", empty=NO_REQUESTS, width=24,
                ),
            ),
        ),
        Row(
            title="While it writes",
            panels=(
                Panel(
                    title="Gap between two pieces",
                    queries=(_q(_quantile(0.5, "gw_inter_token_seconds"), "p50"), _q(_quantile(0.99, "gw_inter_token_seconds"), "p99")),
                    unit="s", orange=0.5, red=1, width=8, empty=NO_REQUESTS,
                ),
                Panel(
                    title="Gaps over a second, each minute",
                    queries=(_q(f'60 * (sum(rate(gw_inter_token_seconds_count{{{MODEL}}}[{RATE}])) - sum(rate(gw_inter_token_seconds_bucket{{le="1.0",{MODEL}}}[{RATE}])))', "gaps"),),
                    red=1, width=8, empty=NO_REQUESTS,
                ),
                Panel(
                    title="Tokens a second of one stream",
                    queries=(_q(f"sum by (model) (rate(wk_output_tokens_total{{{MODEL}}}[{RATE}])) / (sum by (model) (avg_over_time(wk_running{{{MODEL}}}[5m])) > 0)", "{{model}}"),),
                    width=8, empty="nothing runs",
                ),
            ),
        ),
        Row(
            title="Shape",
            panels=(
                _heatmap("Prompts", "gw_prompt_tokens", MODEL, "short"),
                _heatmap("Of them cached", "gw_cached_tokens", MODEL, "short"),
                _heatmap("Answers", "gw_output_tokens", MODEL, "short"),
            ),
        ),
    ),
)  # fmt: skip

QUEUES: Final = Board(
    uid="mlxgw-queues",
    title="mlx-gateway: queues and admission",
    rows=(
        Row(
            title="Waiting",
            panels=(
                Panel(title="Requests that no worker has claimed", queries=(_q(f"sum by (model, class) (max by (model, class) (gw_queue_depth{{{MODEL},{CLASS}}}))", "{{model}} {{class}}"),)),
                Panel(title="The oldest", queries=(_q(f"max by (class) (gw_queue_oldest_seconds{{{MODEL},{CLASS}}})", "{{class}}"),), unit="s"),
                Panel(
                    title="Predicted wait, and how long it may be",
                    queries=(
                        _q(f"max by (class) (gw_predicted_wait_seconds{{{MODEL},{CLASS}}})", "{{class}}: now"),
                        _q(f"max by (class) (gw_deadline_seconds{{{CLASS}}})", "{{class}}: at most"),
                    ),
                    unit="s", empty="no worker is ready",
                ),
                Panel(title="Wait by class, p95", queries=(_q(_quantile(0.95, "gw_queue_wait_seconds", "class", f"{MODEL},{CLASS}"), "{{class}}"),), unit="s", empty=NO_REQUESTS),
            ),
        ),
        Row(
            title="Promises",
            panels=(
                Panel(
                    title="Later than predicted, p90",
                    queries=(_q(f"histogram_quantile(0.9, sum by (le, term) (rate(gw_placement_error_seconds_bucket[{RATE}])))", "{{term}}"),),
                    unit="s", red=5, empty=NO_REQUESTS,
                ),
                Panel(
                    title="Promises kept, 1 h",
                    queries=(_q(f'sum by (class) (increase(gw_first_token_promises_total{{kept="yes",{MODEL},{CLASS}}}[1h])) / (sum by (class) (increase(gw_first_token_promises_total{{{MODEL},{CLASS}}}[1h])) > 0)', "{{class}}"),),
                    unit="percentunit", orange=0.95, red=0.9, empty=NO_REQUESTS,
                ),
            ),
        ),
        Row(
            title="Refused and left",
            panels=(
                Panel(title="Refused, by reason", queries=(_q(f"sum by (reason) (rate(gw_admission_rejections_total[{RATE}]))", "{{reason}}"),), unit="reqps", width=8),
                Panel(title="Clients that left, by stage", queries=(_q(f"sum by (stage) (rate(gw_cancels_total[{RATE}]))", "{{stage}}"),), unit="reqps", width=8),
                Panel(title="Tokens, by key", queries=(_q(f"topk(10, sum by (key) (rate(gw_key_tokens_total[{RATE}])))", "{{key}}"),), width=24, empty="no key was used"),
                Panel(title="First tokens, by class", queries=(_q(f"sum by (class) (rate(gw_ttft_seconds_count{{{MODEL},{CLASS}}}[{RATE}]))", "{{class}}"),), unit="reqps", width=8, empty=NO_REQUESTS),
            ),
        ),
    ),
)  # fmt: skip

CACHE: Final = Board(
    uid="mlxgw-cache",
    title="mlx-gateway: cache and placement",
    rows=(
        Row(
            title="Prompts",
            panels=(
                Panel(
                    title="Where prompt tokens came from",
                    queries=(
                        _q(f"sum(rate(wk_cached_tokens_total{{{MODEL}}}[{RATE}])) - sum(rate(wk_restored_tokens_total{{{MODEL}}}[{RATE}]))", "memory"),
                        _q(f"sum(rate(wk_restored_tokens_total{{{MODEL}}}[{RATE}]))", "disk"),
                        _q(f"sum by (cause) (rate(wk_computed_tokens_total{{{MODEL}}}[{RATE}]))", "computed: {{cause}}"),
                    ),
                    kind="stack",
                ),
                Panel(
                    title="Cached share, today and yesterday",
                    queries=(_q(f"wk:cached_share:1h{{{MODEL}}}", "{{model}} today"), _q(f"wk:cached_share:1h{{{MODEL}}} offset 1d", "{{model}} yesterday")),
                    unit="percentunit", empty=NO_REQUESTS,
                ),
                Panel(
                    title="What made known prompts be computed again, 1 h",
                    queries=(_q(f'sum by (cause) (increase(wk_computed_tokens_total{{cause!="new",{MODEL}}}[1h]))', "{{cause}}"),),
                ),
                Panel(
                    title="Evicted; not kept for want of room",
                    queries=(
                        _q(f"sum by (host) (rate(wk_prefix_cache_evictions_total{{{MODEL},{HOST}}}[{RATE}]))", "{{host}}: stretches evicted"),
                        _q(f"sum by (host) (rate(wk_prefix_cache_unkept_tokens_total{{{MODEL},{HOST}}}[{RATE}]))", "{{host}}: tokens not kept"),
                    ),
                ),
            ),
        ),
        Row(
            title="Placement",
            panels=(
                Panel(title="Why there", queries=(_q(f"sum by (reason) (rate(gw_placements_total{{{MODEL}}}[{RATE}]))", "{{reason}}"),), unit="reqps", width=8, empty=NO_REQUESTS),
                Panel(title="Where", queries=(_q(f"sum by (host) (rate(gw_placements_total{{{MODEL},{HOST}}}[{RATE}]))", "{{host}}"),), unit="reqps", width=8, empty=NO_REQUESTS),
                Panel(title="Cached tokens predicted too many, p90", queries=(_q(_quantile(0.9, "gw_cached_error_tokens"), "p90"),), red=2048, width=8, empty=NO_REQUESTS),
            ),
        ),
        Row(
            title="Room",
            panels=(
                Panel(
                    title="Prefix cache",
                    queries=(
                        _q(f"sum by (host) (wk_cache_bytes{{{MODEL},{HOST}}})", "{{host}}: in memory"),
                        _q(f"sum by (host) (wk_prefix_cache_max_bytes{{{MODEL},{HOST}}})", "{{host}}: may be in memory"),
                        _q(f"sum by (host) (wk_prefix_cache_disk_bytes{{{MODEL},{HOST}}})", "{{host}}: on disk"),
                    ),
                    unit="bytes",
                ),
                Panel(title="Buffers of the device", queries=(_q(f"max by (host, model) (wk_prefix_cache_arrays{{{MODEL},{HOST}}})", "{{host}} {{model}}"),), red=400000),
            ),
        ),
    ),
)  # fmt: skip

_STATES: Final = (("1", "yes", "green"), ("0", "no", "text"))
_LEVELS: Final = (("1", "normal", "green"), ("2", "warning", "orange"), ("4", "critical", "red"))

MACS: Final = Board(
    uid="mlxgw-macs",
    title="mlx-gateway: Macs",
    rows=(
        Row(
            title="$host",
            by_host=True,
            panels=(
                Panel(title="Models", queries=(_q(f"max by (model, state) (host_model_state{{{HOST},{MODEL}}}) == 1", "{{model}} {{state}}"),), kind="timeline", words=_STATES),
                Panel(
                    title="Memory pressure, battery",
                    queries=(_q(f"max by (host) (host_memory_pressure{{{HOST}}})", "pressure"), _q(f"max by (host) (host_on_battery{{{HOST}}}) * 2", "on battery")),
                    kind="timeline", words=(*_LEVELS, ("0", "no", "green")),
                ),
                Panel(
                    title="Memory",
                    queries=(
                        _q(f"sum by (model) (wk_memory_bytes{{{HOST},{MODEL}}})", "{{model}}"),
                        _q(f"max(wk_memory_limit_bytes{{{HOST},{MODEL}}})", "a worker may use now"),
                        _q(f"max(host_memory_available_bytes{{{HOST}}})", "available to programs"),
                        _q(f"max(host_swap_used_bytes{{{HOST}}})", "swapped"),
                    ),
                    unit="bytes",
                ),
                Panel(
                    title="Speed",
                    queries=(
                        _q(f"sum(wk_prefill_tokens_per_second{{{HOST},{MODEL}}})", "prefill, tokens/s"),
                        _q(f"sum(wk_decode_tokens_per_second{{{HOST},{MODEL}}})", "decode, tokens/s"),
                        _q(f"sum(wk_running{{{HOST},{MODEL}}})", "streams"),
                    ),
                ),
                Panel(title="A step's wait for the device", queries=(_q(f"min by (model) (wk_decode_slack_ms{{{HOST},{MODEL}}})", "{{model}}"),), unit="ms", width=8, help="Near 0 the processor is the limit, not the GPU.", empty="nothing was decoded"),
                Panel(title="Prompt tokens yet to compute", queries=(_q(f"sum by (model) (wk_waiting_tokens{{{HOST},{MODEL}}})", "{{model}}"),), width=8),
                Panel(title="Disk free", queries=(_q(f"min by (host) (host_disk_free_bytes{{{HOST}}} / host_disk_total_bytes{{{HOST}}})", "{{host}}"),), unit="percentunit", orange=0.2, red=0.1, width=8),
                Panel(title="Clock, ahead of that of Redis", queries=(_q(f"max by (host) (host_clock_offset_seconds{{{HOST}}})", "{{host}}"),), unit="s", width=8),
            ),
        ),
    ),
)  # fmt: skip

FAILURES: Final = Board(
    uid="mlxgw-failures",
    title="mlx-gateway: failures",
    rows=(
        Row(
            title="What clients saw",
            panels=(
                Panel(title="Outcomes but for ok", queries=(_q(f'sum by (outcome) (rate(gw_requests_total{{outcome!="ok",model=~"$model|"}}[{RATE}]))', "{{outcome}}"),), unit="reqps", empty="every request went well"),
                Panel(title="By route", queries=(_q(f'sum by (route) (rate(gw_requests_total{{outcome!~"ok|client_error|cancelled"}}[{RATE}]))', "{{route}}"),), unit="reqps", empty="no request failed"),
            ),
        ),
        Row(
            title="What was behind it",
            panels=(
                Panel(title="Workers that died, 1 h", queries=(_q(f"sum by (host, model, cause) (increase(wk_restarts_total{{{MODEL},{HOST}}}[1h]))", "{{host}} {{model}} {{cause}}"),), red=1, width=8),
                Panel(
                    title="Requests that changed workers, 1 h",
                    queries=(
                        _q(f"sum by (model) (increase(gw_redispatches_total{{{MODEL}}}[1h]))", "{{model}}: their worker was lost"),
                        _q(f"sum by (model) (increase(gw_resumes_total{{{MODEL}}}[1h]))", "{{model}}: in the middle of the answer"),
                        _q(f"sum by (model) (increase(gw_returned_total{{{MODEL}}}[1h]))", "{{model}}: given back unbegun"),
                    ),
                    width=8, empty="no request changed its worker",
                ),
                Panel(
                    title="Holes in streams, and what was refused, 1 h",
                    queries=(
                        _q("sum by (outcome) (increase(gw_stream_gaps_total[1h]))", "holes {{outcome}}"),
                        _q("sum(increase(gw_frames_refused_total[1h]))", "frames refused"),
                    ),
                    red=1, width=8,
                ),
                Panel(title="Engines without a sign of life", queries=(_q(f"max by (host, model) (wk_progress_age_seconds{{{MODEL},{HOST}}} and (wk_running + wk_waiting) > 0)", "{{host}} {{model}}"),), unit="s", orange=30, red=60, width=12, empty="nothing runs"),
                Panel(title="Other servers behind models", queries=(_q(f"max by (host, model) (wk_upstream_up{{{MODEL},{HOST}}})", "{{model}} from {{host}}"),), kind="timeline", words=_UP, width=24, empty="no model is behind another server"),
                Panel(title="Requests that failed or were interrupted on workers", queries=(_q(f"sum by (host) (rate(wk_requests_failed_total{{{MODEL},{HOST}}}[{RATE}]))", "{{host}}: failed"), _q(f"sum by (host) (rate(wk_interruptions_total{{{MODEL},{HOST}}}[{RATE}]))", "{{host}}: interrupted for memory")), unit="reqps", width=12),
            ),
        ),
    ),
)  # fmt: skip

GATEWAYS: Final = Board(
    uid="mlxgw-gateways",
    title="mlx-gateway: gateways and Redis",
    rows=(
        Row(
            title="Gateways",
            panels=(
                Panel(title="Added before a job is queued, p99", queries=(_q(f"histogram_quantile(0.99, sum by (le, stage) (rate(gw_overhead_seconds_bucket[{RATE}])))", "{{stage}}"),), unit="s", red=0.02, empty=NO_REQUESTS),
                Panel(title="The event loop is late by, p99", queries=(_q(f"histogram_quantile(0.99, sum by (le, instance) (rate(gw_loop_lag_seconds_bucket[{RATE}])))", "{{instance}}"),), unit="s", red=0.1),
                Panel(title="Requests under way", queries=(_q("sum by (instance) (gw_inflight)", "{{instance}}"),), width=6),
                Panel(title="Processor", queries=(_q(f'sum by (instance) (rate(process_cpu_seconds_total{{job="mlx-gateway"}}[{RATE}]))', "{{instance}}"),), unit="percentunit", width=6),
                Panel(title="Memory", queries=(_q('sum by (instance) (process_resident_memory_bytes{job="mlx-gateway"})', "{{instance}}"),), unit="bytes", width=6),
                Panel(title="Open files", queries=(_q('sum by (instance) (process_open_fds{job="mlx-gateway"})', "{{instance}}"),), width=6),
            ),
        ),
        Row(
            title="Redis",
            panels=(
                Panel(title="Reached", queries=(_q("min by (instance) (gw_redis_up)", "{{instance}}"),), kind="timeline", words=_UP, width=8),
                Panel(title="Round trip, p99", queries=(_q(f"histogram_quantile(0.99, sum by (le) (rate(gw_redis_round_trip_seconds_bucket[{RATE}])))", "p99"),), unit="s", red=0.05, width=8),
                Panel(title="Memory", queries=(_q("max(gw_redis_memory_bytes)", "used"), _q("max(gw_redis_memory_limit_bytes > 0)", "may be used")), unit="bytes", width=8),
            ),
        ),
    ),
)  # fmt: skip

BOARDS: Final = (STATUS, OVERVIEW, LATENCY, QUEUES, CACHE, MACS, FAILURES, GATEWAYS)
