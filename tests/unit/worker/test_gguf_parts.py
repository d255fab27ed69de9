"""The GGUF engine's decisions, without a server."""

from __future__ import annotations

import contextlib
import socket
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.errors import ConfigError, ModelUnavailableError, OverloadedError, PromptTooLongError
from shared.registry import parse_models
from shared.routing import Target
from worker.engines.gguf import command
from worker.engines.gguf.completion import Chunk, Defaults, parse_chunk, told_tokens, translate
from worker.engines.gguf.model_file import GgufModel, find_gguf, read_model
from worker.engines.gguf.options import parse_options
from worker.engines.gguf.server import LlamaServer
from worker.engines.gguf.slot_files import LEAST_TOKENS, SlotFiles
from worker.engines.gguf.slots import Slots
from worker.engines.gguf.tokenizer import GgufTokenizer
from worker.engines.gguf.vocabulary import Vocabulary
from worker.engines.gguf.window import plan_window
from worker.host.host import add_tier_models, named_models


def test_a_prompt_gets_the_slot_that_has_most_of_it() -> None:
    slots = Slots(3)
    first, _ = slots.take([1, 2, 3, 4], "")
    slots.give_back(first, [1, 2, 3, 4, 5], "")
    again, common = slots.take([1, 2, 3, 4, 5, 6], "")
    assert (again.number, common) == (first.number, 5)
    busy, common = slots.take([1, 2, 3, 4, 5, 6], "")  # the slot is at work
    assert (busy.number != first.number, common) == (True, 0)


def test_a_short_common_beginning_takes_nobodys_slot() -> None:
    slots = Slots(2)
    first, _ = slots.take([1, 2], "")
    slots.give_back(first, [1, 2, *range(100, 200)], "")
    other, _ = slots.take([1, 2, *range(300, 400)], "")
    assert other.number != first.number


def test_the_longest_unused_slot_goes_and_tenants_share_nothing() -> None:
    slots = Slots(2)
    for tokens in ([1], [2]):
        slot, _ = slots.take(tokens, "a")
        slots.give_back(slot, tokens * 50, "a")
    slot, common = slots.take([2] * 50, "b")
    assert (slot.tokens[0], common) == (1, 0)


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), max_size=30))
def test_a_slot_is_never_given_twice(prompts: list[list[int]]) -> None:
    slots = Slots(2)
    held: list[tuple[object, list[int]]] = []
    for prompt in prompts:
        if len(held) == 2:
            slot, tokens = held.pop(0)
            slots.give_back(slot, tokens, "")  # type: ignore[arg-type]
        slot, common = slots.take(prompt, "")
        assert all(slot is not other for other, _ in held)
        assert slot.tokens[:common] == prompt[:common]
        held.append((slot, prompt))


def test_tokens_that_were_held_back_are_found_by_their_bytes() -> None:
    pieces = [b"a", b"\xf0", b"\x9f", b"\x91\x8b", b"\x8b", b"\xf0\x9f"]
    by_bytes = {piece: index for index, piece in enumerate(pieces)}
    chunk = Chunk(content="\N{WAVING HAND SIGN}", tokens=(3,), predicted=5)
    assert told_tokens(chunk, 3, pieces, by_bytes) == (5, 3)
    assert told_tokens(chunk, 2, pieces, by_bytes) == (1, 2, 3)
    assert told_tokens(chunk, 4, pieces, by_bytes) == (3,)
    assert told_tokens(Chunk(content="a", tokens=(0,), predicted=9), 2, pieces, by_bytes) == (0,)  # no such way


def test_the_servers_errors_are_told_by_their_meaning() -> None:
    long = {"error": {"type": "exceed_context_size_error", "message": "m", "n_prompt_tokens": 9, "n_ctx": 4}}
    error = translate(400, long)
    assert isinstance(error, PromptTooLongError)
    assert error.details == {"prompt_tokens": 9, "context_tokens": 4}
    assert isinstance(translate(503, {"error": {"message": "Loading model"}}), OverloadedError)
    with pytest.raises(PromptTooLongError):
        parse_chunk({"error": {"code": 500, "message": "Context size has been exceeded."}})


def test_the_window_is_what_memory_has_room_for() -> None:
    roomy = plan_window(trained_tokens=131072, token_bytes=1000, free_bytes=1 << 40)
    assert (roomy.context_tokens, roomy.slots) == (32768, 4)
    tight = plan_window(trained_tokens=131072, token_bytes=100_000, free_bytes=2 << 30)
    assert tight.slots == 2
    assert tight.total_tokens * 100_000 <= 2 << 30
    set_ = plan_window(trained_tokens=131072, token_bytes=100_000, free_bytes=0, wanted_tokens=65536, slots=2)
    assert (set_.context_tokens, set_.slots) == (65536, 2)
    assert plan_window(trained_tokens=2048, token_bytes=1, free_bytes=1 << 40).context_tokens == 2048


