"""The first token on the second Mac, after the first has left or its worker was killed: computed, fetched over links of
several rates, and both at once, from either end; and after the first has handed over what it had before it left."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from shared.cost import PrefillCost
from shared.events import assemble
from shared.grants import Grant
from shared.messages import TextPart
from shared.request import GenerateRequest
from tests.bench.report import Table, seconds
from tests.models.random_checkpoint import PRESETS, standard_library_text, write_random_checkpoint
from tests.support.lending import grant_for, leave_for, lending, with_trail
from tests.support.mlx_engine import Driver, message, request
from tests.support.throttle import throttled

LINKS = (("slow", 8e6), ("Wi-Fi", 50e6), ("1 Gb/s", 125e6), ("10 Gb/s", 1.25e9))
TOKENS = 6_000
_ANSWER_TOKENS = 24
_WARM_TOKENS = 600
_WIDE = {
    **{"num_hidden_layers": 6, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 128},
    "max_position_embeddings": 131072,
}


@dataclass(frozen=True, slots=True)
class _First:
    """`seconds` from the question to the first token, of a prompt of which so many tokens were computed."""

    seconds: float
    computed_tokens: int
    failures: dict[str, int]


def measure_transfer(folder: Path, tokens: int = TOKENS) -> Table:
    """Engines in this process, whose files lie in folders of their own; the link is a proxy on the loopback."""
    model = folder / "model"
    write_random_checkpoint(model, {**PRESETS["full"].config(128), **_WIDE})
    turns = {how: _first_turn(model, folder / how, tokens, how) for how in ("left", "killed")}
    cost, kept_bytes = _second_mac(model, folder / "probe").figures()
    alone = _second_mac(model, folder / "alone").first_token(turns["left"], None)
    table = Table(
        title=f"First token on the second Mac, of a prompt of about {tokens:,} tokens",
        head=(
            "link",
            "computed",
            "left: fetched",
            "killed: fetched",
            "left: both at once",
            "left: offered",
            "which took",
            "computed tokens",
            "would be",
            "not to their end",
        ),
    )
    for number, (name, rate) in enumerate(LINKS):
        found = _fetched(model, folder, turns, number, rate)
        offered = _second_mac(model, folder / f"offered{number}")
        took_s = offered.take_over(folder / "left", rate)
        found["offered"] = offered.first_token(turns["left"], None)
        fetch_s = tokens * kept_bytes / rate
        table.add(
            f"{name}, {rate / 1e6:,.0f} MB/s",
            seconds(alone.seconds),
            seconds(found["left"].seconds),
            seconds(found["killed"].seconds),
            seconds(found["both"].seconds),
            seconds(found["offered"].seconds),
            seconds(took_s),
            f"{', '.join(str(first.computed_tokens) for first in found.values())} of {alone.computed_tokens:,}",
            "fetched" if fetch_s < cost.predict_s(0, tokens) else "computed",
            ", ".join(reason for first in found.values() for reason in first.failures) or "none",
        )
    table.notes.append(f"{kept_bytes:,.0f} bytes a token; prefill at {cost.tokens_per_s:,.0f} tokens/s")
    table.notes.append("`offered`: all was handed over before anybody asked, and comes from disk")
    table.notes.append(
        "`would be`: what a gateway decides by these figures; here all are fetched, while that is sooner"
    )
    return table


def _fetched(
    model: Path, folder: Path, turns: Mapping[str, GenerateRequest], number: int, rate: float
) -> dict[str, _First]:
    """Over one link, after the first Mac has left or its worker was killed, and both at once."""
    found = {}
    for how, both_rate in (("left", 0.0), ("killed", 0.0), ("left", rate)):
        with ExitStack() as stack:
            _, address = stack.enter_context(lending(folder / how))
            slow = stack.enter_context(throttled(address, rate))
            mac = _second_mac(model, folder / f"{how}{number}{'both' if both_rate else ''}")
            first = mac.first_token(turns[how], grant_for(slow), both_rate=both_rate)
            found["both" if both_rate else how] = first
    return found


def _first_turn(model: Path, state: Path, tokens: int, how: str) -> GenerateRequest:
    """On the first Mac. The turn that comes after it."""
    mac = Driver(model, state_dir=state, ssd_cache_bytes=4 << 30)
    head = message("system", _text(mac, tokens))
    begin, then = message("user", "Begin."), message("user", "And then?")
    mac.run(with_trail(request("first", [head, begin], max_tokens=_ANSWER_TOKENS)))
    parts = assemble(mac.events["first"]).parts
    answer = "".join(part.text for part in parts if isinstance(part, TextPart))
    if how == "left":
        mac.engine.unload()
    else:
        _until(lambda: not _writes(mac))  # what was written while it served is all there is
    turn = request("next", [head, begin, message("assistant", answer), then], max_tokens=_ANSWER_TOKENS)
    return with_trail(turn)


def _writes(mac: Driver) -> bool:
    mac.engine.store.collect()
    writes = mac.engine.store._writes
    return writes is not None and writes.is_busy


class _SecondMac(Driver):
    def figures(self) -> tuple[PrefillCost, float]:
        """What prefill costs, and what a token takes in files."""
        stats = self.engine.stats()
        self.engine.unload()
        return stats.prefill_cost, stats.kept_bytes_per_token

    def take_over(self, state: Path, rate: float) -> float:
        """Over a link of so many bytes per second what a Mac has that leaves. Seconds until all of it is here."""
        peers = self.engine._tier.peers
        assert peers is not None
        with lending(state) as (_, address), throttled(address, rate) as slow:
            began_s = time.monotonic()
            self.engine.take_over(leave_for(slow), 0, 1)
            _until(lambda: peers.has_taken_over and not peers._running)
            took_s = time.monotonic() - began_s
        self.engine.idle()
        return took_s

    def first_token(self, turn: GenerateRequest, grant: Grant | None, *, both_rate: float = 0.0) -> _First:
        """With a rate of the link, in bytes per second, the prompt is computed from its front while it comes from its
        end, however little that gains."""
        self.engine._peer_files.least_gain_s = -math.inf if both_rate else math.inf
        if both_rate and grant is not None and self.engine._tier.peers is not None:
            self.engine._tier.peers._rates[grant.peer] = both_rate
        began_s = time.monotonic()
        offer = self.engine.locate(turn, grant) if grant is not None else None
        self.submit_prepared(replace(self.engine.prepare(turn), offer=offer))
        self.step_until(lambda: bool(self.tokens["next"]), steps=1_000_000)
        first_s = time.monotonic() - began_s
        sequence = self.engine._sequences["next"]
        peers = self.engine._tier.peers
        failures = {reason: count for reason, count in peers.failures.items() if count} if peers is not None else {}
        self.engine.unload()
        return _First(first_s, sequence.input_tokens - sequence.cached_tokens, failures)


def _second_mac(model: Path, state: Path) -> _SecondMac:
    """Which has answered before, so that it knows what prefill costs."""
    mac = _SecondMac(model, state_dir=state, ssd_cache_bytes=4 << 30)
    for number in range(3):
        text = _text(mac, _WARM_TOKENS * (number + 1))
        mac.run(request(f"warm{number}", [message("user", f"{number} {text}")], max_tokens=2))
    return mac


def _text(driver: Driver, tokens: int) -> str:
    text = standard_library_text(4 * tokens)
    count = driver.engine.prepare(request("count", [message("system", text)])).prompt_tokens or 1
    return text[: len(text) * tokens // count]


def _until(condition: Callable[[], bool], deadline_s: float = 60.0) -> None:
    end_s = time.monotonic() + deadline_s
    while not condition() and time.monotonic() < end_s:
        time.sleep(0.01)
