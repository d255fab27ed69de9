"""Errors in the vendor's envelope. Message texts come with the errors: Claude Code acts on some of them by wording."""

from __future__ import annotations

from typing import Any, Final

import orjson

from gateway.dialects.base import RenderedError
from gateway.dialects.retries import retry_headers
from shared.errors import GatewayError

# Code -> (status, type). 503 is not among the vendor's statuses, but says best that this model cannot be had now.
STATUSES: Final[dict[str, tuple[int, str]]] = {
    "invalid_request": (400, "invalid_request_error"),
    "prompt_too_long": (400, "invalid_request_error"),
    "max_tokens_too_large": (400, "invalid_request_error"),
    "unsupported_content": (400, "invalid_request_error"),
    "unsupported_work": (400, "invalid_request_error"),
    "quarantined": (400, "invalid_request_error"),
    "route_not_found": (404, "not_found_error"),
    "answer_not_found": (404, "not_found_error"),
    "method_not_allowed": (405, "invalid_request_error"),
    "upgrade_refused": (426, "invalid_request_error"),
    "request_too_large": (413, "request_too_large"),
    "head_too_large": (431, "invalid_request_error"),
    "slow_head": (408, "timeout_error"),
    "authentication": (401, "authentication_error"),
    "guessed_keys": (429, "rate_limit_error"),
    "permission_denied": (403, "permission_error"),
    "model_not_found": (404, "not_found_error"),
    "model_unavailable": (503, "api_error"),
    "no_memory": (529, "overloaded_error"),
    "overloaded": (529, "overloaded_error"),
    "rate_limited": (429, "rate_limit_error"),
    "quota_spent": (429, "rate_limit_error"),
    "broker_unavailable": (529, "overloaded_error"),
    "worker_lost": (529, "overloaded_error"),
    "deadline_exceeded": (504, "timeout_error"),
    "cancelled": (499, "api_error"),
    "wire": (500, "api_error"),
    "config": (500, "api_error"),
    "internal": (500, "api_error"),
}


def render_envelope(error: GatewayError, request_id: str) -> dict[str, Any]:
    _, kind = STATUSES[error.code]
    rendered: dict[str, Any] = {"type": kind, "message": error.message}
    if "error_code" in error.details:
        rendered["details"] = {"error_code": error.details["error_code"]}
    return {"type": "error", "error": rendered, "request_id": request_id}


def render_error(error: GatewayError, *, request_id: str) -> RenderedError:
    """What another server of this API has said is said again, word for word."""
    if relayed := error.details.get("relayed"):
        body = orjson.Fragment(relayed["body"])
        return RenderedError(status=relayed["status"], body=body, headers=relayed["headers"])  # type: ignore[arg-type]
    status, _ = STATUSES[error.code]
    return RenderedError(status=status, body=render_envelope(error, request_id), headers=retry_headers(error, status))
