"""From logits to tokens, for a whole batch at once, each row by its own parameters and its own random numbers.

Random numbers come from one host generator per request, one number per token, so a request draws the same numbers
whatever else is in the batch. A token is drawn by inverting the cumulative distribution in vocabulary order, which
moves little when rounding moves the probabilities a little.

The order of the steps is that of transformers and vLLM: logit bias, penalties, temperature, top-k, top-p, min-p.
Logprobs are those of the model's own distribution, before all of these.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from shared.errors import WorkerLostError
from worker.engines.mlx.decode.drawing import Filters, Method, drawing, penalised, repeated
from worker.engines.mlx.decode.thinking import ThinkingBudget
from worker.engines.tokens.constraint import Constraint

_ALMOST_ONE = 1.0 - 2.0**-24
_LEAST_TEMPERATURE = 1e-4  # below, logits would overflow, and the likeliest token is taken anyway
_MOST_UNDRAWN = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class RowParams:
    """One request's parameters with every default filled in. `top_k` 0, `top_p` 1 and `min_p` 0 mean off.

    `top_k` is less than the vocabulary's size: what would keep all tokens is off.
    """

    temperature: float
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    top_logprobs: int | None = None
    seed: int | None = None

    @property
    def method(self) -> Method:
        if self.temperature < _LEAST_TEMPERATURE:
            return "greedy"
        if self.top_k > 0:
            return "top_k"
        return "sorted" if self.top_p < 1 else "plain"

    @property
    def has_penalties(self) -> bool:
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0


Tally = tuple[mx.array | None, mx.array | None]  # counts and presence of tokens, [vocab]


class RowSampler:
    """One request's sampling state: its random numbers and what its penalties have counted."""

    def __init__(
        self,
        params: RowParams,
        *,
        prompt: Sequence[int],
        vocab: int,
        constraint: Constraint | None = None,
        budget: ThinkingBudget | None = None,
    ) -> None:
        self.params = params
        self.constraint = constraint
        self.budget = budget
        self._random = random.Random(params.seed)
        self._drawn: deque[float] = deque(maxlen=_MOST_UNDRAWN)  # the last numbers used
        self._undrawn: list[float] = []  # numbers to be used again, the next one last
        self._bias = self._build_bias(vocab)
        self._counts = mx.zeros((vocab,), mx.float32) if params.has_penalties else None
        self._seen: mx.array | None = None
        if params.repetition_penalty != 1:
            self._seen = mx.zeros((vocab,), mx.bool_)
            self._seen[mx.array([token for token in set(prompt) if token < vocab], mx.int32)] = True

    def _build_bias(self, vocab: int) -> mx.array | None:
        bias = {token: value for token, value in self.params.logit_bias.items() if 0 <= token < vocab}
        if not bias:
            return None
        dense = mx.zeros((vocab,), mx.float32)
        dense[mx.array(list(bias), mx.int32)] = mx.array(list(bias.values()), mx.float32)
        return dense

    @property
    def is_broken(self) -> bool:
        """Whether the answer has left the form that it must have."""
        return self.constraint is not None and self.constraint.is_broken

    @property
    def adjusts(self) -> bool:
        """Whether the next token is not drawn from the model's logits alone."""
        if self.budget is not None and (self.budget.demanded or self.budget.barred):
            return True
        return self._bias is not None or self._counts is not None or self.constraint is not None

    @property
    def may_adjust(self) -> bool:
        return self.adjusts or self.budget is not None

    @property
    def may_draft(self) -> bool:
        """Whether nothing but the logits decides on the next tokens, so that several may be sampled at once."""
        return self.constraint is None and (self.budget is None or self.budget.may_draft)

    def draw(self) -> float:
        """Uniform in [0, 1), also after rounding to float32."""
        drawn = self._undrawn.pop() if self._undrawn else min(self._random.random(), _ALMOST_ONE)
        self._drawn.append(drawn)
        return drawn

    def undraw(self, count: int = 1) -> None:
        """The last `count` tokens sampled will not be used: draw the same numbers for the next ones."""
        if self.params.method != "greedy":
            for _ in range(count):
                self._undrawn.append(self._drawn.pop())

    def count(self, token: mx.array) -> None:
        """Note a generated token, still on the device: shape []."""
        if self._counts is not None:
            self._counts = self._counts.at[token].add(1.0)
        if self._seen is not None:
            self._seen = mx.put_along_axis(self._seen, token.reshape(1), mx.array(True), axis=0)

    def replay(self, tokens: Sequence[int]) -> None:
        """Go on as if these tokens had been sampled here: their random numbers are used up, the penalties have counted
        them, the constraint has read them. Raises `WorkerLostError` for one that the constraint forbids."""
        if self.params.method != "greedy":
            for _ in tokens:
                self.draw()
        if self.may_adjust and tokens:
            counted = mx.array(list(tokens), mx.uint32)
            if self._counts is not None:
                self._counts = self._counts.at[counted].add(1.0)
            if self._seen is not None:
                self._seen = mx.put_along_axis(self._seen, counted, mx.array(True), axis=0)
        if self.budget is not None:
            self.budget.replay(tokens)
        constraint = self.constraint
        if constraint is not None and not all(constraint.accept(token) for token in tokens):
            raise WorkerLostError("the answer cannot go on: it does not have the form that it must have")

    def tally(self) -> Tally:
        """What the penalties have counted so far."""
        return self._counts, self._seen

    def recount(self, tally: Tally) -> None:
        """Go back to an earlier tally."""
        self._counts, self._seen = tally

    def adjusted(self, logits: mx.array) -> mx.array:
        """`logits` [vocab], float32, with bias and penalties; minus infinity where a constraint forbids the token."""
        params = self.params
        demanded = self.budget.demanded if self.budget is not None else ()
        if len(demanded) > 1 and self.constraint is not None:
            logits = _constrained(logits, self.constraint)
        if demanded:
            return _only(logits, demanded)
        if self.budget is not None and self.budget.barred:
            logits = mx.put_along_axis(logits, mx.array(self.budget.barred), mx.array(-mx.inf), axis=-1)
        if self._bias is not None:
            logits = logits + self._bias
        if self._seen is not None:
            logits = repeated(logits, self._seen, mx.array(params.repetition_penalty))
        if self._counts is not None:
            counted = mx.array([params.frequency_penalty, params.presence_penalty])
            logits = penalised(logits, self._counts, counted)
        return logits if self.constraint is None else _constrained(logits, self.constraint)


