"""From a request to what the server is asked. Thread-safe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

from shared.errors import WorkerLostError
from shared.events import Started
from shared.request import GenerateRequest, Resume
from worker.engines.base import Prepared
from worker.engines.gguf.completion import Defaults, Form, render_sampling
from worker.engines.gguf.forms import form_of
from worker.engines.gguf.media import Media, MediaWriter
from worker.engines.gguf.tokenizer import GgufTokenizer
from worker.engines.tokens.answer import Answer
from worker.engines.tokens.constraints import Constraints
from worker.engines.tokens.output import output_format
from worker.prefix_cache.tokens import pack_tokens
from worker.prompt import Prompt, PromptBuilder

_DIGEST_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """`answer` has read what an earlier attempt has told (`resume`). `media` is the prompt where it shows images."""

    prompt: Prompt
    sampling: Mapping[str, Any]
    form: Form
    answer: Answer
    resume: Resume | None
    media: Media | None = None


class Preparing:
    """For one loaded model."""

    def __init__(
        self,
        tokenizer: GgufTokenizer,
        builder: PromptBuilder,
        defaults: Defaults,
        *,
        context_tokens: int,
        has_llguidance: bool,
        media: MediaWriter | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._builder = builder
        self._defaults = defaults
        self._context_tokens = context_tokens
        self._has_llguidance = has_llguidance
        self._media = media
        self._vocabulary = len(tokenizer.vocabulary.tokens)
        self._constraints = Constraints(tokenizer, vocab=self._vocabulary)

    def prepare(self, request: GenerateRequest, resume: Resume | None) -> Prepared:
        """See `Engine.prepare`."""
        prompt = self._builder.build(request)
        barred = output_format(self._tokenizer).barred(request)
        sampling = replace(request.sampling, logit_bias={**request.sampling.logit_bias, **barred})
        form, warnings = form_of(request, prompt, self._constraints.compile, has_llguidance=self._has_llguidance)
        if resume is not None and resume.token_ids and form != Form():
            raise WorkerLostError("an answer that must have a form cannot go on at another server")
        media = self._media.write(prompt) if self._media is not None else None
        if resume is not None and resume.token_ids and media is not None:
            raise WorkerLostError("an answer about images cannot go on at another server")
        answer = self._new_answer(request, prompt)
        digest = blake2b(pack_tokens(prompt.cache_keys), digest_size=_DIGEST_BYTES).hexdigest()
        payload = Payload(
            prompt=prompt,
            sampling=render_sampling(sampling, self._defaults, self._vocabulary),
            form=form,
            answer=answer,
            resume=resume,
            media=media,
        )
        return Prepared(
            request=request,
            prompt_tokens=len(prompt.tokens) if media is None else None,  # the server knows what an image takes
            payload=payload,
            warnings=(*prompt.warnings, *warnings, *self._unheeded(request)),
            prompt_digest=digest,
            past=() if resume is None else (Started(usage=resume.usage), *answer.replay(resume)),
        )

    def _new_answer(self, request: GenerateRequest, prompt: Prompt) -> Answer:
        answer = Answer(self._tokenizer, request, prompt)
        room, wanted = self._context_tokens - len(prompt.tokens), request.sampling.max_tokens
        answer.limit = room if wanted is None else min(wanted, room)
        answer.is_bound_by_context = wanted is None or wanted > room
        return answer

    def _unheeded(self, request: GenerateRequest) -> tuple[str, ...]:
        options = request.reasoning
        if options.budget_tokens is None or options.enabled is False or output_format(self._tokenizer).closing is None:
            return ()
        return ("the budget for reasoning is not enforced by llama.cpp's server",)
