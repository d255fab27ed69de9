"""OpenCode: one variable, whose JSON is laid over the person's own settings. Measured with OpenCode 1.18."""

from __future__ import annotations

from typing import Any, Final

import orjson

from gateway.command.agents.base import KEY_VARIABLE, NO_KEY, Setting, Start

_PROVIDER: Final = "mlx-gateway"


def prepare(setting: Setting) -> Start:
    model = f"{_PROVIDER}/{setting.models.main}"
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": _PROVIDER,
        "options": {
            "baseURL": f"{setting.url}/v1",
            "apiKey": f"{{env:{KEY_VARIABLE}}}",
            # It gives up after 300 s without headers, or without a word in between.
            "headerTimeout": False,
            "chunkTimeout": False,
        },
        "models": {setting.models.main: _model(setting)},
    }
    # Titles are asked for with the small model: another would be another vendor's.
    content = {"provider": {_PROVIDER: provider}, "model": model, "small_model": model}
    return Start(
        environment={
            KEY_VARIABLE: setting.key or NO_KEY,
            "OPENCODE_CONFIG_CONTENT": orjson.dumps(content).decode(),
            "OPENCODE_DISABLE_MODELS_FETCH": "1",
        }
    )


def _model(setting: Setting) -> dict[str, Any]:
    models = setting.models
    limit = {"limit": {"context": models.context_tokens, "output": setting.output_tokens}}
    return {
        "name": models.main,
        "reasoning": models.reasons,
        "attachment": models.reads_images,
        "tool_call": True,
        **(limit if models.context_tokens else {}),
    }
