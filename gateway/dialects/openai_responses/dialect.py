"""The OpenAI Responses dialect, put together from its parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.dialects.base import Parsed
from gateway.dialects.openai.vendor import OpenAIVendor
from gateway.dialects.openai_responses import keeping, parse
from gateway.dialects.openai_responses.schema import OWN_FIELDS


class OpenAIResponsesDialect(OpenAIVendor):
    name = "openai_responses"
    own_fields = OWN_FIELDS

    def parse_request(
        self, body: Any, headers: Mapping[str, str], *, request_id: str, counting: bool = False
    ) -> Parsed:
        """Nothing is required only for generating, so `counting` changes nothing."""
        return parse.parse_request(body, headers, request_id=request_id)

    def earlier(self, body: bytes) -> str:
        return keeping.earlier(body)

    def continued(self, body: bytes, answer: Mapping[str, Any], items: Sequence[Any]) -> bytes:
        return keeping.continued(body, answer, items)

    def render_kept(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        return dict(answer)

    def render_deleted(self, answer_id: str) -> dict[str, Any]:
        return keeping.render_deleted(answer_id)

    def render_items(self, items: Sequence[Any], answer_id: str, query: Mapping[str, str]) -> dict[str, Any]:
        return keeping.render_items(items, answer_id, query)

    def render_count(self, input_tokens: int) -> dict[str, Any]:
        return {"object": "response.input_tokens", "input_tokens": input_tokens}
