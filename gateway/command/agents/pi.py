"""pi: an extension of ours that registers a provider; nothing of the person's is hidden. Measured with pi 0.74 and 1.6,
which spell the key in two ways: the extension gives the key itself, from its environment."""

from __future__ import annotations

from typing import Any, Final

import orjson

from gateway.command.agents.base import KEY_VARIABLE, NO_KEY, Setting, Start

_PROVIDER: Final = "mlx-gateway"
_EXTENSION: Final = "pi-extension.js"
_SOURCE: Final = """\
export default function (pi) {
  const provider = %s;
  pi.registerProvider("%s", { ...provider, apiKey: process.env.%s });
}
"""


def prepare(setting: Setting) -> Start:
    provider = {"baseUrl": f"{setting.url}/v1", "api": "openai-completions", "models": [_model(setting)]}
    source = _SOURCE % (orjson.dumps(provider, option=orjson.OPT_INDENT_2).decode(), _PROVIDER, KEY_VARIABLE)
    extension = setting.write(_EXTENSION, source.encode())
    return Start(
        arguments=("-e", str(extension), "--provider", _PROVIDER, "--model", setting.models.main),
        environment={KEY_VARIABLE: setting.key or NO_KEY},
    )


def _model(setting: Setting) -> dict[str, Any]:
    models = setting.models
    limits = {"contextWindow": models.context_tokens, "maxTokens": setting.output_tokens}
    return {
        "id": models.main,
        "name": models.main,
        "reasoning": models.reasons,
        "input": ["text", "image"] if models.reads_images else ["text"],
        "cost": {"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0},
        "compat": {"sendSessionAffinityHeaders": True},
        **(limits if models.context_tokens else {}),
    }
