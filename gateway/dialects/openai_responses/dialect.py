"""The OpenAI Responses dialect, put together from its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.dialects.base import Parsed
from gateway.dialects.openai.vendor import OpenAIVendor
from gateway.dialects.openai_responses import parse


class OpenAIResponsesDialect(OpenAIVendor):
    name = "openai_responses"

    def parse_request(
        self, body: Any, headers: Mapping[str, str], *, request_id: str, counting: bool = False
    ) -> Parsed:
        """Nothing is required only for generating, so `counting` changes nothing."""
        return parse.parse_request(body, headers, request_id=request_id)

    def render_count(self, input_tokens: int) -> dict[str, Any]:
        return {"object": "response.input_tokens", "input_tokens": input_tokens}
