"""Which conversation a request belongs to, as far as its client says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.dialects import fields
from gateway.dialects.openai.schema import MAX_SESSION_LENGTH, SESSION_HEADERS


def session_of(body: Mapping[str, Any], headers: Mapping[str, str]) -> str:
    """By the headers, else by `prompt_cache_key`; empty where nothing says it. (`x-client-request-id` does not: Codex
    sends the same one with every request.)"""
    key = fields.optional_string(body.get("prompt_cache_key"), "prompt_cache_key")
    return (session_header(headers) or key)[:MAX_SESSION_LENGTH]


def session_header(headers: Mapping[str, str]) -> str:
    return next((headers[name] for name in SESSION_HEADERS if headers.get(name)), "")
