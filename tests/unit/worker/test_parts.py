"""Long conversations are compared with their whole rendering in parts: the cost grows with the length alone."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest

from shared.messages import Message
from tests.models.templates import call, request_of, result, said, text, tokenizer_for
from worker.prompt import PromptBuilder
from worker.prompt.conversation import Converter
from worker.prompt.encode import Shield
from worker.prompt.memory import Said
from worker.prompt.parts import parts
from worker.prompt.template import Template
from worker.prompt.traits import find_traits

TEMPLATE = """
{%- for m in messages -%}{{ '<|im_start|>' ~ m.role ~ '\\n' ~ m.content }}
{%- for c in m.tool_calls or [] -%}
{{ '<tool_call>' ~ {'name': c.function.name, 'arguments': c.function.arguments} | tojson ~ '</tool_call>' }}
{%- endfor -%}
{%- if LATE -%}{{ ' (late)' }}{%- endif -%}{{ '<|im_end|>\\n' }}{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"""
PLAIN = TEMPLATE.replace("LATE", "false")


def rounds(count: int) -> list[Message]:
    messages = [said("system", text("Be brief.")), said("user", text("Go."))]
    for number in range(count):
        messages += [
            said("assistant", call(number, "Bash", command=f"step {number}")),
            result(number, f"done {number}"),
        ]
    return messages


def turns(count: int) -> list[Message]:
    pairs = ((said("user", text(f"Ask {n}.")), said("assistant", text(f"Say {n}."))) for n in range(count))
    return [*itertools.chain.from_iterable(pairs), said("user", text("And?"))]


@pytest.mark.parametrize("messages", [rounds(5), rounds(200), turns(3), turns(300)], ids=len)
@pytest.mark.parametrize("most", [2, 7, 128])
def test_each_part_begins_with_what_the_one_before_ended_with(messages: list[Message], most: int) -> None:
    template = Template(tokenizer_for(PLAIN))
    conversation = Converter(find_traits(template, "", harmony=False), Shield(()), {}).convert(messages)
    found = list(parts(conversation, most))
    assert found[0].start == 0
    assert found[-1].end == len(conversation.units)
    assert all(later.start == part.end - 1 for part, later in itertools.pairwise(found))
    assert all(conversation.units[part.end - 1].kind != "assistant" for part in found)
    assert all(part.dicts[0]["role"] in ("system", "user") for part in found)
    assert all(part.end - part.start <= most + 1 for part in found)


@pytest.mark.parametrize("messages", [rounds(300), turns(300)], ids=len)
def test_no_rendering_of_a_long_conversation_is_as_long_as_it(
    messages: list[Message], monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = PromptBuilder(tokenizer_for(PLAIN), context_tokens=1 << 20)
    lengths = []
    render = Template.render

    def counted(self: Template, rendered: Sequence[Any], *args: Any, **options: Any) -> str:
        lengths.append(len(rendered))
        return render(self, rendered, *args, **options)

    monkeypatch.setattr(Template, "render", counted)
    prompt = builder.build(request_of(messages, None, tools=()))
    assert builder.facts.mode == "window"
    assert max(lengths) < 140
    monkeypatch.undo()
    assert prompt.tokens == builder.build_whole(request_of(messages, None, tools=())).tokens


@pytest.mark.slow
def test_a_late_message_that_contradicts_the_pieces_is_found() -> None:
    late = "messages | selectattr('content', 'equalto', 'Ask 250.') | list and loop.index0 == 4"
    builder = PromptBuilder(tokenizer_for(TEMPLATE.replace("LATE", late)), context_tokens=1 << 20)
    assert builder.facts.mode == "window"
    builder.build(request_of(turns(240), None, tools=()))
    assert builder.facts.mode == "window"
    builder.build(request_of(turns(300), None, tools=()))
    assert builder.facts.mode == "whole"


def test_answers_spelt_in_tokens_that_the_model_does_not_have_are_not_learnt() -> None:
    """A file, or another host, may say anything of what was answered."""
    builder = PromptBuilder(tokenizer_for(PLAIN), context_tokens=1 << 20, vocab=2048)
    asked, answer, then = turns(1)[0], said("assistant", text("Good.")), said("user", text("And?"))
    first = builder.build(request_of([asked], None, tools=()))
    assert first.recorder is not None
    spelling = first.recorder(Said.by(answer), (17, 2047))
    elsewhere = PromptBuilder(tokenizer_for(PLAIN), context_tokens=1 << 20, vocab=2047)
    knowing = PromptBuilder(tokenizer_for(PLAIN), context_tokens=1 << 20, vocab=2048)
    later = request_of([asked, answer, then], None, tools=())
    plain = elsewhere.build(later).tokens
    for other in (elsewhere, knowing):
        other.learn(spelling)
    assert elsewhere.build(later).tokens == plain
    assert 2047 in knowing.build(later).tokens
