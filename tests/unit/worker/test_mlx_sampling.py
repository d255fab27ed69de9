"""Sampling against plain reference arithmetic, and the independence of rows from each other."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from unittest import mock

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.errors import InvalidRequestError
from shared.request import SamplingParams
from worker.engines.mlx.decode import drawing
from worker.engines.mlx.decode.parameters import row_params
from worker.engines.mlx.decode.sampling import BatchSampler, RowParams, RowSampler
from worker.engines.mlx.model.sampling_defaults import SamplingDefaults, load_defaults

VOCAB = 12
ROW = st.integers(-800, 800).map(lambda n: n / 100)  # apart in single precision, too: ties are no edge
LOGITS = [2.0, 1.5, 1.0, 0.5, 0.0, -0.5, 3.0, -1.0, 0.2, 0.1, -3.0, 1.2]


def row(params: RowParams, prompt: Sequence[int] = ()) -> RowSampler:
    return RowSampler(params, prompt=prompt, vocab=VOCAB)


def draws(params: RowParams, count: int, logits: Sequence[float] = LOGITS) -> list[int]:
    batch = mx.broadcast_to(mx.array(logits), (count, len(logits)))
    tokens: list[int] = BatchSampler([row(params)]).sample(batch).tolist()  # type: ignore[assignment]
    return tokens


def reference(params: RowParams, logits: Sequence[float] = LOGITS) -> NDArray[np.float64]:
    """Temperature, top-k, top-p, min-p in this order, each renormalised, as transformers does it."""
    scaled = np.array(logits) / params.temperature
    p = np.exp(scaled - scaled.max())
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    if params.top_k:
        p[order[params.top_k :]] = 0
    mass = np.cumsum(p[order]) - p[order]
    p[order[mass >= max(params.top_p, 1e-6) * p.sum()]] = 0
    p[p < params.min_p * p.max()] = 0
    return p / p.sum()


@pytest.mark.parametrize(
    "params",
    [
        RowParams(temperature=1.0, seed=1),
        RowParams(temperature=0.5, seed=2),
        RowParams(temperature=1.0, top_p=0.7, seed=3),
        RowParams(temperature=1.3, top_k=4, seed=4),
        RowParams(temperature=1.0, top_k=6, top_p=0.8, seed=5),
        RowParams(temperature=1.0, min_p=0.2, seed=6),
        RowParams(temperature=0.8, top_k=8, top_p=0.9, min_p=0.1, seed=7),
    ],
    ids=str,
)
def test_tokens_come_as_often_as_they_should(params: RowParams) -> None:
    expected = reference(params)
    counted = np.bincount(draws(params, 20_000), minlength=VOCAB) / 20_000
    assert set(np.flatnonzero(counted)) <= set(np.flatnonzero(expected))
    assert np.abs(counted - expected).max() < 0.015


@settings(max_examples=150, deadline=None)
@given(
    logits=st.lists(ROW, min_size=VOCAB, max_size=VOCAB, unique=True),
    temperature=st.floats(0.05, 3),
    top_k=st.integers(0, VOCAB - 1),
    top_p=st.floats(0, 1),
    min_p=st.floats(0, 1),
    seed=st.integers(0, 2**31),
)
def test_tokens_outside_the_filters_are_never_taken(
    logits: list[float], temperature: float, top_k: int, top_p: float, min_p: float, seed: int
) -> None:
    params = RowParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed)
    # Tokens at the very edge of a filter may fall to either side in single precision.
    edge = [
        reference(
            RowParams(temperature=temperature, top_k=top_k, top_p=min(1, top_p + 1e-4), min_p=max(0, min_p - 1e-4)),
            logits,
        )
    ]
    allowed = set(np.flatnonzero(edge[0] + reference(params, logits)))
    assert set(draws(params, 50, logits)) <= allowed


def test_temperature_near_zero_is_greedy() -> None:
    assert set(draws(RowParams(temperature=1e-9), 5)) == {int(np.argmax(LOGITS))}


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.builds(
            RowParams,
            temperature=st.sampled_from([0.0, 0.7, 1.0]),
            top_k=st.sampled_from([0, 3, 5]),
            top_p=st.sampled_from([1.0, 0.8]),
            min_p=st.sampled_from([0.0, 0.1]),
            frequency_penalty=st.sampled_from([0.0, 0.5]),
            repetition_penalty=st.sampled_from([1.0, 1.3]),
            logit_bias=st.sampled_from([{}, {3: 2.0}]),
            seed=st.integers(0, 1000),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_rows_take_the_same_tokens_whatever_is_beside_them(params: list[RowParams]) -> None:
    def steps(chosen: list[RowParams]) -> list[list[int]]:
        rows = [row(item, prompt=[1, 2]) for item in chosen]
        sampler = BatchSampler(rows)
        said: list[list[int]] = []
        for step in range(4):
            logits = mx.broadcast_to(mx.roll(mx.array(LOGITS), step), (len(rows), VOCAB))
            tokens = sampler.sample(logits)
            sampler.count(tokens)
            said.append(tokens.tolist())  # type: ignore[arg-type]
        return [list(tokens) for tokens in zip(*said, strict=True)]

    assert steps(params) == [steps([item])[0] for item in params]


def test_numbers_taken_back_are_drawn_again() -> None:
    sampler = row(RowParams(temperature=1.0, seed=5))
    first = [sampler.draw() for _ in range(4)]
    sampler.undraw(2)
    assert [sampler.draw() for _ in range(2)] == first[2:]


def test_penalties_and_bias_are_those_of_the_openai_formula() -> None:
    params = RowParams(
        temperature=0.0, frequency_penalty=0.5, presence_penalty=0.25, repetition_penalty=2.0, logit_bias={4: 7.0}
    )
    sampler = row(params, prompt=[0, 7])
    for token in (3, 3, 5):
        sampler.count(mx.array(token))
    adjusted = np.array(sampler.adjusted(mx.array(LOGITS)))
    expected = np.array(LOGITS)
    expected[4] += 7
    for token in (0, 3, 5, 7):
        expected[token] = expected[token] / 2 if expected[token] > 0 else expected[token] * 2
    expected[3] -= 2 * 0.5 + 0.25
    expected[5] -= 0.5 + 0.25
    np.testing.assert_allclose(adjusted, expected, rtol=1e-6)


def test_model_defaults_hold_where_the_request_is_silent() -> None:
    defaults = load_defaults({"temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": None, "eos_token_id": 3})
    assert defaults == SamplingDefaults(temperature=0.6, top_k=20, top_p=0.95)
    silent = row_params(SamplingParams(), defaults, VOCAB * 10)
    assert (silent.temperature, silent.top_k, silent.top_p) == (0.6, 20, 0.95)
    loud = row_params(SamplingParams(temperature=0.0, top_k=0, top_p=1.0), defaults, VOCAB * 10)
    assert (loud.method, loud.top_k, loud.top_p) == ("greedy", 0, 1.0)


def test_model_that_does_not_sample_is_greedy() -> None:
    assert load_defaults({"do_sample": False, "temperature": 0.9}).temperature == 0


def test_top_k_of_the_whole_vocabulary_is_off() -> None:
    assert row_params(SamplingParams(temperature=1.0, top_k=VOCAB), SamplingDefaults(), VOCAB).top_k == 0


def test_what_cannot_be_used_is_refused() -> None:
    for wrong in (SamplingParams(logit_bias={VOCAB: 1.0}), SamplingParams(repetition_penalty=0.0)):
        with pytest.raises(InvalidRequestError):
            row_params(wrong, SamplingDefaults(), VOCAB)


def test_excessive_bias_is_no_infinity() -> None:
    params = row_params(SamplingParams(temperature=1.0, logit_bias={3: 1e300}), SamplingDefaults(), VOCAB)
    assert set(draws(params, 20)) == {3}


@pytest.mark.skipif(shutil.which("g++") is None, reason="mlx compiles for a CPU with the machine's own compiler")
@pytest.mark.parametrize("method", ["plain", "sorted", "top_k"])
def test_what_is_fused_draws_the_same_tokens(method: drawing.Method) -> None:
    """On a GPU the functions are compiled; here it is seen that they can be, and what the compiled ones draw."""
    draw = drawing.drawing(method, 5, has_min_p=True)
    rows = 6
    filters = [mx.full((rows, 1), value) for value in (1.25, 0.8, 0.05)]
    drawn = mx.array([[n / rows] for n in range(rows)])
    logits = mx.broadcast_to(mx.array(LOGITS), (rows, len(LOGITS)))
    arguments = (logits, *filters, mx.full((rows, 1), 5, mx.int32), drawn)
    assert mx.compile(draw)(*arguments).tolist() == draw(*arguments).tolist()


@given(st.lists(st.integers(0, 3), min_size=2, max_size=40), st.floats(0, 1, exclude_max=True, width=32), st.data())
@settings(max_examples=60)
def test_a_token_of_probability_zero_is_never_taken(weights: list[int], drawn: float, data: st.DataObject) -> None:
    """However the sums are rounded: those of a device's parallel sum may fall from one index to the next."""
    probabilities = [w / 10 for w in weights]
    if not any(probabilities):
        return
    noise = [n / 1000 for n in data.draw(st.lists(st.integers(-50, 50), min_size=len(weights), max_size=len(weights)))]
    real = mx.cumsum

    def rounded(array: mx.array, axis: int) -> mx.array:
        return real(array, axis=axis) + mx.array([noise])

    with mock.patch.object(mx, "cumsum", rounded):
        (token,) = drawing.invert(mx.array([probabilities]), mx.array([[drawn]])).tolist()
    assert probabilities[token] > 0
