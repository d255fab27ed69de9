"""Several tokens per pass for a stream that runs alone: drafts, verified by the model, when that pays.

Drafts come from the text itself (`worker.drafting.Lookup`) or from a small model of the same vocabulary. A draft's
tokens are accepted as long as they equal what the row's sampler takes, with its own parameters and random numbers,
so the answer is the one that it would have been. Streams that run together share passes already and are not drafted
for; nor are answers under a constraint.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from shared.options import read_options
from worker.engines.mlx.decode.batch import DecodeGroup, Token
from worker.engines.mlx.decode.draft_model import READING_SHARE, DraftModel
from worker.engines.mlx.decode.drafting import MOST_DRAFTED, Lookup, Payoff
from worker.engines.mlx.model.models import LoadedModel

Mode = Literal["auto", "always", "off"]


def parse_options(options: Mapping[str, Any]) -> tuple[Mode, str]:
    """A model's options `drafting` and `draft_model`, empty when there is none. Raises `ConfigError`.

    `drafting` is `auto`, where it pays; `always`, wherever it can, by the draft model if there is one, for
    comparisons; or `off`.
    """
    read = read_options("mlx", options)
    mode, model = read.get("drafting", "auto"), read.get("draft_model", "")
    return mode, model if mode != "off" else ""


class DraftSource(Protocol):
    """A model that drafts. Belongs to the engine thread."""

    def is_ready(self, key: str, tokens: Sequence[int]) -> bool:
        """Whether `draft` may be called with the row's `tokens`. Gets ready for a moment when not."""

    def draft(self, key: str, tokens: Sequence[int], count: int) -> Sequence[int]:
        """What it would say after `tokens`: at most `count` tokens."""

    def end(self, key: str) -> None:
        """The row ended."""


@dataclass(slots=True, kw_only=True)
class _Story:
    """A row's text, prompt and answer as far as they were handed out, and how long they may become."""

    lookup: Lookup
    longest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """A draft to be: `size` tokens, those `found` or else what the model says."""

    payoff: Payoff
    size: int
    matched: int = 0
    found: Sequence[int] = ()


