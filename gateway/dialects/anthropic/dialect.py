"""The Anthropic Messages dialect, put together from its parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.dialects.anthropic import errors, parse, render
from gateway.dialects.base import Parsed, RenderContext, RenderedError, StreamRenderer
from shared.errors import GatewayError
from shared.events import Completion


class AnthropicDialect:
    name = "anthropic"

    def parse_request(
        self, body: Any, headers: Mapping[str, str], *, request_id: str, counting: bool = False
    ) -> Parsed:
        return parse.parse_request(body, headers, request_id=request_id, counting=counting)

    def renderer(self, context: RenderContext) -> StreamRenderer:
        return render.MessageStream(context)

    def render_completion(
        self, completion: Completion, context: RenderContext, others: Sequence[Completion] = ()
    ) -> dict[str, Any]:
        return render.render_completion(completion, context)

    def render_error(self, error: GatewayError, *, request_id: str) -> RenderedError:
        return errors.render_error(error, request_id=request_id)
