"""Claude Code on a local model: the environment it works well in, and a stack for as long as it runs.

Each variable's reason is beside it. Sources: Claude Code's documentation, and measurements with version 2.1.
"""

from __future__ import annotations

import contextlib
import http.client
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any
from urllib.parse import quote, urlsplit

import orjson

from gateway.command.runfile import read_running
from gateway.dialects.anthropic.schema import NAMES
from shared.config import Settings, child_environment
from shared.errors import ConfigError
from shared.processes import GuardedProcess

_POLL_S = 0.1
_GRACE_S = 20.0
_ASK_S = 60.0
_ASK_AGAIN_S = 1.0
_KNOWN_S = 5.0  # by then the gateway has heard of what its workers loaded
_TRY_AGAIN = (504, 529)  # a model that is still loading, or no worker yet

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

_ANY_CLAUDE = "claude"  # a name that every gateway serves: its default model

_OUTPUT_TOKENS = 32_000  # what Claude Code asks for by itself
# It compacts when less is left than its output limit and 13,000 tokens more; its own prompt takes some 12,000, and
# there must be as much again to work in. So the limit is what these leave, within a share of the window: with more
# than a quarter it compacts all the time, less than an eighth is too little to write a file.
_TAKEN_TOKENS = 13_000 + 12_000 + 12_000
_MOST_OUTPUT, _LEAST_OUTPUT = 4, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModels:
    """Model ids. `main` has a window of `context_tokens` (0: unknown); `tiers` holds the tiers of Claude's names that
    the settings send to another model."""

    main: str
    context_tokens: int = 0
    tiers: Mapping[str, str] = field(default_factory=dict)


def build_claude_environment(*, url: str, key: str, models: ServedModels) -> dict[str, str]:
    """Variables for Claude Code against the gateway at `url`."""
    environment = {
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_AUTH_TOKEN": key or "local",  # it refuses to start without one
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


def merged(environment: Mapping[str, str], ours: Mapping[str, str]) -> dict[str, str]:
    """The environment to run Claude Code in."""
    return {name: value for name, value in environment.items() if name not in REMOVED} | dict(ours)


def read_models(url: str, key: str, model: str | None, *, say: Callable[[str], None]) -> ServedModels:
    """What the gateway at `url` serves under Claude's names, the main one being `model` if given, and loaded.

    Raises `ConfigError` in the gateway's words, or when nothing answers.
    """
    gateway = _Gateway(url, key)
    name = model or _ANY_CLAUDE
    gateway.load(name, say)
    main = gateway.model(name)
    end_s = time.monotonic() + _KNOWN_S
    while "max_input_tokens" not in main and time.monotonic() < end_s:
        time.sleep(_POLL_S)
        main = gateway.model(name)
    default = gateway.model(_ANY_CLAUDE)["display_name"]
    tiers = {tier: gateway.model(f"{_ANY_CLAUDE}-{tier}")["display_name"] for tier in NAMES.tiers}
    return ServedModels(
        main=main["display_name"],
        context_tokens=main.get("max_input_tokens", 0),
        tiers={tier: served for tier, served in tiers.items() if served != default},
    )


class _Gateway:
    """Asks as an Anthropic client does."""

    def __init__(self, url: str, key: str) -> None:
        address = urlsplit(url)
        self._url = url
        self._address = (address.hostname or "", address.port)
        self._headers: dict[str, str | bytes] = {"anthropic-version": "2023-06-01", "content-type": "application/json"}
        if key:
            self._headers["x-api-key"] = key.encode("utf-8", "surrogateescape")

    def model(self, name: str) -> dict[str, Any]:
        """The entry of the model behind a name."""
        return self._answer(*self._ask("GET", f"/v1/models/{quote(name, safe='')}"))

    def load(self, name: str, say: Callable[[str], None]) -> None:
        """Until the model behind the name answers, which also asks for it to be loaded."""
        body = {"model": name, "messages": [{"role": "user", "content": "hello"}]}
        said = False
        while True:
            status, answer = self._ask("POST", "/v1/messages/count_tokens", body)
            if status not in _TRY_AGAIN:
                self._answer(status, answer)
                return
            if not said:
                say(f"waiting for {'a model' if name == _ANY_CLAUDE else name} to load")
                said = True
            time.sleep(_ASK_AGAIN_S)

    def _answer(self, status: int, answer: dict[str, Any]) -> dict[str, Any]:
        if status != http.HTTPStatus.OK:
            raise ConfigError(f"{self._url}: {answer['error']['message']}")
        return answer

    def _ask(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection(*self._address, timeout=_ASK_S)
        try:
            connection.request(method, path, None if body is None else orjson.dumps(body), self._headers)
            response = connection.getresponse()
            return response.status, orjson.loads(response.read())
        except (OSError, http.client.HTTPException, orjson.JSONDecodeError) as error:
            raise ConfigError(f"{self._url}: no gateway answers ({error})") from error
        finally:
            connection.close()


@contextlib.contextmanager
def started_stack(settings: Settings, up_arguments: Sequence[str]) -> Iterator[GuardedProcess]:
    """`mlx-gateway up` in the background until the block ends; it shows its progress on our stderr."""
    command = [sys.executable, "-P", "-m", "gateway.command.cli", "up", *up_arguments]
    up = GuardedProcess(command, env=child_environment(settings), output=2, grace_s=settings.drain_s + _GRACE_S)
    try:
        yield up
    finally:
        up.stop()


def wait_until_ready(up: GuardedProcess, settings: Settings) -> None:
    """Until a model answers and `up` has said its last word, for the terminal is the agent's then. Raises `ConfigError`
    when the stack ends instead; it has said why."""
    while (running := read_running(settings.state_dir)) is None or not running.is_ready:
        if up.poll() is not None:
            raise ConfigError("`mlx-gateway up` ended")
        time.sleep(_POLL_S)


def run_agent(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a program in the foreground. Ctrl-C is its business; other signals are passed on, and so is everything that
    comes before it runs. Its exit status, as a shell says it. Raises `ConfigError` when it cannot be run."""
    agent: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        if agent is None:
            early.append(number)
        elif number != signal.SIGINT:  # the terminal sends Ctrl-C to the agent, too
            agent.send_signal(number)

    with _handling(pass_on, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        try:
            agent = subprocess.Popen(list(command), env=dict(environment))
        except OSError as error:
            raise ConfigError(f"{command[0]} cannot be run: {error.strerror}") from error
        for number in early:
            agent.send_signal(number)
        status = agent.wait()
    return status if status >= 0 else 128 - status


@contextlib.contextmanager
def _handling(handler: Callable[[int, FrameType | None], None], *numbers: int) -> Iterator[None]:
    """With this handler for these signals. A program that is started does not inherit it, unlike SIG_IGN."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
