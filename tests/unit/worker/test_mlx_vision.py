"""Images through the engine: the answer is what mlx-lm computes for them, cold, cached, in pieces and in company."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import pytest
from mlx_lm.processors import load_processor
from mlx_lm.server import _decode_image
from mlx_lm.utils import load_model, load_tokenizer

from gateway.canonical import canonicalise
from gateway.dialects.registry import DIALECTS
from shared.errors import UnsupportedContentError
from shared.events import Failed, Started
from shared.messages import ImagePart, Message, TextPart, ToolCallPart, ToolResultPart
from shared.request import ToolDefinition
from shared.wire import decode_envelope, encode
from shared.work import Envelope, Generate
from tests.support.images import image_part, shows
from tests.support.mlx_engine import Driver, message, request
from tests.support.models import CheckpointMaker
from tests.support.muse_spark import run_muse_spark
from worker.prompt.image_files import ImageReader

SYSTEM = message("system", "You describe what you see, in a few words and always in the same order of things.")


@pytest.fixture(autouse=True)
def runs(monkeypatch: pytest.MonkeyPatch) -> None:
    run_muse_spark(monkeypatch)


@pytest.fixture
def folder(random_checkpoint: CheckpointMaker) -> Path:
    return random_checkpoint("vision")


def cold(folder: Path, *messages: Message, **more: Any) -> list[int]:
    """The tokens that an engine without a cache answers with."""
    driver = Driver(folder, cache_bytes=1)
    driver.run(request("cold", messages, **more))
    return driver.tokens["cold"]


def cached_tokens(driver: Driver, key: str) -> int:
    return next(event.usage.cached_tokens for event in driver.events[key] if isinstance(event, Started))


def first_patch(driver: Driver, *messages: Message) -> int:
    return driver.engine.prepare(request("asked", messages)).payload.prompt.spans[0].start


def said_by_mlx_lm(
    folder: Path, messages: list[dict[str, Any]], count: int, **more: Any
) -> tuple[list[int], list[int]]:
    """Prompt and answer as mlx-lm's server computes them."""
    model, config = load_model(folder)
    tokenizer = load_tokenizer(folder, eos_token_ids=config["eos_token_id"])
    parts = [part for item in messages if isinstance(item["content"], list) for part in item["content"]]
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **more)
    text, pixels = load_processor(model, config)(text, images=[_decode_image(url) for url in urls])
    prompt = tokenizer.encode(text, add_special_tokens=False)
    embeddings = model.embed_inputs(mx.array(prompt), pixel_values=pixels)
    responses = mlx_lm.stream_generate(model, tokenizer, prompt, max_tokens=count, input_embeddings=embeddings)
    return prompt, [response.token for response in responses]


def decodes_on_demand(reader: ImageReader) -> threading.Event:
    """From now on images are decoded once the event is set."""
    go, processor = threading.Event(), reader._processor

    def patient(text: str, *, images: Sequence[Any]) -> Any:
        assert go.wait(30)
        return processor(text, images=images)

    reader._processor = patient  # type: ignore[assignment]
    return go


def wire(part: ImagePart) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{part.data}"}}


