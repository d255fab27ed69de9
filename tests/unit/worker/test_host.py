"""Which models a host serves, as decisions, and how it sees that a model's files changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.errors import ConfigError
from shared.registry import ModelSpec
from shared.routing import Target
from worker.host.host import DEMO_MODEL, demo_model, give_drafts, merge_models, named_models, source_stamp
from worker.host.supervision import log_name


def _spec(name: str, source: str = "s") -> ModelSpec:
    return ModelSpec(id=name, source=source)


def test_a_folder_that_exists_wins_over_a_hugging_face_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "model").mkdir(parents=True)
    folder, hub = named_models(["org/model", "org/other"], "mlx")
    assert (folder.id, folder.source) == ("model", str(tmp_path / "org" / "model"))
    assert (hub.id, hub.source) == ("org/other", "org/other")


def test_the_command_line_wins_over_the_file() -> None:
    merged = merge_models([_spec("a", "named")], [_spec("a", "listed"), _spec("b")])
    assert {key: spec.source for key, spec in merged.items()} == {"a": "named", "b": "s"}


@pytest.mark.parametrize("place", ["named", "listed"])
def test_an_id_given_twice_is_refused(place: str) -> None:
    twice = [_spec("a", "one"), _spec("a", "two")]
    with pytest.raises(ConfigError, match=r"two models are called 'a'"):
        merge_models(**{"named": [], "listed": [], place: twice})


def test_a_tiers_draft_model_reaches_the_model_it_names_by_id_or_source() -> None:
    models = merge_models([], [_spec("coder", "org/coder"), _spec("big", "org/big"), _spec("tiny", "/models/tiny")])
    tiers = {
        "opus": Target(model="org/big", draft_model="org/small"),
        "sonnet": Target(model="coder", draft_model="tiny"),
        "fable": Target(model="coder", draft_model="tiny"),
        "haiku": Target(model="tiny"),
    }
    drafts = {key: spec.options.get("draft_model") for key, spec in give_drafts(models, tiers).items()}
    assert drafts == {"coder": "/models/tiny", "big": "org/small", "tiny": None}


def test_a_models_own_option_comes_before_its_tiers_draft_model() -> None:
    spec = ModelSpec(id="coder", source="s", options={"draft_model": "own", "drafting": "always"})
    assert give_drafts({"coder": spec}, {"opus": Target(model="coder", draft_model="other")}) == {"coder": spec}


def test_a_tier_that_names_a_draft_for_a_model_whose_engine_takes_none_is_refused() -> None:
    tiers = {"opus": Target(model="e", draft_model="d")}
    with pytest.raises(ConfigError, match=r"`draft_model` for 'e': engine echo takes none"):
        give_drafts({"e": ModelSpec(id="e", source="e", engine="echo")}, tiers)


def test_tiers_that_disagree_on_a_draft_model_are_refused() -> None:
    tiers = {"opus": Target(model="coder", draft_model="one"), "sonnet": Target(model="coder", draft_model="two")}
    with pytest.raises(ConfigError, match=r"two tiers name different draft models for 'coder'"):
        give_drafts({"coder": _spec("coder")}, tiers)


@pytest.mark.parametrize("name", ["org/model", "qwen:7b", "x" * 300, "../../etc", "模型"])
def test_any_models_log_has_a_name_that_a_folder_can_hold(name: str, tmp_path: Path) -> None:
    (tmp_path / log_name(name)).touch()
    assert [path.name for path in tmp_path.iterdir()] == [log_name(name)]


def test_the_demo_model_is_in_the_package() -> None:
    assert (DEMO_MODEL / "config.json").is_file()
    assert demo_model("mlx").source == str(DEMO_MODEL)
    assert demo_model("echo").engine == "echo"


def test_a_change_of_a_models_files_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "model"
    seen = [source_stamp(str(folder))]
    folder.mkdir()
    seen.append(source_stamp(str(folder)))
    (folder / "config.json").write_text("{}")
    seen.append(source_stamp(str(folder)))
    (folder / "config.json").write_text('{"model_type": "qwen3"}')
    seen.append(source_stamp(str(folder)))
    assert len(set(seen)) == len(seen)
    assert source_stamp(str(folder)) == seen[-1]


def test_a_model_that_arrives_in_the_hugging_face_cache_or_lm_studio_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "LMSTUDIO_MODELS_DIR"):
        monkeypatch.delenv(name, raising=False)
    before = source_stamp("org/model")
    (tmp_path / ".cache/huggingface/hub/models--org--model/snapshots/abc").mkdir(parents=True)
    cached = source_stamp("org/model")
    (tmp_path / ".lmstudio/models/org/model").mkdir(parents=True)
    assert len({before, cached, source_stamp("org/model")}) == 3
