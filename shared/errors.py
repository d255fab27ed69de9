"""The one tree of errors that may reach a client.

GatewayError
├── InvalidRequestError            the client's request is wrong
│   ├── PromptTooLongError         prompt exceeds the context window
│   ├── MaxTokensTooLargeError     prompt + max tokens exceed the context window
│   ├── RequestTooLargeError       the HTTP body is over the limit
│   ├── HeadTooLargeError          what stands before the body is over the limit
│   ├── SlowHeadError              what stands before the body does not come to its end
│   ├── UnsupportedContentError    an image or document the model cannot read
│   ├── UnsupportedWorkError       a kind of work that the model's engine does not do
│   ├── QuarantinedError           it has ended workers by itself, and is not run again
│   ├── RouteNotFoundError         no such path
│   ├── AnswerNotFoundError        no answer is kept under this id
│   ├── MethodNotAllowedError      the path exists, the method does not
│   └── UpgradeRefusedError        the path exists, the protocol that is asked for does not
├── AuthenticationError            no key or a wrong key
├── GuessedKeysError               too many wrong keys from where it came
├── PermissionDeniedError          a host or a page that may not come in, or what a key may not
├── ModelNotFoundError             the name resolves to nothing
├── ModelUnavailableError          the model exists but cannot be loaded, with the reason
│   └── NoMemoryError              there is no room for it at the moment
├── OverloadedError                full queue, no worker, or the predicted wait is too long
├── RateLimitedError               a key has used what it may in a minute
├── QuotaSpentError                a key has used what it may in a day
├── BrokerUnavailableError         Redis cannot be reached
├── WorkerLostError                the worker that held the request died
├── DeadlineExceededError          the request ran out of time
├── RequestCancelledError          stopped by the client or an operator
├── WireError                      bytes from Redis that do not decode or verify
├── ConfigError                    settings that cannot be used
└── InternalError                  our fault

`code` is stable and travels between processes; each dialect maps it to its own status and shape.
There is no HTTP status here.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final


class GatewayError(Exception):
    """A failure with a stable code. `details` is msgpack-safe and rebuilds the error in another process."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = details

    @property
    def retry_after_s(self) -> float | None:
        """Seconds after which a retry is worth the client's while, when known."""
        value = self.details.get("retry_after_s")
        return None if value is None else float(value)


class InvalidRequestError(GatewayError):
    """`param` in details names the offending field, e.g. `messages.2.content`."""

    code = "invalid_request"


class PromptTooLongError(InvalidRequestError):
    code = "prompt_too_long"

    @classmethod
    def of(cls, prompt_tokens: int, context_tokens: int) -> PromptTooLongError:
        """A prompt that fills the window leaves no room for a token of the answer."""
        maximum = min(context_tokens, prompt_tokens - 1)
        return cls(
            f"prompt is too long: {prompt_tokens} tokens > {maximum} maximum",
            prompt_tokens=prompt_tokens,
            context_tokens=context_tokens,
        )


class MaxTokensTooLargeError(InvalidRequestError):
    code = "max_tokens_too_large"

    @classmethod
    def of(cls, prompt_tokens: int, max_tokens: int, context_tokens: int) -> MaxTokensTooLargeError:
        return cls(
            "input length and `max_tokens` exceed context limit: "
            f"{prompt_tokens} + {max_tokens} > {context_tokens}, "
            "decrease input length or `max_tokens` and try again",
            prompt_tokens=prompt_tokens,
            max_tokens=max_tokens,
            context_tokens=context_tokens,
        )


class RequestTooLargeError(InvalidRequestError):
    code = "request_too_large"


class HeadTooLargeError(InvalidRequestError):
    code = "head_too_large"


class SlowHeadError(InvalidRequestError):
    code = "slow_head"


class UnsupportedContentError(InvalidRequestError):
    code = "unsupported_content"


class UnsupportedWorkError(InvalidRequestError):
    code = "unsupported_work"

    @classmethod
    def of(cls, kind: str, model: str, worker: str = "") -> UnsupportedWorkError:
        """`kind` is the name of a row of `shared.work.KINDS`."""
        why = _UNSUPPORTED.get(kind, f"does no work of the kind {kind!r}")
        return cls(f"{model} {why}", worker=worker)


