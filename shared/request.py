"""What a client wants generated, in the one form that the worker knows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

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
    empty; the worker takes the nearest that the model knows. `is_asked`: the client itself said so, and hears when the
    model cannot be told."""

    enabled: bool | None = None
    budget_tokens: int | None = None
    effort: str = ""
    is_asked: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """One canonical request.

    `id` is unique for ever and safe in an RQ job id (no colon). `model` is the resolved model id.
    `response_schema` asks for JSON that fits the schema ({} asks for any JSON object; None for free text).
    `response_pattern` is a regular expression that must match the whole answer, `response_grammar` a grammar in Lark's
    or llama.cpp's notation; one form at most is asked for.
    `session` is the client's name for the conversation (that of its agent included), empty when it gave none;
    `cache_key` is one that several conversations may share, `user` names a person; `tenant` salts every cache.
    `template_variables` are the client's own for the model's chat template (none of `RESERVED_VARIABLES`).
    A raw prompt is continued as it is, by no template; there are no messages and no tools then: `prompt`, or its
    `prompt_tokens` in the model's own ids. `suffix` is what stands behind what is to be filled in.
    `trail` names the prefixes of the conversation (`shared.trail`). `hops` counts the gateways that it came through.
    `default_system` stands at the head of a conversation that has no system text.
    `original` is the body as its client wrote it and `original_headers` what of its headers goes with it, where the
    model's worker passes both on to a server of the same API; empty for all others. `traceparent` is what spans hang on
    (`shared.tracing`), and makes no other request of it.
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
    trail: bytes = b""
    cache_key: str = ""
    user: str = ""
    prompt_tokens: tuple[int, ...] = ()
    suffix: str = ""
    response_pattern: str = ""
    response_grammar: str = ""
    hops: int = 0
    default_system: str = ""
    original: bytes = field(default=b"", repr=False)
    original_headers: dict[str, str] = field(default_factory=dict, repr=False)
    traceparent: str = field(default="", compare=False)

    @property
    def is_raw(self) -> bool:
        """Whether it has a raw prompt."""
        return bool(self.prompt or self.prompt_tokens)

    @property
    def raw_text(self) -> str:
        """All of a raw prompt as one text that tells it from others."""
        return self.prompt + " ".join(map(str, self.prompt_tokens)) + self.suffix


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """What an earlier attempt at a request has told, for a worker that goes on at the next token: all token ids in
    order, the usage of its `Started`, and the digest of its prompt, empty where it gave none."""

    token_ids: tuple[int, ...]
    usage: Usage = field(default_factory=Usage)
    prompt_digest: str = ""


class Link(NamedTuple):
    """A prefix: its digest, or the tag that was made of that, and how long its text is."""

    digest: bytes
    text_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A conversation's prefixes, as `shared.trail.Trail` has them. `first_user` is the index of the first message of
    the user, -1 where there is none; `images` is how many there are, those in results of tools included."""

    tools_first: tuple[Link, ...] = ()
    system_first: tuple[Link, ...] = ()
    messages: tuple[Link, ...] = ()
    tools_bytes: int = 0
    head_bytes: int = 0
    text_bytes: int = 0
    first_user: int = -1
    images: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """What a conversation and its user are called among gateways; empty where the client says nothing of either."""

    key: str = ""
    user: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A conversation and its tools as they travel. `digest` tells them from all others; `messages` and `tools` are
    where each lies in `data`."""

    digest: bytes
    data: bytes = field(compare=False, repr=False)
    messages: tuple[tuple[int, int], ...] = field(default=(), compare=False, repr=False)
    tools: tuple[tuple[int, int], ...] = field(default=(), compare=False, repr=False)
    chain: Chain = field(default_factory=Chain, compare=False, repr=False)
    conversation: Conversation = field(default_factory=Conversation, compare=False)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """To the worker that answers a request: `gateway`, whose client asks the same again, hears all of it, too, as
    `heard_as`, and reads these `codes`."""

    request_id: str
    heard_as: str
    gateway: str
    codes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeOver:
    """To a worker: the host of this `grant` leaves. Of what it has of the model in files, of all its latest
    conversations in `parts`, fetch the part with this number."""

    grant: bytes
    part: int
    parts: int
