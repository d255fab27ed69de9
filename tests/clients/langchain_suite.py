"""LangChain's standard tests of chat models, for its OpenAI and Anthropic packages at `TEST_API_BASE_URL`.

Run by an interpreter that has these packages, by `test_public_suites`; not a test of this repository's own run.
"""

# mypy: ignore-errors
from __future__ import annotations

import os
from typing import Any

from langchain_anthropic import ChatAnthropic
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests

URL = os.environ.get("TEST_API_BASE_URL", "")
COMMON = {"model": "scripted", "api_key": "any", "max_retries": 0, "timeout": 30, "temperature": 0, "max_tokens": 300}


class _Standard(ChatModelIntegrationTests):
    """Its model says given texts where nothing of them is forced: what a demanded call leaves open would be chance. The
    test of demanded calls is run from the classes `TestDemanded…`."""

    demands_calls = False

    @property
    def has_tool_choice(self) -> bool:
        return self.demands_calls

    @property
    def supports_json_mode(self) -> bool:
        return self.chat_model_class is ChatOpenAI

    @property
    def supports_image_inputs(self) -> bool:
        return False

    @property
    def enable_vcr_tests(self) -> bool:
        return False


class TestOpenAI(_Standard):
    @property
    def chat_model_class(self) -> type:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**COMMON, "base_url": f"{URL}/v1", "stream_usage": True}


class TestOpenAIResponses(TestOpenAI):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**super().chat_model_params, "use_responses_api": True}


class TestAnthropic(_Standard):
    @property
    def chat_model_class(self) -> type:
        return ChatAnthropic

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**COMMON, "base_url": URL}


class TestDemandedOpenAI(TestOpenAI):
    demands_calls = True


class TestDemandedOpenAIResponses(TestOpenAIResponses):
    demands_calls = True


class TestDemandedAnthropic(TestAnthropic):
    demands_calls = True
