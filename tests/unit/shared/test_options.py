"""Options of settings files: each is checked by name, kind and range, by who reads the file and who loads the model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from gateway.models.settings_files import find_faults
from shared.config import Settings, load_settings
from shared.errors import ConfigError
from shared.gguf_config import gguf_faults
from shared.options import ENGINE_OPTIONS, GGUF, GGUF_WORDS, Option, option_text, read_options
from shared.registry import ENGINE_NAMES, MODEL, ModelSpec, models_faults, parse_models
from shared.remotes import REMOTE, Remote, parse_remotes
from shared.slips import find_slips
from worker.engines.echo_model import EchoOptions
from worker.engines.gguf.options import GgufOptions, parse_options
from worker.engines.registry import build_engine

WRONG: Mapping[str, tuple[Any, ...]] = {
    "text": (7, None, ["a"], "a\0b"),
    "whole": ("7", None, True, 2.5, [7]),
    "number": ("7", None, True, [7], float("nan")),
    "flag": ("true", 1, 0, None),
    "texts": ("a", {"a": "b"}, [None], [["a"]], [True], 7),
    "names": ("a", ["a"], {"a": 1}, None),
    "keep_alive": ("soon", True, None, [5]),
    "object": ([], "a", 7, None),
}
LISTED = tuple(name for name in ENGINE_NAMES if name != "remote")


def wrong_values(option: Option) -> list[Any]:
    """Of each other kind, and one step outside of the range."""
    found = [*WRONG[option.kind]]
    if option.kind in ("whole", "number"):
        found += [option.least - 1, option.most + 1]
    if option.choices:
        found.append("nothing of these")
    if option.is_needed:
        found.append([""] if option.kind == "texts" else "")
    return found


def right_values(option: Option) -> list[Any]:
    if option.choices:
        return [*option.choices]
    kinds: dict[str, list[Any]] = {
        "text": ["a"],
        "whole": [int(option.least), int(option.most)],
        "number": [option.least, option.most, int(option.most)],
        "flag": [True, False],
        "texts": [["a", "b"]],
        "names": [{"a": "b"}],
        "keep_alive": [0, -1, 2.5, "5m", "never"],
        "object": [{}],
    }
    return kinds[option.kind]


ENGINE_CASES = [(engine, name) for engine in LISTED for name in ENGINE_OPTIONS[engine]]


@pytest.mark.parametrize(("engine", "name"), ENGINE_CASES)
def test_each_option_of_each_engine_is_refused_by_kind_and_by_range(engine: str, name: str) -> None:
    option = ENGINE_OPTIONS[engine][name]
    for value in wrong_values(option):
        entry = {"source": "m", "engine": engine, "options": {name: value}}
        (line,) = models_faults([{"source": "before"}, entry])
        assert line.startswith(f"models.json: entry 1: options: `{name}` "), line
        assert repr(value) in line
        assert f"expected {option.allowed}" in line
        with pytest.raises(ConfigError):
            parse_models([entry])


@pytest.mark.parametrize(("engine", "name"), ENGINE_CASES)
def test_each_option_that_may_be_is_read_by_its_engine_from_the_file_and_from_a_command_line(
    engine: str, name: str
) -> None:
    for value in right_values(ENGINE_OPTIONS[engine][name]):
        (spec,) = parse_models([{"source": "m", "engine": engine, "options": {name: value}}])
        assert read_options(engine, spec.options) == {name: value}
        assert read_options(engine, {name: option_text(value)}) == {name: value}


@pytest.mark.parametrize("engine", ENGINE_NAMES)
def test_an_engine_is_not_built_with_an_option_that_it_does_not_know_or_that_cannot_be_meant(engine: Any) -> None:
    wrong: list[dict[str, Any]] = [{"bogus": 1}]
    wrong += [{name: wrong_values(option)[1]} for name, option in ENGINE_OPTIONS[engine].items()]
    for options in wrong:
        with pytest.raises(ConfigError, match=f"{engine} engine"):
            build_engine(ModelSpec(id="m", source="m", engine=engine, options=options), Settings())


@pytest.mark.parametrize("name", [name for name in MODEL if name != "source"])
def test_each_value_of_an_entry_of_models_json_is_refused_by_kind_and_by_range(name: str) -> None:
    for value in wrong_values(MODEL[name]):
        lines = [*models_faults([{"source": "m", name: value}])]
        assert any(line.startswith(f"models.json: entry 0: `{name}` ") and repr(value) in line for line in lines), lines
        with pytest.raises(ConfigError):
            parse_models([{"source": "m", name: value}])
    for value in right_values(MODEL[name]):
        assert parse_models([{"source": "m", name: value}])


@pytest.mark.parametrize("name", [name for name in REMOTE if name not in ("id", "url")])
def test_each_value_of_an_entry_of_remotes_json_is_refused_by_kind_and_by_range(name: str) -> None:
    entry = {"id": "a", "url": "http://127.0.0.1:1"}
    for value in wrong_values(REMOTE[name]):
        with pytest.raises(ConfigError, match=f"remotes.json: entry 0: `{name}` ") as raised:
            parse_remotes([{**entry, name: value}])
        assert (repr(value) in str(raised.value)) == (name != "key"), "a key is never shown"
    for value in right_values(REMOTE[name]):
        assert parse_remotes([{**entry, name: value}])


@pytest.mark.parametrize("name", GGUF)
def test_each_value_of_gguf_config_json_is_refused_for_all_models_and_for_one(name: str) -> None:
    for value in wrong_values(GGUF[name]):
        (of_all,) = gguf_faults({name: value})
        (of_one,) = gguf_faults({"models": {"m": {name: value}}})
        assert of_all.startswith(f"gguf_config.json: `{name}` {value!r}: expected ")
        assert of_one.startswith(f"gguf_config.json: model 'm': `{name}` {value!r}: expected ")
        with pytest.raises(ConfigError, match=f"`{name}`"):
            parse_options({"models": {"m": {name: value}}}, "m", {})
        assert parse_options({"models": {"m": {name: value}}}, "other", {}) == GgufOptions()


def test_the_tables_have_what_the_engines_read_and_no_more() -> None:
    assert GGUF.keys() == {each.name for each in fields(GgufOptions)}
    assert ENGINE_OPTIONS["gguf"].keys() == GGUF.keys() | GGUF_WORDS.keys()
    assert ENGINE_OPTIONS["echo"].keys() == {each.name for each in fields(EchoOptions)}
    assert REMOTE.keys() == {each.name for each in fields(Remote)}
    assert ENGINE_OPTIONS.keys() == set(ENGINE_NAMES)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"engine": "gguff"}, "did you mean gguf?"),
        ({"load": "on_demand"}, "did you mean on-demand?"),
        ({"options": {"drafting": "alwys"}}, "expected auto, always or off: did you mean always?"),
        ({"engine": "mlx", "backend": "gguf"}, "`engine` is 'mlx' and `backend`"),
        ({"engine": "remote"}, "servers elsewhere stand in remotes.json"),
    ],
)
def test_a_value_that_is_misspelt_or_stands_elsewhere_is_told_with_what_was_meant(
    content: dict[str, Any], told: str
) -> None:
    (line,) = models_faults([{"source": "m", **content}])
    assert told in line


@pytest.mark.parametrize(
    ("engine", "name", "told"),
    [
        ("mlx", "draftin", "unknown option 'draftin', expected drafting or draft_model: did you mean drafting?"),
        ("gguf", "slot", "did you mean slots?"),
        ("speech", "voic", "did you mean voice?"),
        ("echo", "step", "did you mean step_ms?"),
        ("embeddings", "pooling", "unknown option 'pooling', expected none"),
        ("transcription", "x", "unknown option 'x', expected none"),
    ],
)
def test_an_option_that_nobody_reads_is_told_with_what_was_meant(
    tmp_path: Path, engine: str, name: str, told: str
) -> None:
    (tmp_path / "models.json").write_text(json.dumps([{"source": "m", "engine": engine, "options": {name: 1}}]))
    settings = load_settings({"config_dir": tmp_path}, environ={})
    (line,) = find_slips(settings, (), {})
    assert line.startswith(f"models.json: entry 0: options: {engine} engine: ")
    assert line.endswith(told)
    assert [*find_faults(settings)] == [], "its model alone fails, with the same words"


def test_every_fault_is_told_at_once_and_the_first_stops_who_reads_the_file(tmp_path: Path) -> None:
    models = [{"source": "a", "copies": -1}, {"source": "b", "hosts": "studio"}, {"source": "c", "pinned": "yes"}]
    (tmp_path / "models.json").write_text(json.dumps(models))
    (tmp_path / "gguf_config.json").write_text(json.dumps({"slots": "4", "port": 70_000}))
    remotes = [{"id": "a", "url": "ftp://x"}, {"id": "a", "url": "http://[", "slots": -1}, {"id": "b", "kee": "x"}]
    (tmp_path / "remotes.json").write_text(json.dumps(remotes))
    told = [*find_faults(load_settings({"config_dir": tmp_path}, environ={}))]
    assert [line.partition(":")[0] for line in told] == (
        ["models.json"] * 3 + ["remotes.json"] * 5 + ["gguf_config.json"] * 2
    )
    assert not any("config check" in line for line in told), "this is what tells them all"
    with pytest.raises(ConfigError, match=r"entry 0: `copies` -1.*\(2 more: `mlx-gateway config check`"):
        parse_models(models)


def test_a_long_value_is_shown_in_part() -> None:
    (line,) = models_faults([{"source": "m", "copies": "9" * 10_000}])
    assert len(line) < 300
