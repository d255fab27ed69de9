"""Errors in the vendor's shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.dialects.base import RenderedError
from gateway.dialects.retries import retry_headers
from shared.errors import GatewayError

# Code -> (status, type, code).
STATUSES: Final[dict[str, tuple[int, str, str | None]]] = {
    "invalid_request": (400, "invalid_request_error", None),
    "prompt_too_long": (400, "invalid_request_error", "context_length_exceeded"),
    "max_tokens_too_large": (400, "invalid_request_error", "context_length_exceeded"),
    "unsupported_content": (400, "invalid_request_error", "unsupported_content"),
    "unsupported_work": (400, "invalid_request_error", "unsupported_work"),
    "quarantined": (400, "invalid_request_error", "quarantined"),
    "route_not_found": (404, "invalid_request_error", "unknown_url"),
    "answer_not_found": (404, "invalid_request_error", None),
    "method_not_allowed": (405, "invalid_request_error", "method_not_supported"),
    "upgrade_refused": (426, "invalid_request_error", "upgrade_refused"),
    "request_too_large": (413, "invalid_request_error", "request_too_large"),
    "head_too_large": (431, "invalid_request_error", "headers_too_large"),
    "slow_head": (408, "invalid_request_error", "request_timeout"),
    "authentication": (401, "invalid_request_error", "invalid_api_key"),
    "guessed_keys": (429, "requests", "rate_limit_exceeded"),
    "permission_denied": (403, "invalid_request_error", "permission_denied"),
    "model_not_found": (404, "invalid_request_error", "model_not_found"),
    "model_unavailable": (503, "server_error", "model_unavailable"),
    "no_memory": (503, "server_error", "no_memory"),
    "overloaded": (503, "server_error", "overloaded"),
    "rate_limited": (429, "requests", "rate_limit_exceeded"),
    "quota_spent": (429, "insufficient_quota", "insufficient_quota"),
    "broker_unavailable": (503, "server_error", "broker_unavailable"),
    "worker_lost": (503, "server_error", "worker_lost"),
    "deadline_exceeded": (504, "server_error", "deadline_exceeded"),
    "cancelled": (499, "server_error", "cancelled"),
    "wire": (500, "server_error", "internal"),
    "config": (500, "server_error", "internal"),
    "internal": (500, "server_error", "internal"),
}

_PARAMS: Final = {"prompt_too_long": "messages", "max_tokens_too_large": "max_tokens", "model_not_found": "model"}


def render_body(error: GatewayError, own_fields: Mapping[str, str] | None = None) -> dict[str, Any]:
    """`own_fields`: what the API calls fields that workers know by another name."""
    _, kind, code = STATUSES[error.code]
    param = error.details.get("param") or _PARAMS.get(error.code)
    param = (own_fields or {}).get(param, param) if isinstance(param, str) else None
    return {"error": {"message": error.message, "type": kind, "param": param, "code": code}}


def render_error(error: GatewayError, own_fields: Mapping[str, str]) -> RenderedError:
    status, _, _ = STATUSES[error.code]
    return RenderedError(status=status, body=render_body(error, own_fields), headers=retry_headers(error, status))
