"""Aider: variables, flags, and a file of ours with the model's limits."""

from __future__ import annotations

from typing import Final

from gateway.command.agents.base import NO_KEY, Setting, Start

_METADATA: Final = "aider-models.json"


def prepare(setting: Setting) -> Start:
    name = f"openai/{setting.models.main}"
    limits = {"max_input_tokens": setting.models.context_tokens, "max_output_tokens": setting.output_tokens}
    entry = {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 0, "output_cost_per_token": 0}
    known = setting.write_json(_METADATA, {name: {**entry, **(limits if setting.models.context_tokens else {})}})
    return Start(
        arguments=("--model", name, "--model-metadata-file", str(known), "--no-show-model-warnings"),
        environment={"OPENAI_API_BASE": f"{setting.url}/v1", "OPENAI_API_KEY": setting.key or NO_KEY},
    )