def test_saved_slots_are_found_by_their_prefix_and_the_oldest_go(tmp_path: Path) -> None:
    files = SlotFiles(tmp_path, 2500)
    files.open()
    kept = {name: [index, *range(LEAST_TOKENS + 10)] for index, name in enumerate("abc")}
    for name, tokens in kept.items():
        (tmp_path / f"{name}.slot").write_bytes(b"x" * 1000)
        files.add(f"{name}.slot", tokens, "t")
    again = SlotFiles(tmp_path, 2500)
    again.open()
    assert again.find([*kept["a"], 1], "t", beyond=0) is None  # more than may be kept: the first went
    found = again.find([*kept["c"], 1], "t", beyond=0)
    assert found is not None
    assert found.name == "c.slot"
    assert again.find([*kept["c"], 1], "other", beyond=0) is None
    assert again.find([*kept["c"], 1], "t", beyond=LEAST_TOKENS) is None
    (tmp_path / "b.tokens").write_bytes(b"damaged")
    third = SlotFiles(tmp_path, 2500)
    third.open()
    assert third.find(kept["b"], "t", beyond=0) is None
    assert not (tmp_path / "b.slot").exists()


def test_a_missing_server_says_what_installs_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    with pytest.raises(ModelUnavailableError, match=r"pip install 'mlx-gateway.*brew install llama\.cpp"):
        command.find_program("")
    (tmp_path / "llama-server").write_text("#!/bin/sh\n")
    (tmp_path / "llama-server").chmod(0o755)
    assert command.find_program("").command == (str(tmp_path / "llama-server"),)


def test_a_port_that_is_taken_is_told_and_another_is_used(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        server = LlamaServer(lambda port: (), port=taken, weight_bytes=1)
        assert server._choose_port(is_first=True) not in (0, taken)
    assert f"port {taken} of gguf_config.json is taken" in caplog.text


def test_options_of_a_model_come_before_those_of_all() -> None:
    config = {"slots": 2, "default_args": ["-ngl", 99], "models": {"m": {"slots": 3, "port": 9000}}}
    options = parse_options(config, "m", {"port": "9001", "draft_model": "d.gguf"})
    assert (options.slots, options.port, options.draft, options.default_args) == (3, 9001, "d.gguf", ("-ngl", "99"))
    assert parse_options(config, "other", {}).slots == 2
    for wrong in ({"slot": 2}, {"slots": "many"}, {"default_args": "-ngl"}, {"auto_start": 3}, {"models": []}, []):
        with pytest.raises(ConfigError, match=r"gguf_config\.json"):
            parse_options(wrong, "m", {})


def test_a_sentencepiece_vocabulary_is_spelled_in_bytes() -> None:
    values = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["<s>", "\u2581a", "<0xF0>", "b"],
        "tokenizer.ggml.token_type": [3, 1, 6, 1],
        "tokenizer.ggml.eos_token_id": 0,
    }
    vocabulary = Vocabulary.of(values)
    assert list(vocabulary.table.pieces) == [b"<s>", b" a", b"\xf0", b"b"]
    assert vocabulary.table.trims
    assert vocabulary.ends == {0}
    with pytest.raises(ModelUnavailableError, match="no vocabulary"):
        Vocabulary.of({})


