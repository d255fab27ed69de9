"""The agents by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from gateway.command.agents import aider, claude, codex, opencode, pi, qwen
from gateway.command.agents.base import Agent

AGENTS: Final[Mapping[str, Agent]] = MappingProxyType(
    {
        "claude": Agent(
            program="claude",
            install="npm install -g @anthropic-ai/claude-code",
            prepare=claude.prepare,
            asks_tiers=True,
        ),
        "codex": Agent(program="codex", install="npm install -g @openai/codex", prepare=codex.prepare),
        "opencode": Agent(program="opencode", install="npm install -g opencode-ai", prepare=opencode.prepare),
        "qwen": Agent(program="qwen", install="npm install -g @qwen-code/qwen-code", prepare=qwen.prepare),
        "aider": Agent(program="aider", install="uv tool install aider-chat", prepare=aider.prepare),
        "pi": Agent(program="pi", install="npm install -g @earendil-works/pi-coding-agent", prepare=pi.prepare),
    }
)
