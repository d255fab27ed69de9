"""Finding and loading models: offline, from everywhere they may lie, and with the reason when it cannot be done."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest

from shared.errors import ModelUnavailableError
from tests.support.models import CheckpointMaker
from worker.engines.mlx.model.fingerprint import read_prints
from worker.engines.mlx.model.models import (
    DEFAULT_CONTEXT_TOKENS,
    context_tokens_of,
    load,
)
from worker.model_folder import check_folder, find_model, made_at_s


@pytest.fixture
def folder(tmp_path: Path, random_checkpoint: CheckpointMaker) -> Path:
    """A model folder of the test's own, to be damaged."""
    return Path(shutil.copytree(random_checkpoint("full"), tmp_path / "model"))


def find(source: str, *, hub: Path | None = None, studio: Path | None = None) -> Path:
    return find_model(source, [hub] if hub else [], [studio] if studio else [])


def reason(act: Callable[[], object]) -> str:
    with pytest.raises(ModelUnavailableError) as caught:
        act()
    return caught.value.message


def load_it(folder: Path) -> object:
    return load(folder, max_context_tokens=0, report=lambda done: None)


# --- finding ------------------------------------------------------------------------------------------------------


def test_local_folder_is_taken_as_it_is(folder: Path) -> None:
    assert find(str(folder)) == folder


def hub_repository(hub: Path, name: str, snapshots: dict[str, bool], reference: str = "") -> Path:
    repository = hub / f"models--{name.replace('/', '--')}"
    for commit in snapshots:
        (repository / "snapshots" / commit).mkdir(parents=True)
    if reference:
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(reference)
    return repository


def test_cached_hugging_face_id_resolves_to_the_snapshot_of_main(tmp_path: Path) -> None:
    repository = hub_repository(tmp_path, "org/name", {"aaa": True, "bbb": True}, reference="bbb\n")
    assert find("org/name", hub=tmp_path) == repository / "snapshots" / "bbb"


def test_only_snapshot_serves_without_a_reference(tmp_path: Path) -> None:
    repository = hub_repository(tmp_path, "org/name", {"aaa": True})
    assert find("org/name", hub=tmp_path) == repository / "snapshots" / "aaa"


def test_incomplete_download_says_so(tmp_path: Path) -> None:
    hub_repository(tmp_path, "org/name", {"aaa": True}, reference="bbb")
    assert "incomplete" in reason(lambda: find("org/name", hub=tmp_path))


def test_lm_studio_folder_is_found_by_publisher_and_name(tmp_path: Path) -> None:
    (tmp_path / "publisher" / "model").mkdir(parents=True)
    assert find("publisher/model", studio=tmp_path) == tmp_path / "publisher" / "model"


def test_model_that_is_nowhere_names_the_places_looked_at(tmp_path: Path) -> None:
    message = reason(lambda: find("org/none", hub=tmp_path / "hub", studio=tmp_path / "studio"))
    assert "models--org--none" in message
    assert str(tmp_path / "studio" / "org" / "none") in message


def test_missing_path_and_files_are_told_apart(tmp_path: Path) -> None:
    assert "no such file or folder" in reason(lambda: find(str(tmp_path / "missing")))
    (tmp_path / "model.gguf").touch()
    (tmp_path / "model.bin").touch()
    assert "GGUF" in reason(lambda: find(str(tmp_path / "model.gguf")))
    assert "is a file" in reason(lambda: find(str(tmp_path / "model.bin")))


def test_a_models_date_is_that_of_its_config_wherever_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "models--org--name" / "snapshots" / "aaa"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").touch()
    os.utime(snapshot / "config.json", (1_700_000_000, 1_700_000_000.9))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert made_at_s("org/name") == made_at_s(str(snapshot)) == 1_700_000_000


@pytest.mark.parametrize("source", ["echo", "/no/such/folder", "~no-such-person/model"])
def test_what_has_no_files_has_no_date(source: str) -> None:
    assert made_at_s(source) == 0


