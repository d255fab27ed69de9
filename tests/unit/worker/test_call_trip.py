"""What is said of a chat template at load: how it is rendered, and whether its calls are read back."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.support.mlx_engine import Driver
from tests.unit.worker.prompt_models import tokenizer_of
from worker.engines.tokens.call_trip import failed_trips
from worker.engines.tokens.template_report import report_template
from worker.prompt import PromptBuilder


def builder_of(name: str) -> PromptBuilder:
    return PromptBuilder(tokenizer_of(name), context_tokens=1 << 20)


@pytest.mark.parametrize("name", ["demo", "qwen3", "qwen3_coder", "glm", "kimi", "steps", "strict", "harmony"])
def test_calls_as_a_template_writes_them_are_read_back(name: str) -> None:
    assert failed_trips(tokenizer_of(name), builder_of(name)) == {}


def test_a_call_that_is_not_read_back_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """A format of nobody's knowing: what the template writes comes back as text."""
    tokenizer = tokenizer_of("first_only")
    said = report_template(tokenizer, builder_of("first_only"))
    assert said["rendering"] == "counted window"
    assert said["lacks"] == "tools"
    assert said["unread"].startswith("call")
    assert "is not read back" in caplog.text


def test_an_engine_says_what_its_template_is_like(demo_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    driver = Driver(demo_model)
    said = report_template(driver.engine._model.tokenizer, driver.engine._builder)
    assert (said["rendering"], said["calls"]) == ("window", "json_tools")
    assert "unread" not in said
    assert "chat template: rendering window; calls json_tools" in caplog.text
