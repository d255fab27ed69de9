"""Claude Code: variables alone, each with its reason beside it. Sources: Claude Code's documentation, and measurements
with version 2.1."""

from __future__ import annotations

from gateway.command.agents.base import NO_KEY, ServedModels, Setting, Start
from gateway.dialects.anthropic.schema import NAMES

# What another vendor's set-up may have left in a shell, and would win over ours.
REMOVED = (
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_SMALL_FAST_MODEL",
    "CLAUDE_CODE_OAUTH_TOKEN",
    "CLAUDE_CODE_USE_ANTHROPIC_AWS",
    "CLAUDE_CODE_USE_ANTHROPIC_GOOGLE_CLOUD",
    "CLAUDE_CODE_USE_BEDROCK",
    "CLAUDE_CODE_USE_FOUNDRY",
    "CLAUDE_CODE_USE_GATEWAY",
    "CLAUDE_CODE_USE_MANTLE",
    "CLAUDE_CODE_USE_VERTEX",
)

_OUTPUT_TOKENS = 32_000  # what Claude Code asks for by itself
# It compacts when less is left than its output limit and 13,000 tokens more; its own prompt takes some 12,000, and
# there must be as much again to work in. So the limit is what these leave, within a share of the window: with more
# than a quarter it compacts all the time, less than an eighth is too little to write a file.
_TAKEN_TOKENS = 13_000 + 12_000 + 12_000
_MOST_OUTPUT, _LEAST_OUTPUT = 4, 8


def prepare(setting: Setting) -> Start:
    environment = build_claude_environment(url=setting.url, key=setting.key, models=setting.models)
    return Start(environment=environment, removed=REMOVED)


def build_claude_environment(*, url: str, key: str, models: ServedModels) -> dict[str, str]:
    """Variables for Claude Code against the gateway at `url`."""
    environment = {
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_AUTH_TOKEN": key or NO_KEY,
        "ANTHROPIC_MODEL": NAMES.prefix + models.main,
        **{
            f"ANTHROPIC_DEFAULT_{t.upper()}_MODEL": NAMES.prefix + models.tiers.get(t, models.main) for t in NAMES.tiers
        },
        "CLAUDE_CODE_SUBAGENT_MODEL": NAMES.prefix + models.main,
        # It gives up a stream that is silent for minutes, which a long prefill on a laptop may be.
        "API_TIMEOUT_MS": "3000000",
        "API_FORCE_IDLE_TIMEOUT": "0",
        "CLAUDE_STREAM_IDLE_TIMEOUT_MS": "1800000",
        # A line about the client at the head of every prompt; it costs cache hits between sessions.
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
        # A count of tokens after every tool result, meant for the vendor's models.
        "CLAUDE_CODE_TOTAL_TOKENS_REMINDER": "off",
        # The served models in its picker.
        "CLAUDE_CODE_ENABLE_GATEWAY_MODEL_DISCOVERY": "1",
    }
    if models.context_tokens:
        # It takes a model that it does not know to have a window of a million tokens.
        environment["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] = str(models.context_tokens)
        environment["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] = str(output_tokens(models.context_tokens))
    return environment


def output_tokens(context_tokens: int) -> int:
    """How much Claude Code may ask for at once, so that enough of a window is left to work in."""
    most, least = context_tokens // _MOST_OUTPUT, context_tokens // _LEAST_OUTPUT
    return min(_OUTPUT_TOKENS, most, max(least, context_tokens - _TAKEN_TOKENS))