class Speculation:
    """Belongs to the engine thread."""

    def __init__(self, *, mode: Mode, ends: Collection[int], model: DraftSource | None = None) -> None:
        """`ends` are the tokens that end an answer."""
        self._mode = mode
        self._ends = frozenset(ends)
        self._model = model
        self._by_lookup = Payoff()
        self._by_model = Payoff()
        self._stories: dict[str, _Story] = {}
        self._last_s: float | None = None  # when the last step ended; None when it says nothing about this one
        self._was_plain = False

    # -- rows -----------------------------------------------------------------------------------------------------

    def begin(self, key: str, tokens: Sequence[int], *, longest: int) -> None:
        """A row joined: `tokens` are its prompt and what was handed out, which may become `longest` tokens."""
        if self._mode != "off":
            self._stories[key] = _Story(lookup=Lookup(tokens), longest=longest)

    def end(self, key: str) -> None:
        """A row left."""
        if self._stories.pop(key, None) is not None and self._model is not None:
            self._model.end(key)

    def disturbed(self) -> None:
        """Something else used the device since the last step, so how long the next one takes says nothing."""
        self._last_s = None

    @property
    def metrics(self) -> dict[str, float]:
        """Passes that verified drafts, and the tokens drafted and accepted in them."""
        both = (self._by_lookup, self._by_model)
        return {
            "draft_passes": sum(payoff.passes for payoff in both),
            "drafted_tokens": sum(payoff.drafted for payoff in both),
            "accepted_draft_tokens": sum(payoff.accepted for payoff in both),
        }

    # -- steps ----------------------------------------------------------------------------------------------------

    def step(self, group: DecodeGroup, *, is_alone: bool) -> list[Token]:
        """One pass of `group`, the only one if `is_alone`: the tokens that it gave, each row's in order."""
        story = self._stories.get(group.rows[0].key)
        if story is not None and is_alone and group.can_verify:
            return self._step_alone(group, story)
        self.disturbed()
        return self._step_plainly(group)

    def _step_alone(self, group: DecodeGroup, story: _Story) -> list[Token]:
        if not group.rows[0].is_read and self._plan(group, story) is None:
            return self._step_plainly(group)
        began_s = self._last_s or time.perf_counter()
        handed = group.read()
        if handed:
            self._tell(handed)
            began_s = time.perf_counter()
            if handed[0].token in self._ends:
                return handed
        plan = self._plan(group, story)
        draft = self._drafted(group, story, plan) if plan is not None else []
        if plan is None or not draft:
            return handed + self._step_plainly(group)
        tokens = group.verify(draft)
        self._tell(tokens)
        self._last_s, self._was_plain = time.perf_counter(), False
        plan.payoff.observe(
            matched=plan.matched, drafted=len(draft), accepted=len(tokens) - 1, seconds=self._last_s - began_s
        )
        return handed + tokens

    def _step_plainly(self, group: DecodeGroup) -> list[Token]:
        tokens = group.step()
        self._tell(tokens)
        ended_s = time.perf_counter()
        if self._last_s is not None and self._was_plain and len(tokens) == 1:
            self._by_lookup.observe_plain(ended_s - self._last_s)
            self._by_model.observe_plain(ended_s - self._last_s)
        self._last_s, self._was_plain = ended_s, True
        return tokens

    def _tell(self, tokens: Sequence[Token]) -> None:
        for token in tokens:
            if token.key in self._stories:
                self._stories[token.key].lookup.extend([token.token])

    # -- drafts ---------------------------------------------------------------------------------------------------

    def _plan(self, group: DecodeGroup, story: _Story) -> _Plan | None:
        """Which draft to make next; None to make none.

        Also asked before the token in flight is known, to know whether to wait for it: while nothing is drafted, the
        device never waits for the host.
        """
        row = group.rows[0]
        unread = 0 if row.is_read else 1
        most = min(MOST_DRAFTED, story.longest - len(story.lookup) - unread - 1)  # the model adds one token
        plans: list[tuple[float, _Plan]] = []
        found = story.lookup.draft(most + unread)
        if found is not None:
            plans += self._weigh(self._by_lookup, most, found.matched, found.tokens)
        if self._model is not None:
            weighed = self._weigh(self._by_model, most)
            if weighed and self._model.is_ready(row.key, story.lookup.tokens):
                plans += weighed
        if plans and self._mode == "always":
            return plans[-1][1]
        return max(plans, key=lambda plan: plan[0])[1] if plans else None

    def _weigh(
        self, payoff: Payoff, most: int, matched: int = 0, found: Sequence[int] = ()
    ) -> list[tuple[float, _Plan]]:
        """At most one plan, with the tokens per second that it may bring."""
        if most <= 0:
            return []
        size, rate = payoff.choose(matched, most)
        if self._mode == "always":
            size = most
        if size == 0:
            payoff.skip(matched)
            return []
        return [(rate, _Plan(payoff=payoff, size=size, matched=matched, found=found[:size]))]

    def _drafted(self, group: DecodeGroup, story: _Story, plan: _Plan) -> list[int]:
        draft = list(plan.found)
        if not draft:
            assert self._model is not None
            draft = list(self._model.draft(group.rows[0].key, story.lookup.tokens, plan.size))
        end = next((index for index, token in enumerate(draft) if token in self._ends), len(draft))
        return draft[: end + 1]


def build_speculation(
    mode: Mode, model: LoadedModel, draft: LoadedModel | None, *, draft_cache_bytes: int
) -> Speculation:
    """Speculation for `model`, with drafts of `draft` if there is one."""
    source = None
    if draft is not None:
        share = 1.0 if mode == "always" else READING_SHARE
        source = DraftModel(draft, vocab=model.vocab, max_bytes=draft_cache_bytes, reading_share=share)
    return Speculation(mode=mode, ends=model.tokenizer.eos_token_ids, model=source)
