"""From a request to what the engine's thread needs of it. Thread-safe; nothing here touches the device."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from hashlib import blake2b

from shared.events import Event, Started
from shared.request import GenerateRequest, Resume, SamplingParams
from worker.engines.base import Prepared
from worker.engines.mlx.decode.parameters import row_params
from worker.engines.mlx.decode.sampling import RowParams
from worker.engines.mlx.model.models import LoadedModel
from worker.engines.tokens.answer import Answer
from worker.engines.tokens.constraint import Grammar
from worker.engines.tokens.constraints import Constraints
from worker.engines.tokens.output import output_format
from worker.prefix_cache.tokens import pack_tokens
from worker.prompt import Prompt, PromptBuilder

log = logging.getLogger(__name__)

_DIGEST_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """`packed` is the prompt as the prefix cache knows it; `grammar` the form that the answer must have; `resume` what
    an earlier attempt has told, which `answer` has read then."""

    prompt: Prompt
    packed: bytes
    params: RowParams
    grammar: Grammar | None
    answer: Answer
    resume: Resume | None


class Preparing:
    """For one loaded model."""

    def __init__(self, loaded: LoadedModel, builder: PromptBuilder, constraints: Constraints) -> None:
        self._loaded = loaded
        self._builder = builder
        self._constraints = constraints

    def prepare(self, request: GenerateRequest, resume: Resume | None) -> Prepared:
        """See `Engine.prepare`."""
        loaded = self._loaded
        prompt = self._builder.build(request)
        params = row_params(_without_calls(request, loaded), loaded.defaults, loaded.vocab)
        grammar = self._constraints.compile(request, in_reasoning=prompt.in_reasoning, continues=prompt.continues)
        packed = pack_tokens(prompt.cache_keys)
        digest = blake2b(packed, digest_size=_DIGEST_BYTES).hexdigest()
        answer = Answer(loaded.tokenizer, request, prompt)
        return Prepared(
            request=request,
            prompt_tokens=len(prompt.tokens),
            payload=Payload(prompt=prompt, packed=packed, params=params, grammar=grammar, answer=answer, resume=resume),
            warnings=(*prompt.warnings, *(grammar.warnings if grammar is not None else ())),
            prompt_digest=digest,
            past=() if resume is None else _past(answer, resume, digest),
        )


def _without_calls(request: GenerateRequest, loaded: LoadedModel) -> SamplingParams:
    """The request's sampling, with the opening of a call barred where the request forbids calls."""
    sampling = request.sampling
    barred = output_format(loaded.tokenizer).barred(request)
    return replace(sampling, logit_bias={**sampling.logit_bias, **barred}) if barred else sampling


def _past(answer: Answer, resume: Resume, digest: str) -> tuple[Event, ...]:
    if resume.prompt_digest not in ("", digest):
        log.warning("an answer goes on after another prompt than it began with: %s", resume.prompt_digest)
    return (Started(usage=resume.usage), *answer.replay(resume))
