from __future__ import annotations

import pytest

from gateway.models.sampling import RANGES, SEED_BITS, fill_sampling, parse_sampling
from shared.errors import ConfigError
from shared.request import SamplingParams

TABLES = parse_sampling(
    {
        "defaults": {"temperature": 0.7, "top_p": 1, "stop": ["END"]},
        "models": {"coder": {"temperature": 0.2, "top_k": 40}},
    }
)


def test_what_the_client_left_out_is_filled() -> None:
    filled = fill_sampling(SamplingParams(), TABLES, "tiny")
    assert (filled.temperature, filled.top_p, filled.stop, filled.top_k) == (0.7, 1.0, ("END",), None)


def test_a_models_own_settings_beat_the_defaults() -> None:
    filled = fill_sampling(SamplingParams(), TABLES, "coder")
    assert (filled.temperature, filled.top_k, filled.top_p) == (0.2, 40, 1.0)


def test_what_the_client_says_stays_also_when_it_is_zero() -> None:
    filled = fill_sampling(SamplingParams(temperature=0.0, stop=("X",)), TABLES, "coder")
    assert (filled.temperature, filled.stop) == (0.0, ("X",))


def test_an_empty_file_changes_nothing() -> None:
    params = SamplingParams(max_tokens=5)
    assert fill_sampling(params, parse_sampling({}), "m") is params


OUTSIDE = {
    "temperature": [-0.1, 2.1],
    "top_p": [-0.1, 1.1],
    "min_p": [-0.1, 1.5],
    "presence_penalty": [-2.1, 3],
    "frequency_penalty": [-2.1, 3],
    "repetition_penalty": [0, -1, 11],
    "max_tokens": [0, -5],
    "top_k": [-2],
    "seed": [-(1 << 63) - 1],
}


def test_every_parameter_takes_its_bounds_and_what_requests_may_say_too() -> None:
    for name, (low, high) in RANGES.items():
        for value in (low or 0.1, high):
            assert parse_sampling({"defaults": {name: value}})[""] == {name: value}
    values = {"max_tokens": 1, "top_k": -1, "seed": -1}
    assert parse_sampling({"defaults": values})[""] == {"max_tokens": 1, "top_k": 0, "seed": SEED_BITS}


@pytest.mark.parametrize(
    "data",
    [
        [],
        {"default": {}},
        {"defaults": []},
        {"models": {"m": 1}},
        {"defaults": {"temprature": 1}},
        {"defaults": {"temperature": "hot"}},
        {"defaults": {"max_tokens": 1.5}},
        {"defaults": {"max_tokens": True}},
        {"defaults": {"stop": "END"}},
        {"defaults": {"stop": ["x"] * 65}},
        *({"models": {"m": {name: value}}} for name, values in OUTSIDE.items() for value in values),
    ],
)
def test_files_that_can_not_be_used_are_refused(data: object) -> None:
    with pytest.raises(ConfigError, match=r"inference_settings\.json"):
        parse_sampling(data)


def test_a_value_out_of_its_range_is_named_with_the_range() -> None:
    expected = r"inference_settings\.json: coder: top_p must be between 0 and 1, not 7"
    with pytest.raises(ConfigError, match=expected):
        parse_sampling({"models": {"coder": {"top_p": 7}}})
