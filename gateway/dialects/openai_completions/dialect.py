"""The OpenAI Completions dialect, put together from its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.dialects.base import Parsed
from gateway.dialects.openai.vendor import OpenAIVendor
from gateway.dialects.openai_completions import parse


class OpenAICompletionsDialect(OpenAIVendor):
    name = "openai_completions"

    def parse_request(
        self, body: Any, headers: Mapping[str, str], *, request_id: str, counting: bool = False
    ) -> Parsed:
        return parse.parse_request(body, headers, request_id=request_id)