_UNSUPPORTED: Final = {
    "generate": "writes no answers: it makes vectors or handles sound, for /v1/embeddings, /v1/rerank or /v1/audio",
    "embed": "makes no vectors: embeddings and rankings need a model that is served with the engine 'embeddings'",
    "transcribe": "hears nothing: sound needs a model that is served with the engine 'transcription'",
    "speak": "says nothing aloud: speech needs a model that is served with the engine 'speech'",
    "count": "cannot tell how many tokens a prompt has",
}


class QuarantinedError(InvalidRequestError):
    """It has ended workers by itself, and is not run again."""

    code = "quarantined"


class RouteNotFoundError(InvalidRequestError):
    code = "route_not_found"


class AnswerNotFoundError(InvalidRequestError):
    code = "answer_not_found"


class MethodNotAllowedError(InvalidRequestError):
    """`allow` in details lists the methods that are possible, e.g. `GET, HEAD`."""

    code = "method_not_allowed"


class UpgradeRefusedError(MethodNotAllowedError):
    """A WebSocket where there is HTTP alone."""

    code = "upgrade_refused"


class AuthenticationError(GatewayError):
    code = "authentication"


class GuessedKeysError(GatewayError):
    """`retry_after_s` in details: when a key from there is looked at again."""

    code = "guessed_keys"
    retryable = True


class PermissionDeniedError(GatewayError):
    code = "permission_denied"


class ModelNotFoundError(GatewayError):
    code = "model_not_found"


class ModelUnavailableError(GatewayError):
    code = "model_unavailable"


class NoMemoryError(ModelUnavailableError):
    """`needed_bytes`, `free_bytes` and `limit_bytes` in details: what its weights take, what those of other models
    leave of what all may use together, and that."""

    code = "no_memory"
    retryable = True


class OverloadedError(GatewayError):
    code = "overloaded"
    retryable = True


class RateLimitedError(GatewayError):
    """A key has used what it may in a minute. `retry_after_s` in details."""

    code = "rate_limited"
    retryable = True


class QuotaSpentError(GatewayError):
    """A key has used what it may in a day. `retry_after_s` in details: until the next."""

    code = "quota_spent"


class BrokerUnavailableError(GatewayError):
    code = "broker_unavailable"
    retryable = True


class WorkerLostError(GatewayError):
    code = "worker_lost"
    retryable = True


class DeadlineExceededError(GatewayError):
    code = "deadline_exceeded"
    retryable = True


class RequestCancelledError(GatewayError):
    code = "cancelled"


class WireError(GatewayError):
    code = "wire"


class ConfigError(GatewayError):
    code = "config"


class InternalError(GatewayError):
    code = "internal"


_BY_CODE: dict[str, type[GatewayError]] = {
    cls.code: cls
    for cls in (
        InvalidRequestError,
        PromptTooLongError,
        MaxTokensTooLargeError,
        RequestTooLargeError,
        HeadTooLargeError,
        SlowHeadError,
        UnsupportedContentError,
        UnsupportedWorkError,
        QuarantinedError,
        RouteNotFoundError,
        AnswerNotFoundError,
        MethodNotAllowedError,
        UpgradeRefusedError,
        AuthenticationError,
        GuessedKeysError,
        PermissionDeniedError,
        ModelNotFoundError,
        ModelUnavailableError,
        NoMemoryError,
        OverloadedError,
        RateLimitedError,
        QuotaSpentError,
        BrokerUnavailableError,
        WorkerLostError,
        DeadlineExceededError,
        RequestCancelledError,
        WireError,
        ConfigError,
        InternalError,
    )
}

ERROR_CODES = frozenset(_BY_CODE)


def build_error(code: str, message: str, details: dict[str, Any] | None = None) -> GatewayError:
    """The error that another process raised; an unknown code becomes `InternalError` with the same text."""
    error = _BY_CODE.get(code, InternalError)(message)
    error.details = dict(details or {})
    return error
