from __future__ import annotations

import pytest

from gateway.models.sampling import fill_sampling, parse_sampling
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
    ],
)
def test_files_that_can_not_be_used_are_refused(data: object) -> None:
    with pytest.raises(ConfigError, match=r"inference_settings\.json"):
        parse_sampling(data)
