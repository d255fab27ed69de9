"""What a key has left, in the headers of both vendors: every client finds those that it knows."""

from __future__ import annotations

from datetime import UTC, datetime

from gateway.keys.quota import Allowance


def rate_headers(allowance: Allowance, now_s: float) -> dict[str, str]:
    """`now_s` is in seconds since 1970. Only what is limited has headers."""
    quota = allowance.quota
    resets_at = datetime.fromtimestamp(now_s + allowance.resets_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    found: dict[str, str] = {}
    for what, most, used in (
        ("requests", quota.requests_per_minute, allowance.requests),
        ("tokens", quota.tokens_per_minute, allowance.tokens),
    ):
        if most:
            left = str(max(0, most - used))
            found |= {
                f"x-ratelimit-limit-{what}": str(most),
                f"x-ratelimit-remaining-{what}": left,
                f"x-ratelimit-reset-{what}": f"{allowance.resets_s:.0f}s",
                f"anthropic-ratelimit-{what}-limit": str(most),
                f"anthropic-ratelimit-{what}-remaining": left,
                f"anthropic-ratelimit-{what}-reset": resets_at,
            }
    return found
