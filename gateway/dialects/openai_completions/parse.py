"""A Completions body -> a `GenerateRequest` for each of its prompts. Fields that mean nothing here are ignored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gateway.dialects import fields
from gateway.dialects.base import Parsed
from gateway.dialects.openai.form import parse_form
from gateway.dialects.openai.notation import in_brackets
from gateway.dialects.openai.session import cache_key_of, session_of, user_of
from gateway.dialects.openai.streaming import parse_streaming
from gateway.dialects.openai_completions.render import CompletionsReply
from gateway.dialects.openai_completions.schema import DEFAULT_MAX_TOKENS, MAX_ANSWERS, MAX_BEST_OF, MAX_LOGPROBS
from gateway.dialects.priority import asked_priority
from gateway.dialects.retries import is_retry
from gateway.dialects.sampling import parse_sampling
from shared.request import GenerateRequest, ReasoningOptions


def parse_request(body: Any, headers: Mapping[str, str], *, request_id: str) -> Parsed:
    """`headers` has lower-case names. Raises `InvalidRequestError` naming the field."""
    body, _ = fields.body_object(body)
    with fields.named(in_brackets):
        return _parse(body, headers, request_id=request_id)


@dataclass(frozen=True, slots=True)
class _Prompt:
    text: str = ""
    tokens: tuple[int, ...] = ()


def _parse(body: Mapping[str, Any], headers: Mapping[str, str], *, request_id: str) -> Parsed:
    with fields.within("prompt"):
        prompts = _parse_prompts(body.get("prompt"))
    choices, best_of = _parse_choices(body, len(prompts))
    stream, include_usage = parse_streaming(body)
    if stream and best_of > choices:
        fields.refuse("the best can only be chosen once all have ended: not with `stream`", "best_of")
    logprobs = _parse_logprobs(body)
    requests = _requests_of(prompts, _first(body, headers, request_id, _asked_logprobs(logprobs, choices, best_of)))
    return Parsed(
        request=requests[0],
        others=tuple(requests[1:]),
        stream=stream,
        reply=CompletionsReply(
            include_usage=include_usage,
            logprobs=logprobs is not None,
            echo=tuple(prompt.text for prompt in prompts) if _parse_echo(body, prompts, logprobs) else (),
            prompts=len(prompts),
            choices=choices,
        ),
        is_repeatable=is_retry(headers),
        choices=best_of,
    )


def _first(
    body: Mapping[str, Any], headers: Mapping[str, str], request_id: str, logprobs: int | None
) -> GenerateRequest:
    """Everything but the prompt."""
    limit = body.get("max_tokens")
    max_tokens = None if limit == -1 else fields.integer(limit, "max_tokens", low=1) or DEFAULT_MAX_TOKENS
    with fields.within("stop"):
        stop = _parse_stop(body.get("stop"))
    form = parse_form(body)
    return GenerateRequest(
        id=request_id,
        model=fields.name(body.get("model"), "model"),
        messages=(),
        sampling=parse_sampling(body, max_tokens=max_tokens, stop=stop, top_logprobs=logprobs),
        priority=asked_priority(headers) or "interactive",
        session=session_of(headers),
        cache_key=cache_key_of(body),
        user=user_of(body),
        reasoning=ReasoningOptions(enabled=False),
        suffix=fields.optional_string(body.get("suffix"), "suffix"),
        response_schema=form.schema,
        response_pattern=form.pattern,
        response_grammar=form.grammar,
    )


def _requests_of(prompts: Sequence[_Prompt], first: GenerateRequest) -> list[GenerateRequest]:
    if first.suffix and any(prompt.tokens for prompt in prompts):
        fields.refuse("needs a `prompt` of text", "suffix")
    return [
        replace(
            first,
            id=f"{first.id}_p{place}" if place else first.id,
            prompt=prompt.text,
            prompt_tokens=prompt.tokens,
        )
        for place, prompt in enumerate(prompts)
    ]


def _parse_prompts(value: Any) -> list[_Prompt]:
    """A text, ids of tokens, or a list of either."""
    if isinstance(value, str):
        return [_Prompt(text=fields.name(value))]
    items = fields.sequence(value)
    if not items:
        fields.refuse("List should have at least 1 item")
    if isinstance(items[0], int):
        return [_Prompt(tokens=tuple(fields.each(items, _token)))]
    return fields.each(items, _parse_one)


def _parse_one(item: Any) -> _Prompt:
    if isinstance(item, list) and item:
        return _Prompt(tokens=tuple(fields.each(item, _token)))
    return _Prompt(text=fields.name(item))


def _token(item: Any) -> int:
    token = fields.integer(item, low=0)
    if token is None or token >= 1 << 31:
        fields.refuse("Input should be the id of a token")
    return token


def _parse_choices(body: Mapping[str, Any], prompts: int) -> tuple[int, int]:
    """(answers to each prompt, how many are made to choose them from)."""
    choices = fields.integer(body.get("n"), "n", low=1) or 1
    best_of = fields.integer(body.get("best_of"), "best_of", low=0) or choices
    if best_of < choices:
        fields.refuse("Input should be at least `n`", "best_of")
    if best_of > max(MAX_BEST_OF, choices):
        fields.refuse(f"Input should be less than or equal to {MAX_BEST_OF}", "best_of")
    if prompts * best_of > MAX_ANSWERS:
        field = "prompt" if prompts > 1 else "n"
        fields.refuse(f"{prompts} prompts with {best_of} answers each are more than {MAX_ANSWERS}", field)
    return choices, best_of


def _parse_logprobs(body: Mapping[str, Any]) -> int | None:
    """A number here, and a switch at some who send what they know from Chat Completions."""
    value = body.get("logprobs")
    if isinstance(value, bool):
        return 0 if value else None
    count = fields.integer(value, "logprobs", low=0)
    if count is not None and count > MAX_LOGPROBS:
        fields.refuse(f"Input should be less than or equal to {MAX_LOGPROBS}", "logprobs")
    return count


def _asked_logprobs(logprobs: int | None, choices: int, best_of: int) -> int | None:
    """The best are chosen by them."""
    return 0 if logprobs is None and best_of > choices else logprobs


def _parse_echo(body: Mapping[str, Any], prompts: Sequence[_Prompt], logprobs: int | None) -> bool:
    if not fields.boolean(body.get("echo"), "echo"):
        return False
    if logprobs is not None:
        fields.refuse("log probabilities of the prompt are not available here: not with `logprobs`", "echo")
    if any(prompt.tokens for prompt in prompts):
        fields.refuse("needs a `prompt` of text", "echo")
    return True


def _parse_stop(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (fields.name(value),)
    return fields.stop_sequences(fields.optional_sequence(value))
