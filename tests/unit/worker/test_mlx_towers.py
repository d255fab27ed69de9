"""Images that mlx-vlm embeds for models that mlx-lm computes: the answer is mlx-vlm's own, cold, cached, in pieces and
in company. Random checkpoints of each family: they show that the arithmetic is right, not that answers are any good.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from shared.errors import UnsupportedContentError
from shared.events import Failed, Started
from shared.messages import Message, TextPart
from shared.request import SamplingParams
from tests.models.vision_checkpoint import FAMILIES, build_vision_checkpoint
from tests.support.images import image_part, picture, shows
from tests.support.mlx_engine import Driver, message, request

pytest.importorskip("mlx_vlm", reason="the extra vision is not installed: pip install 'mlx-gateway[vision]'")

SYSTEM = message("system", "You describe what you see, in a few words and always in the same order of things.")


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_vision_checkpoint(request.param, tmp_path_factory.mktemp("model") / request.param)


def cold(folder: Path, *messages: Message) -> list[int]:
    """The tokens that an engine without a cache answers with."""
    driver = Driver(folder, cache_bytes=1)
    driver.run(request("cold", messages))
    return driver.tokens["cold"]


def cached_tokens(driver: Driver, key: str) -> int:
    return next(event.usage.cached_tokens for event in driver.events[key] if isinstance(event, Started))


def said_by_mlx_vlm(folder: Path, text: str, images: Sequence[Any]) -> tuple[list[int], list[int], list[float]]:
    """Prompt, answer and its log probabilities as mlx-vlm alone computes them, for a text with the template's marker
    for each image."""
    import mlx.core as mx
    from mlx_vlm.generate import generate_step
    from mlx_vlm.utils import load_model
    from transformers import AutoProcessor

    model, processor = load_model(folder), AutoProcessor.from_pretrained(folder)
    inputs = processor(text=text, images=list(images) or None)
    arrays = {name: mx.array(value) for name, value in inputs.items()}
    prompt, mask = (arrays.pop(name).reshape(1, -1) for name in ("input_ids", "attention_mask"))
    steps = generate_step(
        prompt, model, arrays.pop("pixel_values", None), mask, max_tokens=24, temperature=0.0, **arrays
    )
    tokens: Any = prompt[0].tolist()
    said = [(int(token), float(logprobs.reshape(-1)[int(token)])) for token, logprobs in steps]
    return tokens, [token for token, _ in said], [logprob for _, logprob in said]


def logprobs(driver: Driver, key: str) -> list[float]:
    told = (getattr(event, "logprobs", None) or () for event in driver.events[key])
    return [each.logprob for some in told for each in some]


def rendered(driver: Driver, system: str, user: str) -> str:
    dicts = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    tokenizer = driver.engine._model.tokenizer
    text: str = tokenizer.apply_chat_template(dicts, add_generation_prompt=True, tokenize=False)
    return text


def asked_about(*seeds: int) -> list[Message]:
    """A user's message with an image for each seed, of different sizes, between words."""
    parts = [
        part for seed in seeds for part in (TextPart(text=f"Number {seed} is "), image_part(seed, width=90 * seed))
    ]
    return [SYSTEM, Message(role="user", parts=(*parts, TextPart(text=" and what is it?")))]


def test_images_are_answered_as_mlx_vlm_answers_them(folder: Path) -> None:
    driver = Driver(folder)
    sampling = SamplingParams(max_tokens=24, temperature=0.0, top_logprobs=1)
    asked = request("a", asked_about(1, 3), sampling=sampling)
    prepared = driver.engine.prepare(asked)
    driver.run(asked)
    shown = FAMILIES[folder.name].shown
    text = rendered(driver, SYSTEM.parts[0].text, f"Number 1 is {shown}Number 3 is {shown} and what is it?")  # type: ignore[union-attr]
    prompt, answer, certain = said_by_mlx_vlm(folder, text, [picture(1, width=90), picture(3, width=270)])
    assert prepared.payload.prompt.tokens == prompt
    assert driver.engine.count(asked) == len(prompt)
    assert driver.tokens["a"] == answer
    assert logprobs(driver, "a") == pytest.approx(certain, abs=0.002)


def test_a_text_is_answered_as_mlx_vlm_answers_it(folder: Path) -> None:
    driver = Driver(folder)
    driver.run(request("a", [SYSTEM, message("user", "Nothing to see here, only words.")]))
    text = rendered(driver, SYSTEM.parts[0].text, "Nothing to see here, only words.")  # type: ignore[union-attr]
    assert driver.tokens["a"] == said_by_mlx_vlm(folder, text, [])[1]


def test_what_an_image_shows_and_where_it_stands_changes_the_answer(folder: Path) -> None:
    assert len({tuple(cold(folder, *asked_about(*seeds))) for seeds in ((1,), (2,), (1, 2), (2, 1))}) == 4


