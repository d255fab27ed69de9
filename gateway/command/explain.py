"""`mlx-gateway explain REQUEST`: why a request went where it went, as its gateway noted it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

END = "end"


def explanation_lines(request_id: str, found: Mapping[bytes, bytes]) -> list[str]:
    """Of the hash that the gateway keeps for a while. Empty when there is none."""
    attempts = sorted((job.decode(), data) for job, data in found.items() if job != END.encode())
    lines = [line for job, data in attempts for line in _attempt(job, orjson.loads(data))]
    if END.encode() in found:
        lines += _end(orjson.loads(found[END.encode()]))
    return [f"request {request_id}", *lines] if lines else []


def _attempt(job: str, decision: Mapping[str, Any]) -> Iterator[str]:
    yield f"attempt {job.rpartition('-')[2]} went to {decision['worker']}: {decision['reason']}"
    yield f"  {'worker':40} {'first token':>11} {'wait':>8} {'prefill':>8} {'cached':>8} of {'prompt':>7}"
    for each in decision["candidates"]:
        wait = "unknown" if each["wait_s"] is None else f"{each['wait_s']:.2f} s"
        where = f" ({each['cached_in']})" if each["cached_in"] else ""
        yield (
            f"  {each['worker']:40} {each['first_s']:9.2f} s {wait:>8} {each['prefill_s']:6.2f} s "
            f"{each['cached_tokens']:8} of {each['prompt_tokens']:7}{where}"
        )


def _end(outcome: Mapping[str, Any]) -> Iterator[str]:
    wait, first = (f"{outcome[name]:.2f} s" if outcome[name] is not None else "-" for name in ("wait_s", "first_s"))
    yield f"it waited {wait} (predicted {outcome['predicted_wait_s']:.2f} s)"
    yield f"its first token came after {first} (predicted {outcome['predicted_first_s']:.2f} s)"
    yield (
        f"{outcome['cached_tokens']} of {outcome['input_tokens']} tokens were cached "
        f"(predicted {outcome['predicted_cached_tokens']})"
    )
