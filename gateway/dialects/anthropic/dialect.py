"""The Anthropic Messages dialect, put together from its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.dialects.anthropic import errors, models, parse
from gateway.dialects.anthropic.schema import CLIENT_AGENT, CLIENT_HEADERS
from gateway.dialects.base import Parsed, RenderedError
from shared.errors import GatewayError
from shared.registry import Fleet


class AnthropicDialect:
    name = "anthropic"

    def recognises(self, headers: Mapping[str, str]) -> bool:
        """Those of its SDKs and of Claude Code."""
        return not headers.keys().isdisjoint(CLIENT_HEADERS) or CLIENT_AGENT in headers.get("user-agent", "")

    def parse_request(
        self, body: Any, headers: Mapping[str, str], *, request_id: str, counting: bool = False
    ) -> Parsed:
        return parse.parse_request(body, headers, request_id=request_id, counting=counting)

    def render_count(self, input_tokens: int) -> dict[str, Any]:
        return {"input_tokens": input_tokens}

    def render_models(self, fleet: Fleet, query: Mapping[str, str]) -> dict[str, Any]:
        return models.render_models(fleet, query)

    def render_model(self, fleet: Fleet, model: str, *, name: str) -> dict[str, Any]:
        return models.render_model(fleet, model, name=name)

    def render_error(self, error: GatewayError, *, request_id: str) -> RenderedError:
        return errors.render_error(error, request_id=request_id)
