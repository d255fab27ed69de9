"""From a request to its prompt, in the best way that the model's template allows.

A raw prompt is its text. For a conversation, first choice: unit by unit in small conversations, so that a turn's
cost does not grow with the history. Second: the same behind the calls that went before, for a template that
counts them. Last: whole. Which one is right is tried when the model is loaded; a conversation that proves it wrong
moves the builder on to whole renderings.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from shared.errors import InvalidRequestError, PromptTooLongError
from shared.messages import Message
from shared.request import GenerateRequest
from worker.formats.harmony import HEADER
from worker.prompt import encode, samples
from worker.prompt.by_units import ContradictedError, UnitBuilder
from worker.prompt.by_whole import WholeBuilder
from worker.prompt.closes import Closes
from worker.prompt.conversation import Conversation, Converter, shielded
from worker.prompt.days import Days, SharedDays
from worker.prompt.encode import Encoder, Shield
from worker.prompt.facts import Mode, TemplateFacts
from worker.prompt.growth import NotLocalError
from worker.prompt.harmony import HarmonyThoughts, speaks_harmony
from worker.prompt.head import Head, Heads
from worker.prompt.image_files import ImageReader
from worker.prompt.image_pieces import TEXT_ONLY, ImageAlbum, Patch
from worker.prompt.markers import Markers
from worker.prompt.marks import marks_of
from worker.prompt.memory import Spelling
from worker.prompt.pieces import PieceRenderer
from worker.prompt.prefill import Prefill, is_prefill
from worker.prompt.raw import raw_tokens
from worker.prompt.switches import Switches
from worker.prompt.template import Template
from worker.prompt.thoughts import Thoughts
from worker.prompt.told_choice import told_choice
from worker.prompt.too_long import refuse_hopeless
from worker.prompt.tool_show import ToolShow
from worker.prompt.traits import find_traits
from worker.prompt.turns import Turns
from worker.prompt.values import Boundary, Prompt
from worker.prompt.verify import is_local

_logger = logging.getLogger(__name__)


class Tokenizer(samples.ThinkingTokenizer, encode.Tokenizer, Protocol):
    """mlx-lm's tokenizer wrapper."""

    tool_call_end: str | None

    @property
    def eos_token_ids(self) -> Collection[int]: ...


