"""What the suite found, as a table for people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path

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


_PAGE = """\
# What fails, and what clients notice

Every fault below was done to real processes while requests were queued, claimed, prefilled, at their first token, in
the middle of text, of reasoning, of a tool call and of an answer in a schema, and at their last token: two gateways,
two Macs with a worker of each model, one Redis. Without a trace means that the client read what it reads without a
fault, to the last character and count. Where its own gateway is killed its connection breaks: there the same request
was sent again, as clients do, to the other gateway. Times are from the fault to the next token, where the answer had
begun. How it is done, and what it does not show: `tests/faults/README.md`.

{table}

{notes}

Measured {day} with the echo engine and a small MLX model on two cores without a GPU, by
`{command}`.

Times contain how long it takes to notice the fault (a killed worker: its host sees it at once; anything silent:
1.5 s), to place the answer anew and to compute its prompt there. In the middle of an answer four run on the worker that
fails and one other is left: after a death each of them waits until the one before it has said eight more tokens, so
that a request that kills workers is found out and does not take the others along (DESIGN.md, "Failure").

The same tokens are promised on machines of one kind: another chip, or another batch, may round otherwise. An answer of
an engine without token ids cannot go on elsewhere once it has begun, and ends with an error that clients may try again.
A client that closes its sending side while it reads counts as gone. A retry with the first one's `Idempotency-Key`
joins the answer at any gateway while it waits and while it runs, and for 5 s after the first gateway died; without one
it goes to where its conversation was, and computes what is not in the cache there (200 tokens at most in the tests).

{beside}"""


def page(verdicts: Sequence[Verdict], failed: Sequence[str], day: date) -> str:
    """For `docs/`."""
    told = [notes(verdicts), *(f"- {each}" for each in failed)]
    return _PAGE.format(
        table=table(verdicts),
        notes="\n".join(each for each in told if each) or "Nothing was lost, doubled or ended with an error.",
        day=day.isoformat(),
        beside=Path(__file__).with_name("beside.md").read_text(),
        command="python -m tests.faults --write docs/faults.md",
    )
