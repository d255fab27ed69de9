"""Which worker gives the first token soonest, and when a conversation stays where it is all the same.

Everything is seconds: the wait, and the prefill of what the worker does not know of the prompt, by the cost that it has
measured. A match by itself is worth nothing: with a head that all share, whoever goes by the longest match sends
everybody to one worker.

A conversation has a home. It moves when another worker is `_TIMES` sooner and saves `_GAIN_S` at the least, and then
not again within `_TURNS` turns: what it computed at its home would be worth nothing elsewhere, and predictions err.

Because it stays, a worker is chosen for its next turns, too, which meet those that are there: its seconds count more,
the more than a quarter of its places is taken. By the first token alone a burst fills the fastest worker and waits in
line there, as drivers do who each take the shortest way (Roughgarden and Tardos, 2002).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple

from gateway.dispatch.facts import Facts, Known, Lent, Prospect, Sight
from gateway.dispatch.waits import busy, wait_on
from shared.keys import host_of
from shared.registry import WorkerLease

_TIMES = 2.0
_GAIN_S = 2.0
_TURNS = 3
_NEAR_S = 0.5  # what is no difference
_COMPANY, _ALONE = 2.0, 0.25  # weight of the places taken beyond a share
_TOKENS_PER_BYTE = 0.25  # of text, before a worker has measured it
_PARTS = 8  # in which known shares of a prompt are told apart
_LINK_BYTES_PER_S = 50e6  # to a host, before it was measured: Wi-Fi's
_ASKING_S = 0.05  # another host for what it has
_LEAST_S = 0.02  # of a turn, so that a flow's unmeasured work counts


class Way(NamedTuple):
    """One way to have the prompt computed: what is known of it, where that lies, the seconds to compute the rest, and
    those until it comes from another host's files."""

    source: str
    tokens: int
    compute_s: float
    fetch_s: float = 0.0
    lender: Lent | None = None


def prospect_on(worker: WorkerLease, sight: Sight, facts: Facts, lent: Sequence[Lent] = ()) -> Prospect:
    """What would become of the request there. `lent` is what hosts have in files that others may read."""
    per_byte = worker.tokens_per_byte or _TOKENS_PER_BYTE
    prompt_tokens = math.ceil(facts.text_bytes * per_byte)
    others = [each for each in lent if each.host != host_of(worker.worker)]
    ways = [_computed(worker, name, known, facts.text_bytes, per_byte) for name, known in _sources(sight)]
    ways += [_fetched(worker, each, facts.text_bytes, per_byte) for each in others if _can_fetch(worker, each)]
    way = min(ways, key=lambda way: (way.compute_s + way.fetch_s, way.lender is not None, -way.tokens))
    raw_own_s, cached = way.compute_s, way.tokens
    score = facts.now_s + max(_LEAST_S, raw_own_s) + _turns_s(sight, facts)
    wait = wait_on(worker, facts.priority, sight=sight, score=score)
    raw_wait_s = 0.0 if wait is None else wait.expected_s
    own_s = raw_own_s * (worker.beside_factor if any(worker.held) else worker.prefill_factor) + way.fetch_s
    return Prospect(
        worker=worker.worker,
        wait=wait,
        own_s=own_s,
        first_s=raw_wait_s * worker.wait_factor + own_s,
        raw_wait_s=raw_wait_s,
        raw_own_s=raw_own_s,
        cached_tokens=cached,
        prompt_tokens=prompt_tokens,
        source=way.source if cached else "",
        score=score,
        busy=busy(worker),
        fetch_s=way.fetch_s,
        lender=way.lender,
        unmeasured=next((each for each in others if each.host not in worker.link_bytes_per_s), None),
    )


def _sources(sight: Sight) -> list[tuple[str, Known]]:
    return [("", Known()), ("memory", sight.memory), ("disk", sight.disk), ("soon", sight.soon)]


def _can_fetch(worker: WorkerLease, lent: Lent) -> bool:
    return bool(lent.known.tokens and worker.kept_bytes_per_token and worker.link_bytes_per_s.get(lent.host, 1.0))


def _fetched(worker: WorkerLease, lent: Lent, text_bytes: int, per_byte: float) -> Way:
    """What lies in another host's files comes over the link, then the rest is computed."""
    way = _computed(worker, "link", lent.known, text_bytes, per_byte)
    rate = worker.link_bytes_per_s.get(lent.host, _LINK_BYTES_PER_S)
    fetch_s = _ASKING_S + way.tokens * worker.kept_bytes_per_token / rate
    return way._replace(fetch_s=fetch_s, lender=lent)


def _computed(worker: WorkerLease, name: str, known: Known, text_bytes: int, per_byte: float) -> Way:
    tokens = known.tokens or int(known.text_bytes * per_byte)
    rest = max(1, math.ceil((text_bytes - known.text_bytes) * per_byte))
    seconds = worker.prefill_cost.predict_s(tokens, tokens + rest)
    if name == "disk" and worker.restore_tokens_per_s:
        seconds += tokens / worker.restore_tokens_per_s
    return Way(name, tokens, seconds)


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
    least_s = min(map(_in_company_s, prospects))
    near = [each for each in prospects if _in_company_s(each) <= least_s + _NEAR_S]
    with_place = [each for each in near if each.wait is not None and not each.wait.is_for_place]
    return min(
        with_place or near,
        key=lambda each: (
            _in_company_s(each) if not with_place else 0.0,
            _known_part(each) < _PARTS // 2,  # a conversation that goes on, or was forked
            each.busy,
            -_known_part(each),
            each.worker != facts.user_worker,
            sights[each.worker].cold_s,
            rank_of(each.worker, facts.request_id),
        ),
    )


def _in_company_s(prospect: Prospect) -> float:
    """The seconds of this turn, and for those that follow."""
    return prospect.first_s * (1 + _COMPANY * max(0.0, prospect.busy - _ALONE))


def _known_part(prospect: Prospect) -> int:
    """What has yet to come from another host is not known there."""
    if prospect.lender is not None:
        return 0
    return int(_PARTS * prospect.cached_tokens / max(1, prospect.prompt_tokens))


def _why(best: Prospect, prospects: Sequence[Prospect]) -> str:
    least_s = min(each.first_s for each in prospects)
    if best.lender is not None:
        return f"fetches {best.cached_tokens} tokens from {best.lender.host}"
    if _known_part(best) and best.first_s > least_s:
        return f"knows {best.cached_tokens} tokens"
    return "begins soonest" if best.first_s <= least_s + _NEAR_S else "begins soon, where fewer are"


def rank_of(worker: str, request_id: str) -> bytes:
    """The worker's turn in an order that is the request's own: the same in every gateway, another for another request
    (rendezvous hashing)."""
    return hashlib.blake2b(f"{request_id}\0{worker}".encode(errors="replace"), digest_size=8).digest()
