"""Which conversation a request belongs to, and whose it is, as far as its client says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.dialects import fields
from gateway.dialects.openai.schema import MAX_SESSION_LENGTH, SESSION_HEADERS


def session_of(headers: Mapping[str, str]) -> str:
    """The client's name for the conversation; empty where it says nothing. (`x-client-request-id` does not: Codex sends
    the same one with every request.)"""
    return next((headers[name] for name in SESSION_HEADERS if headers.get(name)), "")[:MAX_SESSION_LENGTH]


def cache_key_of(body: Mapping[str, Any]) -> str:
    """What several conversations may share: with how one began it names that one."""
    return fields.optional_string(body.get("prompt_cache_key"), "prompt_cache_key")[:MAX_SESSION_LENGTH]


def user_of(body: Mapping[str, Any]) -> str:
    """Whatever its type: it is only a hint."""
    named = (body.get(field) for field in ("safety_identifier", "user"))
    return next((name for name in named if isinstance(name, str) and name), "")[:MAX_SESSION_LENGTH]