def _only(logits: mx.array, tokens: tuple[int, ...]) -> mx.array:
    wanted = mx.array(tokens)
    return mx.put_along_axis(mx.full(logits.shape, -mx.inf), wanted, logits[wanted], axis=-1)


def _constrained(logits: mx.array, constraint: Constraint) -> mx.array:
    allowed = mx.array(constraint.allowed(logits.shape[-1]))
    voluntary = constraint.voluntary(logits.shape[-1])
    if voluntary is not None:
        wanted = mx.array(voluntary)
        allowed = mx.logical_and(allowed, mx.logical_or(mx.logical_not(wanted), wanted[mx.argmax(logits)]))
    return mx.where(allowed, logits, -mx.inf)


class BatchSampler:
    """Samples one token for each row. Built anew when the rows of the batch change, so a step does little Python."""

    def __init__(self, rows: Sequence[RowSampler]) -> None:
        self._rows = list(rows)
        self._adjusting = [row for row in rows if row.may_adjust]
        self._budgets = [(index, row.budget) for index, row in enumerate(rows) if row.budget is not None]
        self._constrained = [(index, row.constraint) for index, row in enumerate(rows) if row.constraint is not None]
        methods: dict[Method, list[int]] = {}
        for index, row in enumerate(rows):
            methods.setdefault(row.params.method, []).append(index)
        self._groups = [
            _Group(method, [self._rows[i] for i in indices], indices) for method, indices in methods.items()
        ]
        order = [index for group in self._groups for index in group.indices]
        self._inverse = mx.array(sorted(range(len(order)), key=order.__getitem__), mx.int32)

    @property
    def waits(self) -> bool:
        """Whether `count` needs the tokens' values, because what may come next depends on them."""
        return bool(self._constrained)

    def sample(self, logits: mx.array) -> mx.array:
        """`logits` [rows, vocab] to tokens [rows], uint32."""
        if any(row.adjusts for row in self._adjusting):
            logits = logits.astype(mx.float32)
            logits = mx.stack(
                [row.adjusted(logits[i]) if row.adjusts else logits[i] for i, row in enumerate(self._rows)]
            )
        if len(self._groups) == 1:
            return self._groups[0].sample(logits)
        parts = [group.sample(logits[group.index_array]) for group in self._groups]
        return mx.concatenate(parts)[self._inverse]

    def sample_run(self, logits: mx.array, inputs: Sequence[int]) -> Run:
        """The batch's only row, several tokens at once: `logits` [len(inputs), vocab] follow the `inputs`, which are
        counted. Each token is sampled as if the inputs up to its own were right."""
        (row,) = self._rows
        tallies = []
        if row.adjusts:
            logits = logits.astype(mx.float32)
            adjusted = []
            for index, token in enumerate(inputs):
                row.count(mx.array(token, mx.uint32))
                tallies.append(row.tally())
                adjusted.append(row.adjusted(logits[index]))
            logits = mx.stack(adjusted)
        return Run(row, self._groups[0].sample(logits), tallies)

    def count(self, tokens: mx.array) -> None:
        """Note the tokens that go into the model now, [rows]. Constrained rows wait for theirs here: what may come
        next depends on them, so for such a batch the device does not run ahead of the host."""
        if self._adjusting:
            for index, row in enumerate(self._rows):
                row.count(tokens[index])
        for index, budget in self._budgets:
            budget.count(tokens[index])
        if self._constrained:
            values: Any = tokens.tolist()
            for index, constraint in self._constrained:
                constraint.accept(values[index])