def test_a_second_turn_computes_only_what_is_new(folder: Path) -> None:
    driver = Driver(folder)
    asked = asked_about(2)
    (first,) = driver.run(request("first", asked))
    grown = [*asked, Message(role="assistant", parts=first.parts), message("user", "And what is behind it?")]
    driver.run(request("second", grown))
    assert cached_tokens(driver, "second") >= driver.engine.count(request("first", asked))
    assert driver.engine._vision is not None
    assert driver.engine._vision.images == 1
    anew = Driver(folder, cache_bytes=1)  # that has said the answer, too: noise is seldom spelt as it was said
    anew.run(request("first", asked))
    anew.run(request("second", grown))
    assert cached_tokens(anew, "second") == 0
    assert driver.tokens["second"] == anew.tokens["second"]


def test_another_image_of_the_same_size_is_not_taken_for_the_first(folder: Path) -> None:
    driver = Driver(folder)
    one, other = ([SYSTEM, shows(image_part(seed), "What is ", "?")] for seed in (1, 2))
    driver.run(request("one", one))
    driver.run(request("other", other))
    start = driver.engine.prepare(request("asked", other)).payload.prompt.spans[0].start
    assert 0 < cached_tokens(driver, "other") <= start
    assert driver.tokens["other"] == cold(folder, *other)


def test_an_image_longer_than_a_chunk_is_embedded_once_and_taken_up_in_its_middle(folder: Path) -> None:
    asked = [SYSTEM, shows(image_part(1, width=600, height=500), "What is ", "?")]
    driver = Driver(folder, prefill_step_tokens=16)
    span = driver.engine.prepare(request("a", asked)).payload.prompt.spans[0]
    driver.submit(request("left", asked))
    driver.step_until(lambda: driver.engine._sequences["left"].position > span.start + 20)
    driver.engine.cancel("left")
    driver.run(request("again", asked))
    assert driver.engine._vision is not None
    assert driver.engine._vision.images == 2
    assert driver.tokens["again"] == cold(folder, *asked)
    assert cached_tokens(driver, "again") > 0


def test_images_and_texts_in_one_batch_are_answered_as_alone(folder: Path) -> None:
    asked: dict[str, Sequence[Message]] = {
        "one": asked_about(2, 1),
        "two": asked_about(4),
        "text": [SYSTEM, message("user", "Nothing to see here, only words to answer.")],
    }
    driver = Driver(folder, prefill_step_tokens=64)
    driver.submit(*(request(key, messages) for key, messages in asked.items()))
    driver.step_until(lambda: driver.engine.stats().running == len(asked))
    assert driver.engine._decoder.groups == 1
    driver.step_until(lambda: not driver.engine.has_work())
    for key, messages in asked.items():
        assert driver.tokens[key] == cold(folder, *messages), key


def test_a_request_interrupted_for_memory_goes_on_as_it_would_have(folder: Path) -> None:
    driver, asked = Driver(folder), asked_about(3)
    driver.submit(request("a", asked))
    driver.step_until(lambda: len(driver.tokens["a"]) > 5)
    driver.engine._interrupt(driver.engine._sequences["a"])
    driver.engine.store.shrink(0)
    driver.step_until(lambda: not driver.engine.has_work())
    assert driver.tokens["a"] == cold(folder, *asked)


def test_images_come_back_from_the_disk_by_their_content(folder: Path, tmp_path: Path) -> None:
    asked = asked_about(2)
    settings: dict[str, Any] = {"state_dir": tmp_path, "ssd_cache_bytes": 1 << 30}
    before = Driver(folder, **settings)
    before.run(request("a", asked))
    before.engine.unload()
    after = Driver(folder, **settings)
    after.run(request("same", asked))
    start = after.engine.prepare(request("asked", asked)).payload.prompt.spans[0].start
    after.engine.unload()
    assert cached_tokens(after, "same") > start
    assert after.tokens["same"] == before.tokens["a"]


def test_an_image_that_is_cut_otherwise_is_another_to_the_cache(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / folder.name))
    config = copy / "preprocessor_config.json"
    config.write_text(config.read_text().replace("{", '{"note": "", ', 1))
    one, other = (Driver(path).engine.prepare(request("a", asked_about(1))).payload.prompt for path in (folder, copy))
    assert one.tokens == other.tokens
    assert one.spans[0].digest != other.spans[0].digest


def test_an_image_that_cannot_be_embedded_ends_only_its_request(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(folder)
    driver.submit(request("image", asked_about(1)), request("text", [message("user", "Only words.")]))
    assert driver.engine._vision is not None
    monkeypatch.setattr(driver.engine._vision._eyes, "_image", lambda tokens, pixels: [][1])
    driver.step_until(lambda: not driver.engine.has_work())
    failed = driver.events["image"][-1]
    assert isinstance(failed, Failed)
    assert (failed.code, failed.message[:24]) == ("unsupported_content", "Could not process image:")
    assert len(driver.tokens["text"]) == 24


def test_a_folder_without_a_processor_reads_text_and_says_why_not_images(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / folder.name))
    (copy / "preprocessor_config.json").unlink()
    driver = Driver(copy)
    driver.run(request("a", [message("user", "Only words.")]))
    with pytest.raises(UnsupportedContentError, match=r"cannot be loaded: .*preprocessor_config\.json"):
        driver.engine.prepare(request("b", asked_about(1)))