def test_a_folder_with_several_models_asks_which(tmp_path: Path) -> None:
    for name in ("a-Q4.gguf", "b-00001-of-00002.gguf", "b-00002-of-00002.gguf", "mmproj-a.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(ModelUnavailableError, match=r"choose one .* of a-Q4\.gguf, b-00001-of-00002\.gguf"):
        find_gguf(str(tmp_path))
    assert find_gguf(str(tmp_path), "a-Q4.gguf").name == "a-Q4.gguf"


def test_gguf_files_and_folders_get_their_engine_without_a_word(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "x.gguf").write_bytes(b"GGUF")
    specs = named_models([str(folder), str(folder / "x.gguf"), "org/name"], "mlx")
    assert [spec.engine for spec in specs] == ["gguf", "gguf", "mlx"]
    (listed,) = parse_models({"models": [{"source": "~/x.gguf"}]})
    assert listed.engine == "gguf"
    (named,) = parse_models({"models": [{"source": "org/name", "backend": "gguf"}]})
    assert named.engine == "gguf"


def test_a_tier_may_name_a_model_with_its_backend() -> None:
    models = add_tier_models({}, {"opus": Target(model="org/big", backend="gguf")})
    assert [(spec.id, spec.engine, spec.load) for spec in models.values()] == [("org/big", "gguf", "on-demand")]
    with pytest.raises(ConfigError, match="is served by gguf"):
        add_tier_models(models, {"haiku": Target(model="org/big", backend="mlx")})


# --- files that are damaged, or lie ---------------------------------------------------------------------------------


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def u32(value: int) -> bytes:
    return struct.pack("<II", 4, value)


def array(kind: int, *items: bytes) -> bytes:
    return struct.pack("<IIQ", 9, kind, len(items)) + b"".join(items)


GOOD = {
    "general.architecture": struct.pack("<I", 8) + text("qwen3"),
    "qwen3.block_count": u32(2),
    "qwen3.embedding_length": u32(64),
    "qwen3.attention.head_count": u32(4),
    "tokenizer.ggml.tokens": array(8, text("a"), text("b")),
}


def load(folder: Path, *, tensors: bytes = b"", count: int = 0, **changed: bytes) -> GgufModel:
    """As a worker does, until its server is asked for."""
    values = GOOD | {name.replace("__", "."): value for name, value in changed.items()}
    pairs = b"".join(text(name) + value for name, value in values.items())
    path = folder / "model.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, count, len(values)) + pairs + tensors)
    model = read_model(path)
    tokenizer = GgufTokenizer(Vocabulary.of(model.values), model.values, lambda *_: [0])
    assert tokenizer.backend_tokenizer.to_str()
    Defaults.of(model.values)
    plan_window(trained_tokens=model.context_tokens, token_bytes=model.token_bytes, free_bytes=1_000_000)
    return model


def test_what_a_file_says_of_itself_is_read(tmp_path: Path) -> None:
    assert load(tmp_path).token_bytes == 2 * (4 + 4) * (16 + 16)
    per_layer = array(4, struct.pack("<I", 1), struct.pack("<I", 0))
    assert load(tmp_path, qwen3__attention__head_count_kv=per_layer).token_bytes == 2 * 1 * (16 + 16)


@pytest.mark.parametrize(
    "changed",
    [
        {"general__alignment": array(4)[:-8] + struct.pack("<Q", 1) + struct.pack("<I", 32)},
        {"general__alignment": struct.pack("<If", 6, float("nan"))},
        {"general__alignment": u32(0xFFFFFFFF)},
        {"qwen3__block_count": u32(0xFFFFFFFF)},  # a list of as many would be 32 GB
        {"qwen3__block_count": struct.pack("<I", 8) + text("many")},
        {"qwen3__embedding_length": struct.pack("<If", 6, float("inf"))},
        {"qwen3__context_length": struct.pack("<Iq", 11, -5)},
        {"qwen3__attention__head_count": array(8, text("four"))},
        {"tokenizer__ggml__tokens": array(4, struct.pack("<I", 1))},
        {"tokenizer__ggml__token_type": array(8, text("normal"))},
        {"tokenizer__ggml__merges": u32(7)},
        {"qwen3__nested": struct.pack("<IIQ", 9, 9, 1)},
        {"qwen3__endless": struct.pack("<IIQ", 9, 0, 1 << 63)},
    ],
)
def test_a_file_that_says_what_cannot_be_is_refused_with_its_reason(tmp_path: Path, changed: dict[str, bytes]) -> None:
    with pytest.raises(ModelUnavailableError, match="damaged"):
        load(tmp_path, **changed)


def test_a_tensor_of_millions_of_dimensions_is_not_counted(tmp_path: Path) -> None:
    tensors = text("t") + struct.pack("<I", 1 << 20) + b"\xff" * (8 << 20)
    with pytest.raises(ModelUnavailableError, match="1048576 dimensions"):
        load(tmp_path, tensors=tensors, count=1)


def test_sampling_that_is_no_number_is_as_usual(tmp_path: Path) -> None:
    for value in (float("nan"), float("inf")):
        load(tmp_path, general__sampling__top_k=struct.pack("<If", 6, value))


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 0.999), junk=st.binary(min_size=1, max_size=12), cut=st.booleans())
def test_whatever_bytes_are_wrong_a_file_is_loaded_or_refused(
    tmp_path: Path, place: float, junk: bytes, cut: bool
) -> None:
    load(tmp_path)
    path = tmp_path / "model.gguf"
    data = bytearray(path.read_bytes())
    at = int(place * len(data))
    data[at : at + len(junk)] = b"" if cut else junk
    path.write_bytes(data)
    with contextlib.suppress(ModelUnavailableError):
        model = read_model(path)
        GgufTokenizer(Vocabulary.of(model.values), model.values, lambda *_: [0])
        Defaults.of(model.values)
