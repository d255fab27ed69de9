"""Codex: flags alone, for a profile would have to lie in the person's own folder, and another folder would hide their
login and history. Measured with Codex 0.171.

A catalogue with an entry for the model says how large its window is (Codex assumes 272,000 tokens for a model that it
does not know) and brings instructions of our own: the first request falls from 40 KB to 9.
"""

from __future__ import annotations

from typing import Any, Final

from gateway.command.agents.base import KEY_VARIABLE, Setting, Start
from shared.errors import ConfigError

_PROVIDER: Final = "mlx-gateway"
_CATALOGUE: Final = "codex-models.json"
_PATIENCE_MS: Final = 30 * 60 * 1000
# It compacts at nine tenths of the window. Instructions, tools and what it says of the folder take some 4,000 tokens;
# in less than this it would compact before every call, for ever.
_LEAST_CONTEXT_TOKENS: Final = 16_000

_INSTRUCTIONS: Final = """\
You are a coding agent in a terminal on the user's computer. You work on the project in the current folder until the \
user's task is done.

- Look before you change: read the files that matter, search with `rg` or `grep`.
- Run commands with the tool `exec_command`. Change files with small, exact edits, and look at the result.
- Keep to the style of the code around you. Change nothing that the task does not need; never undo what the user did.
- When something can be checked (tests, a build, a run), check it before you say that it works.
- Say what you did in a few sentences, with the names of the files. If something failed or is left, say so.
"""


def prepare(setting: Setting) -> Start:
    window = setting.models.context_tokens
    if 0 < window < _LEAST_CONTEXT_TOKENS:
        raise ConfigError(
            f"{setting.models.main} has a window of {window} tokens; Codex needs {_LEAST_CONTEXT_TOKENS}: in less it "
            "would shorten its conversation before every call"
        )
    catalogue = setting.write_json(_CATALOGUE, {"models": [_entry(setting)]})
    values = {
        "model_provider": _text(_PROVIDER),
        f"model_providers.{_PROVIDER}": _provider(setting),
        "model_catalog_json": _text(str(catalogue)),
        "features.multi_agent": "false",
        "features.goals": "false",
        "web_search": _text("disabled"),
    }
    flags = [word for name, value in values.items() for word in ("-c", f"{name}={value}")]
    environment = {KEY_VARIABLE: setting.key} if setting.key else {}
    return Start(arguments=("-m", setting.models.main, *flags), environment=environment)


def _entry(setting: Setting) -> dict[str, Any]:
    models = setting.models
    window = {"context_window": models.context_tokens, "max_context_window": models.context_tokens}
    efforts = [{"effort": effort, "description": effort} for effort in ("low", "medium", "high")]
    return {
        "slug": models.main,
        "display_name": models.main,
        "supported_reasoning_levels": efforts if models.reasons else [],
        "shell_type": "unified_exec",
        "visibility": "list",
        "supported_in_api": True,
        "priority": 0,
        "support_verbosity": False,
        "truncation_policy": {"mode": "tokens", "limit": 10_000},
        "experimental_supported_tools": [],
        "base_instructions": _INSTRUCTIONS,
        "input_modalities": ["text", "image"] if models.reads_images else ["text"],
        **(window if models.context_tokens else {}),
    }


def _provider(setting: Setting) -> str:
    """An inline table of TOML."""
    fields = {
        "name": _text(_PROVIDER),
        "base_url": _text(f"{setting.url}/v1"),
        "wire_api": _text("responses"),
        "stream_idle_timeout_ms": str(_PATIENCE_MS),
        **({"env_key": _text(KEY_VARIABLE)} if setting.key else {}),
    }
    return "{" + ",".join(f"{name}={value}" for name, value in fields.items()) + "}"


def _text(value: str) -> str:
    """A basic string of TOML, whose escapes are JSON's."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
