"""What a client wants generated, in the one form that the worker knows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from shared.events import Usage
from shared.messages import Message

# A person's conversation, an agent that it started, what a client asks for besides (titles, suggestions), and what
# nobody waits for: who comes first, and whose prefix is kept.
Priority = Literal["interactive", "subagent", "side", "batch"]
PRIORITIES: tuple[Priority, ...] = ("interactive", "subagent", "side", "batch")  # first served first


# What a client may not set of a chat template's variables: what prompts are made of, and functions.
RESERVED_VARIABLES = frozenset(
    {
        *("messages", "tools", "add_generation_prompt", "raise_exception", "strftime_now"),
        *("namespace", "range", "dict", "lipsum", "cycler", "joiner"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolDefinition:
    """`parameters` is a JSON schema. A deferred tool stays out of the prompt's head until it is referenced."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    deferred: bool = False
    strict: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolChoice:
    """`mode` "tool" requires `name`."""

    mode: Literal["auto", "any", "tool", "none"] = "auto"
    name: str = ""
    parallel: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """None means: the model's own default, else the engine's.

    `top_logprobs` None: no logprobs; 0: the sampled token's only; n: n alternatives beside it.
    `repetition_penalty` 1 and the other penalties 0 mean off. `logit_bias` maps token id to bias.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop: tuple[str, ...] = ()
    logit_bias: dict[int, float] = field(default_factory=dict)
    top_logprobs: int | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningOptions:
    """`enabled` None leaves the choice to the model's template. `effort`: minimal, low, medium, high, xhigh, max or
    empty; the worker takes the nearest that the model knows."""

    enabled: bool | None = None
    budget_tokens: int | None = None
    effort: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """One canonical request.

    `id` is unique for ever and safe in an RQ job id (no colon). `model` is the resolved model id.
    `response_schema` asks for JSON that fits the schema ({} asks for any JSON object; None for free text).
    `session` is the client's name for the conversation, empty when it gave none; `tenant` salts every cache.
    `template_variables` are the client's own for the model's chat template (none of `RESERVED_VARIABLES`).
    `prompt`, where it is not empty, is continued as it is, by no template; there are no messages and no tools then.
    """

    id: str
    model: str
    messages: tuple[Message, ...]
    tools: tuple[ToolDefinition, ...] = ()
    tool_choice: ToolChoice = field(default_factory=ToolChoice)
    sampling: SamplingParams = field(default_factory=SamplingParams)
    reasoning: ReasoningOptions = field(default_factory=ReasoningOptions)
    response_schema: dict[str, Any] | None = None
    priority: Priority = "interactive"
    session: str = ""
    tenant: str = ""
    template_variables: dict[str, Any] = field(default_factory=dict)
    prompt: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """What an earlier attempt at a request has told, for a worker that goes on at the next token: all token ids in
    order, the usage of its `Started`, and the digest of its prompt, empty where it gave none."""

    token_ids: tuple[int, ...]
    usage: Usage = field(default_factory=Usage)
    prompt_digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A conversation and its tools as they travel. `digest` tells them from all others."""

    digest: bytes
    data: bytes = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedRequest(GenerateRequest):
    """A request on its way through a gateway, where nobody needs its conversation: `messages` and `tools` are empty,
    `packed` holds both. It is encoded as the request that it stands for. See `shared.wire.pack`."""

    packed: Packed


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """To the worker that holds a request: this attempt, and any before it, is not wanted any more."""

    request_id: str
    attempt: int
    reason: str
