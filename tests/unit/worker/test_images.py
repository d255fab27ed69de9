"""Images on their way to a prompt: what is refused, and in which words; what templates make of the others."""

from __future__ import annotations

import base64
import io
import threading
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlx_lm.processors.muse_spark import Processor
from mlx_lm.utils import load_tokenizer
from PIL import Image

from shared.errors import UnsupportedContentError
from shared.messages import ImagePart, Message, TextPart, ToolCallPart, ToolResultPart
from shared.request import GenerateRequest
from tests.models.random_checkpoint import TEMPLATE
from tests.support.images import encoded, image_part, picture, shows
from tests.support.models import CheckpointMaker
from worker.prompt import Prompt, PromptBuilder, Said
from worker.prompt import image_files as images
from worker.prompt.image_files import MAX_BASE64_BYTES, ImageReader, decode_image
from worker.prompt.image_pieces import ImageSpan, cache_keys

SHOWS_IMAGE = "{{ '<|patch|>' if p.type in ('image', 'image_url') else p.text or '' }}"


def part(data: str, **more: str) -> ImagePart:
    return ImagePart(media_type="image/png", data=data, **more)


def png_of_size(width: int, height: int) -> str:
    """A PNG that says it is so large, without the pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    file = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return base64.b64encode(file).decode()


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (part("not base64!"), "its data is not base64"),
        (part("aGVsbG8="), "its data is not a PNG, JPEG, GIF or WebP image"),
        (part(encoded(picture(), "BMP")), "its data is not a PNG, JPEG, GIF or WebP image"),
        (part(encoded(picture(width=400, height=400))[:2000]), "it cannot be decoded"),
        (part("A" * (MAX_BASE64_BYTES + 4)), "image exceeds 5 MB maximum: 5242884 bytes > 5242880 bytes"),
        (part(png_of_size(8001, 20)), "dimensions exceed max allowed size: 8000 pixels (8001 x 20)"),
        (part(png_of_size(60000, 60000)), "dimensions exceed max allowed size: 8000 pixels"),
        (
            ImagePart(media_type="", url="https://example.org/a.png"),
            "image URLs are not fetched, send the image itself",
        ),
    ],
    ids=["no base64", "no image", "other format", "cut short", "too many bytes", "too wide", "bomb", "url"],
)
def test_what_is_no_image_is_refused_in_words_that_clients_know(image: ImagePart, words: str) -> None:
    with pytest.raises(UnsupportedContentError) as refused:
        ImageReader(Processor()).read(image)
    assert refused.value.message.startswith("Could not process image: ")
    assert words in refused.value.message


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP"])
def test_every_format_of_the_messages_api_is_decoded(form: str) -> None:
    shown = decode_image(encoded(picture(), form))
    assert shown.shape == (90, 130, 3)
    assert np.abs(shown.astype(int) - np.asarray(picture()).astype(int)).mean() < 40


def test_lines_in_base64_and_the_camera_that_lay_on_its_side_are_understood() -> None:
    wide = picture()
    tags = Image.Exif()
    tags[0x0112] = 6  # the upper edge is on the right
    file = io.BytesIO()
    wide.save(file, "JPEG", exif=tags)
    upright = decode_image(base64.encodebytes(file.getvalue()).decode())
    assert upright.shape == (130, 90, 3)


def test_an_image_is_processed_once_and_its_pixels_are_those_of_the_processor() -> None:
    calls: list[int] = []

    class Counting(Processor):
        def __call__(self, text: str, *, images: Sequence[Any]) -> Any:
            calls.append(len(images))
            return super().__call__(text, images=images)

    reader = ImageReader(Counting())
    image = reader.read(image_part(1))
    assert reader.read(image_part(1)) == image
    pixels = reader.pixels(image).result(40)
    assert calls == [1]
    _, (expected,) = Processor()("<|patch|>", images=[np.asarray(picture(1))])
    assert np.array_equal(pixels, np.array(expected))
    assert image.text == "<|image_start|>" + "<|patch|>" * image.tokens + "<|image_end|>"
    reader._read.clear()
    assert np.array_equal(reader.pixels(image).result(40), np.array(expected))
    assert calls == [1, 1]
    reader.close()


def test_an_image_that_many_ask_for_at_once_is_processed_once() -> None:
    calls: list[int] = []
    together = threading.Barrier(6)

    class Counting(Processor):
        def __call__(self, text: str, *, images: Sequence[Any]) -> Any:
            calls.append(len(images))
            return super().__call__(text, images=images)

    reader = ImageReader(Counting())

    def ask(_: int) -> bytes:
        together.wait(40)
        return reader.read(image_part(1)).digest

    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(ask, range(6)))) == 1
    assert len(calls) <= 2  # as many as may be at work at a time


def test_the_pixels_of_old_images_are_forgotten_but_not_how_many_tokens_they_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reader = ImageReader(Processor())
    one = reader.read(image_part(0))
    size = reader.pixels(one).result(40).nbytes
    monkeypatch.setattr(images, "_PIXEL_MEMO_BYTES", 3 * size)
    for seed in range(8):
        reader.read(image_part(seed))
    assert len(reader._read) == 3
    assert reader._read_bytes == 3 * size
    assert reader.read(image_part(0)) == one
    assert len(reader._read) == 3
    reader.close()


def test_cache_keys_are_an_images_own() -> None:
    tokens = [5, 9, 9, 9, 6]

    def keys(name: bytes) -> list[int]:
        return list(cache_keys(tokens, [ImageSpan(start=1, end=4, digest=name)]))

    assert keys(b"a") == keys(b"a")
    assert keys(b"a")[0] == 5
    assert keys(b"a")[-1] == 6
    assert not set(keys(b"a")[1:4]) & set(keys(b"b")[1:4])
    assert all(1 << 31 <= key < 1 << 32 for key in keys(b"a")[1:4])


# --- templates -----------------------------------------------------------------------------------------------


def builder(folder: Path, template: str) -> PromptBuilder:
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = template
    return PromptBuilder(tokenizer, context_tokens=10_000, images=ImageReader(Processor()))


def build(folder: Path, template: str, *messages: Message) -> tuple[Prompt, str]:
    prompt = builder(folder, template).build(GenerateRequest(id="a", model="m", messages=messages))
    text = load_tokenizer(folder).decode(prompt.tokens)
    for span in reversed(prompt.spans):
        assert prompt.images[span.digest].tokens == span.end - span.start
    return prompt, text


def asked_with_result(*parts: TextPart | ImagePart) -> list[Message]:
    call = ToolCallPart(id="call00000", name="read", arguments="{}")
    return [
        Message(role="user", parts=(TextPart(text="What is in it?"),)),
        Message(role="assistant", parts=(call,)),
        Message(role="tool", parts=(ToolResultPart(call_id="call00000", parts=parts),)),
    ]


@pytest.fixture
def folder(random_checkpoint: CheckpointMaker) -> Path:
    return random_checkpoint("vision")


@pytest.mark.parametrize("form", ["image", "image_url"])
def test_an_image_is_given_to_a_template_in_the_form_that_it_knows(folder: Path, form: str) -> None:
    template = TEMPLATE.replace("('image', 'image_url')", f"('{form}',)")
    prompt, _ = build(folder, template, shows(image_part(1), "before", "after"))
    assert len(prompt.spans) == 1


def test_a_template_that_shows_no_images_makes_a_model_that_reads_text_only(folder: Path) -> None:
    template = TEMPLATE.replace(SHOWS_IMAGE, "{{ p.text or '' }}")
    assert template != TEMPLATE
    blind = builder(folder, template)
    assert not blind.supports_images
    with pytest.raises(UnsupportedContentError, match=r"^Could not process image: this model reads text only$"):
        blind.build(GenerateRequest(id="a", model="m", messages=(shows(image_part(1), "a", "b"),)))


def test_images_of_results_follow_them_where_the_template_shows_none_in_results(folder: Path) -> None:
    in_results = "<tool_response>\\n' ~ text(m.content) ~"
    assert in_results in TEMPLATE
    template = TEMPLATE.replace(in_results, "<tool_response>\\n' ~ (m.content if m.content is string else '') ~")
    prompt, text = build(folder, template, *asked_with_result(TextPart(text="a.png"), image_part(1)))
    assert "<tool_response>\na.png\n(image: see below)\n</tool_response>" in text
    assert text.index("</tool_response>") < text.index("<|image_start|>")
    assert len(prompt.spans) == 1


def test_images_are_shown_where_the_template_knows_neither_system_nor_tools(folder: Path) -> None:
    turns = """
{%- for m in messages -%}
{%- if m.role not in ('user', 'assistant') -%}{{ raise_exception('unknown role') }}{%- endif -%}
{{ '<|im_start|>' ~ m.role ~ '\\n' ~ text(m.content) ~ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"""
    template = TEMPLATE[: TEMPLATE.index("{%- if tools -%}")] + turns
    system = Message(role="system", parts=(TextPart(text="Be brief."),))
    _, *asked = asked_with_result(image_part(2), TextPart(text="that was it"))
    prompt, text = build(folder, template, system, shows(image_part(1), "before", "after"), *asked)
    assert [prompt.images[span.digest].data for span in prompt.spans] == [image_part(1).data, image_part(2).data]
    assert "user\nBe brief.\n\nbefore<|image_start|>" in text
    assert "<tool_response>\n<|image_start|>" in text
    assert "<|image_end|>that was it\n</tool_response>" in text


def test_a_template_that_depends_on_the_whole_conversation_shows_images_too(folder: Path) -> None:
    """The number of messages in front of everything: no piece can be rendered alone."""
    template = "{{ messages | length }}" + TEMPLATE
    first = shows(image_part(1), "What is ", "?")
    asked = [first, Message(role="assistant", parts=(TextPart(text="A dot."),)), shows(image_part(2), "And ", "?")]
    prompt, _ = build(folder, template, *asked)
    assert [prompt.images[span.digest].data for span in prompt.spans] == [image_part(1).data, image_part(2).data]


def test_a_conversation_with_images_that_grew_is_the_same_when_it_is_rendered_anew(folder: Path) -> None:
    warm = builder(folder, TEMPLATE)
    asked: list[Message] = []
    for turn in range(4):
        asked += [shows(image_part(turn % 3), f"turn {turn}: ", "?")]
        asked += asked_with_result(TextPart(text="a.png "), image_part(7))[1:] if turn % 2 else []
        request = GenerateRequest(id="a", model="m", messages=tuple(asked))
        prompt, fresh = warm.build(request), builder(folder, TEMPLATE).build(request)
        assert prompt.tokens == fresh.tokens
        assert prompt.spans == fresh.spans
        assert prompt.boundaries == fresh.boundaries
        asked += [Message(role="assistant", parts=(TextPart(text=f"answer {turn}"),))]
    kept = [node for root in warm._by_units[0]._tree._roots.values() for node in root.children.values()]
    assert kept
    assert all(len(repr(node.key)) < 1000 for node in kept)  # no image is kept with them


def test_an_answer_about_one_image_is_not_recalled_for_another_of_the_same_size(folder: Path) -> None:
    """It may have had other thoughts, which do not come back with it."""
    warm = builder(folder, TEMPLATE)
    answer = Message(role="assistant", parts=(TextPart(text="A dot."),))
    more = Message(role="user", parts=(TextPart(text="Sure?"),))
    thought = load_tokenizer(folder).encode("<think>\nhidden\n</think>\n\nA dot.", add_special_tokens=False)

    def build_about(seed: int, *later: Message) -> Prompt:
        return warm.build(GenerateRequest(id="a", model="m", messages=(shows(image_part(seed), "is ", "?"), *later)))

    build_about(1).remember(Said.of("A dot.", (), "hidden"), thought)
    same, other = build_about(1, answer, more), build_about(2, answer, more)
    assert len(same.tokens) > len(other.tokens)
    assert "hidden" in load_tokenizer(folder).decode(same.tokens)
    assert "hidden" not in load_tokenizer(folder).decode(other.tokens)


def test_a_patch_token_in_a_persons_text_is_no_image(folder: Path) -> None:
    said = Message(role="user", parts=(TextPart(text="What is <|patch|>? "), image_part(1)))
    prompt, _ = build(folder, TEMPLATE, said)
    patch = load_tokenizer(folder).convert_tokens_to_ids("<|patch|>")
    assert len(prompt.spans) == 1
    assert prompt.tokens.count(patch) == prompt.spans[0].end - prompt.spans[0].start


@pytest.mark.parametrize("role", ["system", "assistant"])
def test_images_where_no_template_has_a_place_for_them_are_refused(folder: Path, role: Any) -> None:
    asked = [
        Message(role=role, parts=(TextPart(text="a"), image_part(1))),
        Message(role="user", parts=(TextPart(text="b"),)),
    ]
    with pytest.raises(UnsupportedContentError, match=r"^Could not process image: images may stand"):
        build(folder, TEMPLATE, *asked)
