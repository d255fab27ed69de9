"""The OpenAI Chat Completions dialect, put together from its parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.dialects.base import Parsed, RenderContext, RenderedError, StreamRenderer
from gateway.dialects.openai_chat import errors, parse, render
from shared.errors import GatewayError
from shared.events import Completion


class OpenAIChatDialect:
    name = "openai_chat"

    def parse_request(
        self, body: Any, headers: Mapping[str, str], *, request_id: str, counting: bool = False
    ) -> Parsed:
        return parse.parse_request(body, headers, request_id=request_id, counting=counting)

    def renderer(self, context: RenderContext) -> StreamRenderer:
        return render.ChunkStream(context)

    def render_completion(
        self, completion: Completion, context: RenderContext, others: Sequence[Completion] = ()
    ) -> dict[str, Any]:
        return render.render_completion((completion, *others), context)

    def render_error(self, error: GatewayError, *, request_id: str) -> RenderedError:
        return errors.render_error(error)
