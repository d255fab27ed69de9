"""Which worker gives the first token soonest, and when a conversation stays where it is all the same.

Everything is seconds: the wait, and the prefill of what the worker does not know of the prompt, by the cost that it has
measured. A match by itself is worth nothing: with a head that all share, whoever goes by the longest match sends
everybody to one worker.

A conversation has a home. It moves when another worker is `_TIMES` sooner and saves `_GAIN_S` at the least, and then
not again within `_TURNS` turns: what it computed at its home would be worth nothing elsewhere, and predictions err.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

from gateway.dispatch.facts import Facts, Known, Prospect, Sight
from gateway.dispatch.waits import busy, wait_on
from shared.registry import WorkerLease

_TIMES = 2.0
_GAIN_S = 2.0
_TURNS = 3
_NEAR_S = 0.5  # what is no difference
_TOKENS_PER_BYTE = 0.25  # of text, before a worker has measured it
_PARTS = 8  # in which known shares of a prompt are told apart
_LEAST_S = 0.02  # of a turn, so that a flow's unmeasured work counts


def prospect_on(worker: WorkerLease, sight: Sight, facts: Facts) -> Prospect:
    """What would become of the request there."""
    per_byte = worker.tokens_per_byte or _TOKENS_PER_BYTE
    prompt_tokens = math.ceil(facts.text_bytes * per_byte)
    source, cached, raw_own_s = min(
        (_computed(worker, name, known, facts.text_bytes, per_byte) for name, known in _sources(sight)),
        key=lambda found: (found[2], -found[1]),
    )
    score = facts.now_s + max(_LEAST_S, raw_own_s) + _turns_s(sight, facts)
    wait = wait_on(worker, facts.priority, sight=sight, score=score)
    raw_wait_s = 0.0 if wait is None else wait.expected_s
    own_s = raw_own_s * (worker.beside_factor if any(worker.held) else worker.prefill_factor)
    return Prospect(
        worker=worker.worker,
        wait=wait,
        own_s=own_s,
        first_s=raw_wait_s * worker.wait_factor + own_s,
        raw_wait_s=raw_wait_s,
        raw_own_s=raw_own_s,
        cached_tokens=cached,
        prompt_tokens=prompt_tokens,
        source=source if cached else "",
        score=score,
        busy=busy(worker),
    )


def _sources(sight: Sight) -> list[tuple[str, Known]]:
    return [("", Known()), ("memory", sight.memory), ("disk", sight.disk), ("soon", sight.soon)]


def _computed(worker: WorkerLease, name: str, known: Known, text_bytes: int, per_byte: float) -> tuple[str, int, float]:
    """(where the known part lies, its tokens, the seconds of the rest)."""
    tokens = known.tokens or int(known.text_bytes * per_byte)
    rest = max(1, math.ceil((text_bytes - known.text_bytes) * per_byte))
    seconds = worker.prefill_cost.predict_s(tokens, tokens + rest)
    if name == "disk" and worker.restore_tokens_per_s:
        seconds += tokens / worker.restore_tokens_per_s
    return name, tokens, seconds


def _turns_s(sight: Sight, facts: Facts) -> float:
    """Start-time fair queueing (Goyal, Vin and Cheng, 1996): what a flow has waiting already is counted as done before
    this, so that flows share a worker's time, and who has nothing waiting comes before the tenth of another's."""
    mine = (note for note in sight.notes.values() if note.flow == facts.flow and note.lane == facts.priority)
    return sum(max(_LEAST_S, note.prefill_s) for note in mine) if facts.flow else 0.0


def choose(prospects: Sequence[Prospect], sights: dict[str, Sight], facts: Facts) -> tuple[Prospect, str]:
    """Of at least one. The prospect that is taken, and why."""
    if len(prospects) == 1:
        return prospects[0], "only worker"
    best = _soonest(prospects, sights, facts)
    home = next((each for each in prospects if facts.home is not None and each.worker == facts.home.worker), None)
    if home is None or facts.home is None:
        return best, _why(best, prospects)
    if best is home:
        return home, "home"
    since = facts.home.turn - facts.home.moved
    if facts.home.moved and since < _TURNS:
        return home, f"home, since {since} turns"
    if _is_gain(best, home):
        return best, f"moves: first token after {best.first_s:.1f} s instead of {home.first_s:.1f} s at home"
    return home, "home"


def _is_gain(other: Prospect, home: Prospect) -> bool:
    if other.wait is None or home.wait is None:
        return False
    return other.first_s * _TIMES < home.first_s and home.first_s - other.first_s > _GAIN_S


def _soonest(prospects: Sequence[Prospect], sights: dict[str, Sight], facts: Facts) -> Prospect:
    """Who is nearly as soon as the soonest is equal to it: then what is known of the prompt decides, and for what
    nobody knows, who was given a new conversation least lately."""
    if any(each.wait is None for each in prospects):  # then only how busy they are can be compared
        return min(prospects, key=lambda each: (each.busy, rank_of(each.worker, facts.request_id)))
    least_s = min(each.first_s for each in prospects)
    near = [each for each in prospects if each.first_s <= least_s + _NEAR_S]
    with_place = [each for each in near if each.wait is not None and not each.wait.is_for_place]
    return min(
        with_place or near,
        key=lambda each: (
            each.first_s if not with_place else 0.0,
            _known_part(each) < _PARTS // 2,  # a conversation that goes on, or was forked
            each.busy,
            -_known_part(each),
            each.worker != facts.user_worker,
            sights[each.worker].cold_s,
            rank_of(each.worker, facts.request_id),
        ),
    )


def _known_part(prospect: Prospect) -> int:
    return int(_PARTS * prospect.cached_tokens / max(1, prospect.prompt_tokens))


def _why(best: Prospect, prospects: Sequence[Prospect]) -> str:
    least_s = min(each.first_s for each in prospects)
    if _known_part(best) and best.first_s > least_s:
        return f"knows {best.cached_tokens} tokens"
    return "begins soonest"


def rank_of(worker: str, request_id: str) -> bytes:
    """The worker's turn in an order that is the request's own: the same in every gateway, another for another request
    (rendezvous hashing)."""
    return hashlib.blake2b(f"{request_id}\0{worker}".encode(errors="replace"), digest_size=8).digest()
