"""What the vendor's dialects answer alike: models, and errors before an answer has begun."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from gateway.dialects.base import RenderedError
from gateway.dialects.openai import errors, models
from shared.errors import GatewayError
from shared.registry import Fleet


class OpenAIVendor:
    own_fields: ClassVar[Mapping[str, str]] = {}  # the API's names of fields that workers know by another

    def recognises(self, headers: Mapping[str, str]) -> bool:
        """Its clients have no mark of their own: whoever nobody recognises speaks it."""
        return False

    def render_models(self, fleet: Fleet, query: Mapping[str, str]) -> dict[str, Any]:
        return models.render_models(fleet)

    def render_model(self, fleet: Fleet, model: str, *, name: str) -> dict[str, Any]:
        return models.render_model(fleet, model, name=name)

    def render_error(self, error: GatewayError, *, request_id: str) -> RenderedError:
        return errors.render_error(error, self.own_fields)
