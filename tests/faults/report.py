"""What the suite found, as a table for people."""

from __future__ import annotations

from collections.abc import Sequence

from tests.faults.trial import Verdict

_HEAD = (
    "fault",
    "cases",
    "without a trace",
    "right error",
    "wrong",
    "lost",
    "doubled",
    "next token, p50",
    "p95",
)


def table(verdicts: Sequence[Verdict]) -> str:
    """Markdown: a row for each fault, then all."""
    names = list(dict.fromkeys(verdict.fault for verdict in verdicts))
    rows = [_row(name, [verdict for verdict in verdicts if verdict.fault == name]) for name in names]
    rows.append(_row("all", verdicts))
    lines = [_HEAD, tuple("---" for _ in _HEAD), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _row(name: str, verdicts: Sequence[Verdict]) -> tuple[str, ...]:
    kinds = [verdict.kind for verdict in verdicts]
    survived = kinds.count("survived") + kinds.count("retried")
    times = sorted(verdict.next_s for verdict in verdicts if verdict.next_s is not None)
    return (
        name,
        str(len(verdicts)),
        f"{survived} ({100 * survived // max(1, len(verdicts))}%)"
        + (" by a retry" if "retried" in kinds and name != "all" else ""),
        str(kinds.count("error")),
        str(kinds.count("wrong")),
        str(sum(verdict.lost for verdict in verdicts)),
        str(sum(verdict.doubled for verdict in verdicts)),
        *(f"{_quantile(times, share):.2f} s" if times else "" for share in (0.5, 0.95)),
    )


def _quantile(times: Sequence[float], share: float) -> float:
    return times[min(len(times) - 1, round(share * (len(times) - 1)))]


def notes(verdicts: Sequence[Verdict]) -> str:
    """What was not survived, case by case."""
    return "\n".join(
        f"- {verdict.fault}, {verdict.stage}: {verdict.kind}: {verdict.why}"
        for verdict in verdicts
        if verdict.kind in ("error", "wrong")
    )
