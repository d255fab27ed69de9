"""Between a request and the sampler: the client's parameters over the model's defaults, and logprobs by their texts."""

from __future__ import annotations

from shared.errors import InvalidRequestError
from shared.events import TokenLogprob
from shared.request import SamplingParams
from worker.engines.mlx.decode.sampling import Logprobs, RowParams
from worker.engines.mlx.model.sampling_defaults import SamplingDefaults
from worker.engines.tokens.detokenize import TokenTexts

_STRONGEST = 1e4  # bias or penalty: more changes nothing, and infinities would


def row_params(sampling: SamplingParams, defaults: SamplingDefaults, vocab: int) -> RowParams:
    """The request's parameters over the model's defaults. Raises `InvalidRequestError` for what cannot be used."""
    unknown = [token for token in sampling.logit_bias if not 0 <= token < vocab]
    if unknown:
        raise InvalidRequestError(
            f"logit_bias: token {unknown[0]} is not in the vocabulary of {vocab}", param="logit_bias"
        )

    def given(value: float | None, default: float) -> float:
        return default if value is None else value

    def bounded(value: float | None) -> float:
        return min(max(given(value, 0.0), -_STRONGEST), _STRONGEST)

    repetition_penalty = given(sampling.repetition_penalty, defaults.repetition_penalty)
    if repetition_penalty <= 0:
        raise InvalidRequestError("repetition_penalty must be greater than 0", param="repetition_penalty")
    top_k = int(given(sampling.top_k, defaults.top_k))
    return RowParams(
        temperature=given(sampling.temperature, defaults.temperature),
        top_p=given(sampling.top_p, defaults.top_p),
        top_k=top_k if 0 < top_k < vocab else 0,
        min_p=given(sampling.min_p, defaults.min_p),
        repetition_penalty=repetition_penalty,
        presence_penalty=bounded(sampling.presence_penalty),
        frequency_penalty=bounded(sampling.frequency_penalty),
        logit_bias={token: bounded(bias) for token, bias in sampling.logit_bias.items()},
        top_logprobs=sampling.top_logprobs,
        seed=sampling.seed,
    )


def named_logprob(texts: TokenTexts, token: int, logprobs: Logprobs | None) -> TokenLogprob | None:
    """A token's logprobs, if they were asked for, with texts in the place of ids."""
    if logprobs is None:
        return None

    def named(token: int, logprob: float, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        data = texts.bytes_of(token)
        return TokenLogprob(token=data.decode(errors="replace"), logprob=logprob, token_bytes=data, top=top)

    return named(token, logprobs.chosen, tuple(named(other, value) for other, value in logprobs.top))