@pytest.mark.parametrize("date_s", [-1, 2**33])
def test_an_impossible_date_is_none(tmp_path: Path, date_s: int) -> None:
    (tmp_path / "config.json").touch()
    os.utime(tmp_path / "config.json", (date_s, date_s))
    assert made_at_s(str(tmp_path)) == 0


@pytest.mark.parametrize(
    "index",
    [
        '{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}',
        '{"weight_map": {}}',
        '{"weight_map": ["model.safetensors"]}',
        "{}",
        "",
    ],
)
def test_an_index_left_behind_by_other_weights_does_not_matter(index: str, folder: Path) -> None:
    """mlx-lm reads no index either."""
    (folder / "model.safetensors.index.json").write_text(index)
    assert check_folder(folder)["model_type"]


def test_a_folder_of_which_a_part_is_missing_is_named(folder: Path) -> None:
    index = '{"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}'
    (folder / "model.safetensors.index.json").write_text(index)
    assert "lacks 1 of 2 weight files, e.g. model-2.safetensors" in reason(lambda: check_folder(folder))


# --- loading ------------------------------------------------------------------------------------------------------


def test_progress_runs_from_nothing_to_all(folder: Path) -> None:
    reported: list[float] = []
    loaded = load(folder, max_context_tokens=0, report=reported.append)
    assert reported == sorted(reported)
    assert (reported[0], reported[-1]) == (0.0, 1.0)
    assert len(reported) > 3
    assert loaded.context_tokens == json.loads((folder / "config.json").read_text())["max_position_embeddings"]


def rewrite(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5000])


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors.index.json",
    ],
)
def test_a_byte_order_mark_in_a_json_file_does_not_matter(name: str, folder: Path) -> None:
    plain = load_it(folder)
    path = folder / name
    path.write_bytes(b"\xef\xbb\xbf" + (path.read_bytes() if path.exists() else b"{}"))
    marked = load_it(folder)
    assert (marked.config, marked.defaults) == (plain.config, plain.defaults)
    assert marked.tokenizer.eos_token_ids == plain.tokenizer.eos_token_ids
    assert marked.tokenizer.encode("a b") == plain.tokenizer.encode("a b")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json"),
        (lambda f: (f / "config.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "config.json").write_text("[]"), "not a JSON object"),
        (lambda f: rewrite(f, model_type=7), "model_type"),
        (lambda f: rewrite(f, model_type="no_such_type"), "no_such_type"),
        (lambda f: rewrite(f, model_type="olmo"), "mlx-lm gave up"),
        (lambda f: rewrite(f, layer_types=["full_attention"]), "tokenizer"),
        (lambda f: rewrite(f, model_file="custom.py"), "its own model code"),
        (lambda f: rewrite(f, hidden_size=31), "cannot be loaded"),
        (lambda f: (f / "model.safetensors").unlink(), "no weights"),
        (lambda f: truncate(f / "model.safetensors"), "cut short"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 100), "not a safetensors file"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "not a safetensors file"),
        (lambda f: [(f / n).unlink() for n in ("tokenizer.json", "tokenizer_config.json")], "no tokenizer"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer"),
    ],
)
def test_what_cannot_be_loaded_says_why(damage: Callable[[Path], object], expected: str, folder: Path) -> None:
    damage(folder)
    assert expected in reason(lambda: load_it(folder))


def test_gguf_folder_is_told_from_an_empty_one(tmp_path: Path) -> None:
    assert "config.json" in reason(lambda: check_folder(tmp_path))
    (tmp_path / "model.gguf").touch()
    assert "GGUF" in reason(lambda: check_folder(tmp_path))


