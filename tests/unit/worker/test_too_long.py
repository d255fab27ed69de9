"""What is far too long is refused early, with a number that its client can act on; what fits never is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pytest

from shared.errors import PromptTooLongError
from shared.messages import Message, ReasoningPart, TextPart, ToolCallPart, ToolResultPart
from shared.request import GenerateRequest, ToolDefinition
from tests.support.models import some
from tests.unit.worker.prompt_models import tokenizer_of
from worker.prompt import PromptBuilder
from worker.prompt.encode import Encoder
from worker.prompt.too_long import refuse_hopeless

WORDS = "A line of some words, 12 of them or so, and a number.\n"
WINDOW_TOKENS = 2000


class CountingEncoder(Encoder):
    chars = 0

    def encode(self, text: str) -> list[int]:
        self.chars += len(text)
        return super().encode(text)


@cache
def builder() -> PromptBuilder:
    return PromptBuilder(tokenizer_of("demo"), context_tokens=WINDOW_TOKENS)


def request(*messages: Message, tools: Sequence[ToolDefinition] = ()) -> GenerateRequest:
    return GenerateRequest(id="r", model="m", messages=messages, tools=tuple(tools))


def user(text: str) -> Message:
    return Message(role="user", parts=(TextPart(text=text),))


LONG = WORDS * 20_000  # a megabyte
CALLED = Message(role="assistant", parts=(ToolCallPart(id="c", name="Bash", arguments="{}"),))
PLACES = {
    "one message": request(user(LONG)),
    "many messages": request(*(user(WORDS * 100) for _ in range(200))),
    "a result": request(
        user("x"), CALLED, Message(role="tool", parts=(ToolResultPart(call_id="c", parts=(TextPart(text=LONG),)),))
    ),
    "arguments": request(
        user("x"), Message(role="assistant", parts=(ToolCallPart(id="c", name="Bash", arguments=LONG),)), user("y")
    ),
    "a tool": request(user("x"), tools=[ToolDefinition(name="Bash", description=LONG)]),
}


@pytest.mark.parametrize("place", some(PLACES, "many messages", "a result"))
def test_a_megabyte_is_refused_with_an_estimate_after_a_fraction_of_it(place: str) -> None:
    encoder = CountingEncoder(tokenizer_of("demo"))
    with pytest.raises(PromptTooLongError, match=r"^prompt is too long: \d+ tokens > 2000 maximum$") as caught:
        refuse_hopeless(PLACES[place], encoder, WINDOW_TOKENS)
    assert encoder.chars < 100_000
    exact = builder().count_tokens(PLACES[place])
    assert caught.value.details["prompt_tokens"] == pytest.approx(exact, rel=0.2)
    with pytest.raises(PromptTooLongError):
        builder().build(PLACES[place])


def test_what_is_a_little_too_long_is_counted_exactly() -> None:
    asked = request(user(WORDS * 200))
    with pytest.raises(PromptTooLongError) as caught:
        builder().build(asked)
    assert caught.value.details["prompt_tokens"] == builder().count_tokens(asked) > WINDOW_TOKENS


def test_what_was_read_to_its_end_is_counted_exactly_however_long() -> None:
    """The window is passed in the last piece."""
    for repeats in range(1190, 1400, 30):
        asked = request(user("".join(f"{number} " for number in range(repeats * 9))))
        with pytest.raises(PromptTooLongError) as caught:
            PromptBuilder(tokenizer_of("demo"), context_tokens=builder().count_tokens(asked) - 50).build(asked)
        assert caught.value.details["prompt_tokens"] == builder().count_tokens(asked)


def test_a_prompt_that_fills_the_window_is_told_as_long_as_it_is() -> None:
    asked = request(user(WORDS))
    count = builder().count_tokens(asked)
    with pytest.raises(PromptTooLongError, match=rf"^prompt is too long: {count} tokens > {count - 1} maximum$"):
        PromptBuilder(tokenizer_of("demo"), context_tokens=count).build(asked)
    PromptBuilder(tokenizer_of("demo"), context_tokens=count + 1).build(asked)


@pytest.mark.parametrize(
    "asked",
    [
        request(user(" " * 1_000_000 + "x")),
        request(user("x"), Message(role="assistant", parts=(ReasoningPart(text=LONG), TextPart(text="y"))), user("z")),
        request(user("x"), tools=[ToolDefinition(name="Bash", description=LONG, deferred=True)]),
    ],
    ids=["white space around it", "reasoning", "a tool that is not shown"],
)
def test_what_a_template_may_leave_out_is_not_refused_early(asked: GenerateRequest) -> None:
    refuse_hopeless(asked, Encoder(tokenizer_of("demo")), WINDOW_TOKENS)