class PromptBuilder:
    """Thread-safe; no device, no I/O."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        context_tokens: int,
        vocab: int = sys.maxsize,
        images: ImageReader | None = None,
        closes_reasoning: bool = False,
        no_images: str = "",
    ) -> None:
        """`vocab`: how many tokens the model has. `closes_reasoning`: a budget holds, whether the template can tell it
        to the model or not. `no_images`: why it reads none, where it could."""
        self._context_tokens = context_tokens
        self._vocab = vocab
        self._closes_reasoning = closes_reasoning
        self._no_images = no_images or TEXT_ONLY
        self._template = Template(tokenizer)
        self._encoder = encoder = Encoder(tokenizer)
        self._shield = Shield(self._template.control_tokens(encoder.added) | encoder.special)
        self._prefill_shield = Shield(encoder.special)
        token = encoder.single(images.patch_token) if images is not None else None
        patch = Patch(text=images.patch, token=token) if images is not None and token is not None else None
        harmony = speaks_harmony(self._template, encoder.added)
        self._traits = traits = find_traits(self._template, patch.text if patch is not None else "", harmony=harmony)
        self._images = images if traits.image_form else None
        reasoning = samples.find_reasoning(tokenizer)
        markers = Markers((*encoder.added, *((reasoning.start, reasoning.end) if reasoning else ())))
        self._switches = switches = Switches(self._template)
        self._thoughts = Thoughts(self._template, switches, reasoning, markers) if reasoning else None
        if harmony:
            self._thoughts = HarmonyThoughts(self._template, switches, markers)
        turns = Turns(self._template, markers, HEADER if harmony else "")
        closes = Closes(turns, markers, text_arguments=traits.text_arguments, call_end=tokenizer.tool_call_end)
        self._days = Days()
        show = ToolShow(self._template, has_system=traits.system)
        self._heads = heads = Heads(traits, show, self._shield, encoder, self._thoughts)
        self._by_units: list[UnitBuilder] = []
        for counted in (False, True):
            renderer = PieceRenderer(turns, closes, self._thoughts, markers, counted=counted)
            if is_local(turns, renderer, traits):
                self._by_units.append(
                    UnitBuilder(turns, traits, renderer, encoder, heads, tokenizer.eos_token_ids, patch)
                )
                break
        self._by_whole = WholeBuilder(turns, renderer, encoder, heads, patch)

    @property
    def supports_images(self) -> bool:
        return self._images is not None

    @property
    def is_plain(self) -> bool:
        """Whether the model came without a chat template."""
        return self._template.is_missing

    @property
    def facts(self) -> TemplateFacts:
        mode: Mode = self._by_units[0].mode if self._by_units else "whole"
        return TemplateFacts(mode=mode, lacks=tuple(self._lacks()), efforts=self._switches.efforts.words)

    def _lacks(self) -> Iterator[str]:
        traits = self._traits
        for name, has in (
            ("tools", traits.tools),
            ("calls", traits.calls),
            ("parallel calls", traits.several_calls or not traits.calls),
            ("system", traits.system),
        ):
            if not has:
                yield name
        if self._thoughts is None:
            yield "reasoning"

    def share_days(self, days: SharedDays) -> None:
        """See `worker.engines.base.Dated`."""
        self._days.share(days)

    def learn(self, *spellings: Spelling) -> None:
        """How answers were spelt before this process began, or elsewhere, so that prompts with them are what they were.
        Not in tokens that the model does not have: a file, or another host, may say anything."""
        for spelling in spellings:
            if all(0 <= token < self._vocab for token in spelling.tokens):
                for builder in self._by_units:
                    builder.learn(spelling)

    def build(self, request: GenerateRequest) -> Prompt:
        """Raises `PromptTooLongError`, `InvalidRequestError`, `UnsupportedContentError`."""
        refuse_hopeless(request, self._encoder, self._context_tokens)
        prompt = self._of_any_length(request)
        if len(prompt.tokens) >= self._context_tokens:
            raise PromptTooLongError.of(len(prompt.tokens), self._context_tokens)
        return prompt

    def count_tokens(self, request: GenerateRequest) -> int:
        """Also of a prompt that is too long: by how much is what its client wants to know. Raises
        `InvalidRequestError`, `UnsupportedContentError`."""
        return len(self._of_any_length(request).tokens)

    def build_whole(self, request: GenerateRequest) -> Prompt:
        """The prompt as the template alone writes it, to compare with."""
        head, conversation, prefill = self._read(request, ImageAlbum(request.messages, self._images, self._no_images))
        return self._by_whole.build(head, conversation, prefill)

    def _of_any_length(self, request: GenerateRequest) -> Prompt:
        prompt = self._raw(request) if request.is_raw else self._of_conversation(request)
        return replace(prompt, marks=marks_of(request, prompt.boundaries)) if request.trail else prompt

    def _raw(self, request: GenerateRequest) -> Prompt:
        """What the client wrote, to be gone on with; the cache shares what it has in common with others."""
        tokens = raw_tokens(request, self._encoder)
        if not tokens:
            raise InvalidRequestError("the prompt has no tokens", param="prompt")
        return Prompt(tokens=tokens, boundaries=(Boundary("prompt", 0, len(tokens)),), in_reasoning=False)

    def _of_conversation(self, request: GenerateRequest) -> Prompt:
        album = ImageAlbum(request.messages, self._images, self._no_images)
        head, conversation, prefill = self._read(request, album)
        prompt = self._build(head, conversation, prefill)
        warnings = (*head.warnings, *self._unheeded(request))
        if not prompt.spans and not warnings:
            return prompt
        return replace(prompt, images=album.by_digest if prompt.spans else {}, warnings=warnings)

    def _unheeded(self, request: GenerateRequest) -> tuple[str, ...]:
        """Nothing of what is said about reasoning where the model never reasons."""
        if self._thoughts is None:
            return ()
        options = request.reasoning
        if self._closes_reasoning:
            options = replace(options, budget_tokens=None)
        return self._switches.unheeded(options, request.template_variables)

    def _read(self, request: GenerateRequest, album: ImageAlbum) -> tuple[Head, Conversation, Prefill | None]:
        messages = album.messages
        prefill = None
        if is_prefill(messages):
            prefill = Prefill(messages.pop(), self._prefill_shield, self._thoughts)
        variables = shielded(request.template_variables, self._shield)
        head = self._heads.of(request, self._switches.of(request.reasoning, variables))
        if self._template.tells_time:
            goes_on = any(message.role == "assistant" for message in messages)
            head = head.on(self._days.of(head.digest, _beginning(messages), goes_on=goes_on))
        if choice := told_choice(request, self._template.variables, variables):
            head = replace(head, choice=choice)
        converter = Converter(self._traits, self._shield, {tool.name: tool for tool in request.tools}, album)
        conversation = converter.convert(messages, head.tools_text, has_tools=bool(head.scene.tools))
        return head, conversation, prefill

    def _build(self, head: Head, conversation: Conversation, prefill: Prefill | None) -> Prompt:
        for builder in tuple(self._by_units):
            try:
                return builder.build(head, conversation, prefill)
            except NotLocalError:
                continue
            except ContradictedError:
                self._give_up(builder)
        return self._by_whole.build(head, conversation, prefill)

    def _give_up(self, builder: UnitBuilder) -> None:
        if builder in self._by_units:
            self._by_units.remove(builder)
            _logger.warning("the chat template depends on the whole conversation: prompts take longer from now on")


def _beginning(messages: Sequence[Message]) -> bytes:
    """Tells conversations apart by their system text and what the user said first, in every process alike."""
    first = next((index for index, message in enumerate(messages) if message.role != "system"), 0)
    return hashlib.blake2b(repr(messages[: first + 1]).encode(), digest_size=32).digest()