def words(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def test_an_image_in_a_message_is_answered_as_mlx_lm_answers_it(folder: Path) -> None:
    one, other = image_part(1), image_part(2, width=300, height=60)
    driver = Driver(folder)
    asked = [SYSTEM, Message(role="user", parts=(TextPart(text="One "), one, TextPart(text=" two "), other))]
    prepared = driver.engine.prepare(request("a", asked))
    driver.run(request("a", asked))
    prompt, answer = said_by_mlx_lm(
        folder,
        [
            {"role": "system", "content": SYSTEM.parts[0].text},  # type: ignore[union-attr]
            {"role": "user", "content": [words("One "), wire(one), words(" two "), wire(other)]},
        ],
        24,
    )
    assert prepared.payload.prompt.tokens == prompt
    assert driver.tokens["a"] == answer
    assert driver.engine.count(request("a", asked)) == prepared.prompt_tokens == len(prompt)


@pytest.mark.slow
def test_pixels_are_let_go_once_they_are_embedded(folder: Path) -> None:
    driver = Driver(folder)
    assert driver.engine._vision is not None
    reader = driver.engine._vision._reader
    held = []
    for seed in range(3):
        prepared = driver.engine.prepare(request(str(seed), [SYSTEM, shows(image_part(seed), "What is ", "?")]))
        if seed == 1:
            reader._read.clear()  # so that this one is decoded again, and waited for
        driver.submit_prepared(prepared)
        driver.step_until(lambda: not driver.engine.has_work())
        held += [weakref.ref(read.pixels) for read in reader._read.values()]
    reader._read.clear()
    gc.collect()
    assert len(held) > 3
    assert [reference() for reference in held] == [None] * len(held)


def test_what_an_image_shows_changes_the_answer(folder: Path) -> None:
    answers = {tuple(cold(folder, SYSTEM, shows(image_part(seed), "What is ", "?"))) for seed in range(3)}
    assert len(answers) == 3


def test_an_image_in_a_tool_result_is_answered_as_mlx_lm_answers_it(folder: Path) -> None:
    part = image_part(3)
    tool = ToolDefinition(name="read", description="Reads a file", parameters={"type": "object", "properties": {}})
    asked = [
        message("user", "What does a.png show?"),
        Message(role="assistant", parts=(ToolCallPart(id="call00000", name="read", arguments='{"path": "a.png"}'),)),
        Message(role="tool", parts=(ToolResultPart(call_id="call00000", parts=(TextPart(text="a.png "), part)),)),
    ]
    driver = Driver(folder)
    driver.run(request("a", asked, tools=(tool,)))
    call = {"type": "function", "function": {"name": "read", "arguments": {"path": "a.png"}}}
    definition = {"name": "read", "description": "Reads a file", "parameters": {"type": "object", "properties": {}}}
    prompt, answer = said_by_mlx_lm(
        folder,
        [
            {"role": "user", "content": "What does a.png show?"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": [words("a.png "), wire(part)]},
        ],
        24,
        tools=[{"type": "function", "function": definition}],
    )
    assert driver.engine.count(request("a", asked, tools=(tool,))) == len(prompt)
    assert driver.tokens["a"] == answer


def test_a_second_turn_computes_only_what_is_new(folder: Path) -> None:
    driver = Driver(folder)
    asked = [SYSTEM, shows(image_part(1), "What is ", "?")]
    (first,) = driver.run(request("first", asked))
    grown = [*asked, Message(role="assistant", parts=first.parts), message("user", "And what is behind it?")]
    driver.run(request("second", grown))
    held = driver.engine.count(request("first", asked))
    assert cached_tokens(driver, "second") >= held
    assert driver.tokens["second"] == cold(folder, *grown)
    assert driver.engine._vision is not None
    assert driver.engine._vision.images == 1


def test_another_image_of_the_same_size_is_not_taken_for_the_first(folder: Path) -> None:
    driver = Driver(folder)
    driver.run(request("one", [SYSTEM, shows(image_part(1), "What is ", "?")]))
    other = [SYSTEM, shows(image_part(2), "What is ", "?")]
    driver.run(request("other", other))
    assert 0 < cached_tokens(driver, "other") <= first_patch(driver, *other)
    assert driver.tokens["other"] == cold(folder, *other)


def test_the_same_image_of_another_tenant_is_computed_anew(folder: Path) -> None:
    driver = Driver(folder)
    asked = [SYSTEM, shows(image_part(1), "What is ", "?")]
    driver.run(request("mine", asked, tenant="a"))
    driver.run(request("again", asked, tenant="a"), request("theirs", asked, tenant="b"))
    assert cached_tokens(driver, "again") > first_patch(driver, *asked)
    assert cached_tokens(driver, "theirs") == 0


def test_an_image_longer_than_a_chunk_is_embedded_once(folder: Path) -> None:
    asked = [SYSTEM, shows(image_part(1, width=600, height=500), "What is ", "?")]
    driver = Driver(folder, prefill_step_tokens=64)
    driver.run(request("a", asked))
    span = driver.engine.prepare(request("a", asked)).payload.prompt.spans[0]
    assert span.end - span.start > 3 * 64
    assert driver.engine._vision is not None
    assert driver.engine._vision.images == 1
    assert driver.tokens["a"] == cold(folder, *asked)


def test_a_request_cancelled_inside_an_image_leaves_what_the_next_one_takes_up(folder: Path) -> None:
    asked = [SYSTEM, shows(image_part(1, width=600, height=500), "What is ", "?")]
    driver = Driver(folder, prefill_step_tokens=64)
    span = driver.engine.prepare(request("a", asked)).payload.prompt.spans[0]
    driver.submit(request("left", asked))
    driver.step_until(lambda: driver.engine._sequences["left"].position > span.start + 40)
    driver.engine.cancel("left")
    driver.run(request("again", asked))
    assert span.start < cached_tokens(driver, "again") < span.end
    assert driver.tokens["again"] == cold(folder, *asked)


def test_images_come_back_from_the_disk_by_their_content(folder: Path, tmp_path: Path) -> None:
    asked = [SYSTEM, shows(image_part(1), "What is ", "?")]
    other = [SYSTEM, shows(image_part(2), "What is ", "?")]
    settings: dict[str, Any] = {"state_dir": tmp_path, "ssd_cache_bytes": 1 << 30}
    before = Driver(folder, **settings)
    before.run(request("a", asked))
    before.engine.unload()
    after = Driver(folder, **settings)
    after.run(request("same", asked))
    after.run(request("other", other))
    start = first_patch(after, *asked)
    after.engine.unload()
    assert cached_tokens(after, "same") > start
    assert cached_tokens(after, "other") <= start
    assert after.tokens["same"] == before.tokens["a"]
    assert after.tokens["other"] == cold(folder, *other)


def test_images_and_texts_in_one_batch_are_answered_as_alone(folder: Path) -> None:
    asked: dict[str, Sequence[Message]] = {
        "one": [SYSTEM, shows(image_part(1), "What is ", "?")],
        "two": [SYSTEM, shows(image_part(2, width=500), "And ", "?")],
        "text": [SYSTEM, message("user", "Nothing to see here, only words to answer.")],
        "same": [message("system", "Be brief."), shows(image_part(1), "What is ", "?")],
    }
    driver = Driver(folder, prefill_step_tokens=64)
    driver.run(*(request(key, messages) for key, messages in asked.items()))
    for key, messages in asked.items():
        assert driver.tokens[key] == cold(folder, *messages), key


def test_a_request_interrupted_for_memory_sees_its_image_again(folder: Path) -> None:
    """And not another one of the same size that was interrupted before."""
    driver = Driver(folder)
    for seed in (1, 2):
        key, asked = str(seed), [SYSTEM, shows(image_part(seed), "What is ", "?")]
        driver.submit(request(key, asked))
        driver.step_until(lambda key=key: len(driver.tokens[key]) > 5)  # type: ignore[misc]
        driver.engine._interrupt(driver.engine._sequences[key])
        if seed == 1:
            driver.engine.store.shrink(0)
        driver.step_until(lambda: not driver.engine.has_work())
        assert driver.tokens[key] == cold(folder, *asked)
    assert driver.engine._vision is not None
    assert driver.engine._vision.images == 3


def test_prompts_and_streams_go_on_while_an_image_is_decoded(folder: Path) -> None:
    driver = Driver(folder)
    assert driver.engine._vision is not None
    reader = driver.engine._vision._reader
    asked = request("image", [SYSTEM, shows(image_part(1), "What is ", "?")])
    prepared = driver.engine.prepare(asked)
    reader._read.clear()
    go = decodes_on_demand(reader)
    driver.submit(request("text", [SYSTEM, message("user", "Many words. " * 200)], max_tokens=40))
    driver.submit_prepared(prepared)
    driver.step_until(lambda: len(driver.tokens["text"]) == 40)
    assert not driver.tokens["image"]
    go.set()
    driver.step_until(lambda: not driver.engine.has_work(), steps=100_000)
    assert driver.tokens["image"] == cold(folder, *asked.messages)


def test_a_prompt_is_computed_up_to_the_image_that_is_being_decoded(folder: Path) -> None:
    first, second = image_part(1), image_part(2)
    grown = [shows(first, "Many words. " * 20, " and "), message("assistant", "Yes."), shows(second, "Now ", "?")]
    asked = request("a", grown)
    driver = Driver(folder)
    assert driver.engine._vision is not None
    reader = driver.engine._vision._reader
    prepared = driver.engine.prepare(asked)
    spans = prepared.payload.prompt.spans
    del reader._read[spans[1].digest]
    go = decodes_on_demand(reader)
    driver.submit_prepared(prepared)
    driver.step_until(lambda: driver.engine._sequences["a"].position == spans[1].start)
    for _ in range(3):
        driver.step()
    assert driver.engine._sequences["a"].position == spans[1].start
    go.set()
    driver.step_until(lambda: not driver.engine.has_work(), steps=100_000)
    assert driver.tokens["a"] == cold(folder, *asked.messages)


@pytest.mark.parametrize("dialect", ["anthropic", "openai_chat"])
def test_images_of_both_dialects_reach_the_model(folder: Path, dialect: str) -> None:
    part = image_part(1)
    source = {"type": "base64", "media_type": part.media_type, "data": part.data}
    image = {"type": "image", "source": source} if dialect == "anthropic" else wire(part)
    asked = [{"role": "user", "content": [words("What is "), image, words("?")]}]
    body = {"model": "m", "max_tokens": 24, "temperature": 0.0, "messages": asked}
    parsed = DIALECTS[dialect].parse_request(body, {}, request_id="a").request
    (sent,) = [decode_envelope(encode(Envelope(work=Generate(request=canonicalise(parsed)), gateway="g"))).request]
    driver = Driver(folder)
    (answer,) = driver.run(sent)
    messages = [{"role": "user", "content": [words("What is "), wire(part), words("?")]}]
    prompt, expected = said_by_mlx_lm(folder, messages, 24)
    assert driver.tokens["a"] == expected
    assert answer.usage.input_tokens == len(prompt)
    assert (answer.usage.cached_tokens, answer.usage.output_tokens) == (0, 24)


def test_an_image_that_vanishes_between_preparing_and_reading_ends_only_its_request(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(folder)
    assert driver.engine._vision is not None
    reader = driver.engine._vision._reader
    prepared = driver.engine.prepare(request("a", [SYSTEM, shows(image_part(1), "What is ", "?")]))
    reader._read.clear()

    def broken(text: str, *, images: Sequence[Any]) -> Any:
        raise ValueError("no grid fits")

    reader._processor = broken  # type: ignore[assignment]
    driver.submit_prepared(prepared)
    driver.step_until(lambda: not driver.engine.has_work(), steps=100_000)
    failed = driver.events["a"][-1]
    assert isinstance(failed, Failed)
    assert failed.code == "unsupported_content"
    driver.check()


def test_a_model_without_eyes_refuses_in_the_words_on_which_clients_strip_images(
    random_checkpoint: CheckpointMaker,
) -> None:
    driver = Driver(random_checkpoint("full"))
    with pytest.raises(UnsupportedContentError) as refused:
        driver.engine.prepare(request("a", [shows(image_part(1), "What is ", "?")]))
    assert refused.value.message == "Could not process image: this model reads text only"