class Run:
    """Tokens [n] sampled for one row at once, uint32."""

    def __init__(self, row: RowSampler, tokens: mx.array, tallies: Sequence[Tally]) -> None:
        self.tokens = tokens
        self._row = row
        self._tallies = tallies

    def keep(self, count: int) -> None:
        """Only the first `count` tokens, 1 or more, will be used: the row goes on as if only they had been sampled."""
        self._row.undraw(self.tokens.size - count)
        if self._row.budget is not None:
            self._row.budget.pass_over(count)
        if self._tallies:
            self._row.recount(self._tallies[count - 1])


class _Group:
    """Rows of one batch that are sampled in the same way."""

    def __init__(self, method: Method, rows: Sequence[RowSampler], indices: list[int]) -> None:
        self.indices = indices
        self.index_array = mx.array(indices, mx.int32)
        self._method = method
        self._rows = rows
        params = [row.params for row in rows]
        if method != "greedy":
            self._filters = Filters(
                inverse_temperature=mx.array([[1.0 / p.temperature] for p in params], mx.float32),
                top_p=mx.array([[max(p.top_p, 1e-6)] for p in params], mx.float32),
                min_p=mx.array([[p.min_p] for p in params], mx.float32),
                top_k=mx.array([[p.top_k] for p in params], mx.int32),
            )
            self._draw = drawing(method, max(p.top_k for p in params), has_min_p=any(p.min_p > 0 for p in params))

    def sample(self, logits: mx.array) -> mx.array:
        """One token for each row, or of a single row one for each of its `logits`, in order."""
        if self._method == "greedy":
            return mx.argmax(logits, axis=-1)
        rows = self._rows if len(self._rows) > 1 else [self._rows[0]] * logits.shape[0]
        drawn = mx.array([[row.draw()] for row in rows], mx.float32)
        return self._draw(logits, *self._filters, drawn)


@dataclass(frozen=True, slots=True, kw_only=True)
class Logprobs:
    """One token's logprob and the likeliest alternatives, best first, still by token id."""

    chosen: float
    top: tuple[tuple[int, float], ...]


class PendingLogprobs:
    """Logprobs of one step for the rows that asked, computed on the device and read when the tokens are."""

    def __init__(self, logits: mx.array, tokens: mx.array, wanted: dict[int, int]) -> None:
        """`wanted` maps the row to how many alternatives it wants."""
        self._rows = [(row, row) for row in wanted]  # (row as read, its place in the arrays' order)
        self._order = {row: place for place, row in enumerate(wanted)}
        self._wanted = wanted
        index = mx.array(list(wanted), mx.int32)
        mine = logits[index].astype(mx.float32)
        logprobs = mine - mx.logsumexp(mine, axis=-1, keepdims=True)
        self._chosen = mx.take_along_axis(logprobs, tokens[index][:, None].astype(mx.int32), axis=-1)[:, 0]
        most = min(max(wanted.values()), logits.shape[-1])
        self._top_ids = mx.argsort(-logprobs, axis=-1)[:, :most]
        self._top = mx.take_along_axis(logprobs, self._top_ids, axis=-1)

    @property
    def arrays(self) -> tuple[mx.array, ...]:
        return self._chosen, self._top_ids, self._top

    def keep(self, rows: Sequence[int]) -> None:
        """Only these rows are left in the batch, in this order."""
        places = {old: new for new, old in enumerate(rows)}
        self._rows = [(places[now], first) for now, first in self._rows if now in places]

    def read(self) -> dict[int, Logprobs]:
        """By row."""
        read_back: list[Any] = [array.tolist() for array in self.arrays]
        chosen, ids, values = read_back
        read = {}
        for row, first in self._rows:
            place = self._order[first]
            top = tuple(zip(ids[place], values[place], strict=True))[: self._wanted[first]]
            read[row] = Logprobs(chosen=chosen[place], top=top)
        return read
