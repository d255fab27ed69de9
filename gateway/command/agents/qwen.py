"""Qwen Code: flags, variables, and a file of system settings, which wins over the person's own and leaves it in place.
Measured with Qwen Code 0.24."""

from __future__ import annotations

from typing import Any, Final

from gateway.command.agents.base import NO_KEY, Setting, Start

_SETTINGS: Final = "qwen-settings.json"
_PATIENCE_MS: Final = 30 * 60 * 1000  # it gives up after 120 s without headers


def prepare(setting: Setting) -> Start:
    models = setting.models
    generation: dict[str, Any] = {"timeout": _PATIENCE_MS}
    if models.context_tokens:
        generation["contextWindowSize"] = models.context_tokens
        generation["samplingParams"] = {"max_tokens": setting.output_tokens}
    settings = setting.write_json(_SETTINGS, {"model": {"generationConfig": generation}})
    return Start(
        arguments=("--auth-type", "openai", "-m", models.main),
        environment={
            "OPENAI_BASE_URL": f"{setting.url}/v1",
            "OPENAI_API_KEY": setting.key or NO_KEY,
            "OPENAI_MODEL": models.main,
            "QWEN_CODE_API_TIMEOUT_MS": str(_PATIENCE_MS),
            "QWEN_CODE_SYSTEM_SETTINGS_PATH": str(settings),
        },
    )