# --- facts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "tokenizer_limit", "cap", "expected"),
    [
        ({"max_position_embeddings": 4096}, 1 << 60, 0, 4096),
        ({"text_config": {"max_position_embeddings": 8192}}, 0, 0, 8192),
        ({"n_positions": 1024}, 0, 512, 512),
        ({}, 2048, 0, 2048),
        ({}, 1 << 60, 0, DEFAULT_CONTEXT_TOKENS),
        ({"max_position_embeddings": None}, 0, 100, 100),
    ],
)
def test_context_is_the_configs_else_the_tokenizers(
    config: dict[str, object], tokenizer_limit: int, cap: int, expected: int
) -> None:
    assert context_tokens_of(config, tokenizer_limit, cap) == expected


@pytest.mark.parametrize("tensor", range(0, 24, 3))
def test_fingerprint_notices_a_single_tensor_that_was_trained(
    tensor: int, tmp_path: Path, random_checkpoint: CheckpointMaker
) -> None:
    """Of the same name, shape and place in the file."""
    original = random_checkpoint("full", params=3e6)
    shutil.copytree(original, tmp_path / "trained")
    weights = mx.load(str(original / "model.safetensors"))
    name = sorted(weights)[tensor % len(weights)]
    mx.save_safetensors(
        str(tmp_path / "trained" / "model.safetensors"),
        {**weights, name: weights[name] + 1e-3},
        metadata={"format": "mlx"},
    )
    mx.save_safetensors(str(tmp_path / "same.safetensors"), weights, metadata={"format": "mlx"})
    shutil.copytree(original, tmp_path / "copy")
    shutil.copy(tmp_path / "same.safetensors", tmp_path / "copy" / "model.safetensors")
    trained, copy = read_prints(tmp_path / "trained"), read_prints(tmp_path / "copy")
    assert trained.fingerprint != copy.fingerprint
    assert trained.identity != copy.identity


def test_prints_follow_the_files_not_the_place(folder: Path, random_checkpoint: CheckpointMaker) -> None:
    assert read_prints(folder) == read_prints(random_checkpoint("full"))
    assert read_prints(folder).fingerprint != read_prints(random_checkpoint("full", seed=1)).fingerprint
    rewrite(folder, rope_theta=1.0)
    assert read_prints(folder).fingerprint != read_prints(random_checkpoint("full")).fingerprint


def test_another_template_is_another_model_with_the_same_caches(folder: Path) -> None:
    before = read_prints(folder)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    after = read_prints(folder)
    assert after.fingerprint == before.fingerprint
    assert after.identity != before.identity


def test_an_update_of_mlx_lm_leaves_caches_warm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read_prints(folder)
    monkeypatch.setattr("mlx_lm.__version__", "99.0")
    assert read_prints(folder) == before
    monkeypatch.setattr("worker.engines.mlx.model.fingerprint.CACHE_FORMAT", 2)
    assert read_prints(folder).fingerprint != before.fingerprint
    assert read_prints(folder).identity == before.identity


@pytest.mark.parametrize("named", [True, False], ids=["another end is named", "no end is named"])
def test_the_token_that_ends_a_turn_in_the_template_ends_an_answer(folder: Path, named: bool) -> None:
    other = "<|endoftext|>"
    for name, key, value in [
        ("config.json", "eos_token_id", 0),
        ("generation_config.json", "eos_token_id", 0),
        ("tokenizer_config.json", "eos_token", other),
    ]:
        path = folder / name
        config = json.loads(path.read_text())
        config.pop(key, None)
        path.write_text(json.dumps(config | ({key: value} if named else {})))
    tokenizer = load(folder, max_context_tokens=0, report=lambda done: None).tokenizer
    vocabulary = tokenizer.get_vocab()
    assert vocabulary["<|im_end|>"] in tokenizer.eos_token_ids
    assert (vocabulary[other] in tokenizer.eos_token_ids) is named


def test_ends_that_the_files_name_stay_as_they_are(folder: Path) -> None:
    tokenizer = load(folder, max_context_tokens=0, report=lambda done: None).tokenizer
    assert tokenizer.eos_token_ids == {tokenizer.get_vocab()["<|im_end|>"]}
