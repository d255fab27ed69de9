"""The OpenAI Chat Completions dialect, put together from its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.dialects.base import Parsed, RenderedError
from gateway.dialects.openai_chat import errors, models, parse
from shared.errors import GatewayError
from shared.registry import Fleet


class OpenAIChatDialect:
    name = "openai_chat"

    def recognises(self, headers: Mapping[str, str]) -> bool:
        """Its clients have no mark of their own: whoever nobody recognises speaks it."""
        return False

    def parse_request(
        self, body: Any, headers: Mapping[str, str], *, request_id: str, counting: bool = False
    ) -> Parsed:
        return parse.parse_request(body, headers, request_id=request_id, counting=counting)

    def render_models(self, fleet: Fleet, query: Mapping[str, str]) -> dict[str, Any]:
        return models.render_models(fleet)

    def render_model(self, fleet: Fleet, model: str, *, name: str) -> dict[str, Any]:
        return models.render_model(fleet, model, name=name)

    def render_error(self, error: GatewayError, *, request_id: str) -> RenderedError:
        return errors.render_error(error)
