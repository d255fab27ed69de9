"""What happens to a request, as a sequence of events, and which sequences are legal.

    Queued/Progress*  Started  Progress*  (TextDelta | ReasoningDelta | tool call)*  (Finished | Failed)
    Queued/Progress*  Started  Relayed*  (Finished | Failed)

Work of other kinds is answered with Progress* and one event of its own (Counted | Embedded | Failed). What takes its
time begins:

    Progress*  Started  Heard*  (Transcribed | Failed)
    Progress*  Started  Sound*  (Spoken | Failed)

`Returned` ends an attempt of which nothing was begun: the gateway makes the next one of it, and clients never hear
of it.

A tool call is ToolCallStarted, ToolCallDelta*, ToolCallFinished, all with the same index; calls do not overlap
each other or text. `Failed` may come at any time before the end. Streaming and non-streaming answers are
rendered from the same events; `assemble` is the non-streaming half.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Literal

from shared.errors import GatewayError, InternalError, build_error
from shared.messages import Part, ReasoningPart, TextPart, ToolCallPart

FinishReason = Literal["stop", "stop_sequence", "length", "context_length", "tool_calls", "content_filter"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens. `input_tokens` counts the whole prompt; `cached_tokens` is the part of it not computed again,
    of which `restored_tokens` came from disk. `reasoning_tokens` is part of `output_tokens`. `parted` names the part
    of the prompt in which it first differs from what was kept (tools, system, message n, prompt); empty when it only
    grew, or when nothing was kept. A count is None where the engine does not know it: a server that does not say."""

    input_tokens: int | None = 0
    cached_tokens: int | None = 0
    restored_tokens: int | None = 0
    output_tokens: int | None = 0
    reasoning_tokens: int | None = 0
    parted: str = ""


def known(tokens: int | None) -> int:
    """A count to add up or to show; 0 where it is unknown."""
    return tokens or 0


def total_usage(usages: Sequence[Usage]) -> Usage:
    """Of several answers to one prompt, which counts once."""
    return replace(
        usages[0],
        output_tokens=_total([usage.output_tokens for usage in usages]),
        reasoning_tokens=_total([usage.reasoning_tokens for usage in usages]),
    )


def _total(counts: Sequence[int | None]) -> int | None:
    """Unknown where all are."""
    return None if all(count is None for count in counts) else sum(map(known, counts))


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """`token` is the token's text (may be a part of a character), `top` the likeliest alternatives, best first."""

    token: str
    logprob: float
    token_bytes: bytes = b""
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Waiting or prefilling. `done_tokens` of `total_tokens`; both 0 while they are unknown. `warnings` say what
    of the request will not be honoured; they come with the first progress after tokenising."""

    phase: Literal["queued", "loading", "prefill"]
    done_tokens: int = 0
    total_tokens: int = 0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The engine accepted the request: the prompt is tokenised and its cache looked up. `prompt_digest` tells whether
    another worker makes the same tokens of it; empty where the engine gives none."""

    usage: Usage
    worker: str = ""
    prompt_digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDelta:
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningDelta:
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallStarted:
    """`index` counts the calls of one answer from 0; `id` is unique for ever."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallDelta:
    """More of the arguments' JSON text, as generated."""

    index: int
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallFinished:
    """`is_valid` says whether the arguments, joined, are a JSON object."""

    index: int
    is_valid: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Relayed:
    """A part of another server's answer, in the client's own API: of a stream one event or several, else the whole
    body. `headers` come with the first part."""

    data: bytes
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """`stop_sequence` is the one that matched when the reason is "stop_sequence"."""

    reason: FinishReason
    usage: Usage
    stop_sequence: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What counting was asked for."""

    input_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """What embedding was asked for: for each input a row of little-endian 32-bit floats."""

    vectors: tuple[bytes, ...]
    input_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """`text` with the space before it, where one was written."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A stretch of what was said, in seconds from the beginning, and how sure its reader was: the mean logarithm of its
    tokens' probabilities, how well its text can be compressed (repetition), and how likely it is that nobody spoke."""

    start_s: float
    end_s: float
    text: str
    token_ids: tuple[int, ...] = ()
    words: tuple[Word, ...] = ()
    temperature: float = 0.0
    mean_logprob: float = 0.0
    compression_ratio: float = 0.0
    silence_probability: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """More of a transcript, while it is made."""

    segment: Segment


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcribed:
    """The whole of a transcript. `language` is a code as the model has it, empty where it knows none."""

    language: str
    duration_s: float
    segments: tuple[Segment, ...]
    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def text(self) -> str:
        return "".join(segment.text for segment in self.segments).strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """More of what is said aloud, in the form that was asked for."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoken:
    """All was said."""

    duration_s: float
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    code: str
    message: str
    details: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, error: GatewayError) -> Failed:
        return cls(code=error.code, message=error.message, details=dict(error.details))

    def error(self) -> GatewayError:
        return build_error(self.code, self.message, self.details)


# Why work comes back: its worker takes no more; it may take it later; it can never do it.
ReturnReason = Literal["leaving", "busy", "unable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Returned:
    """Claimed and not begun: the worker gives the attempt back as it got it. The rest says what the client is told
    where nobody else can do the work either."""

    reason: ReturnReason
    code: str
    message: str
    details: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, reason: ReturnReason, error: GatewayError) -> Returned:
        return cls(reason=reason, code=error.code, message=error.message, details=dict(error.details))

    def error(self) -> GatewayError:
        return build_error(self.code, self.message, self.details)


Event = (
    Progress
    | Started
    | TextDelta
    | ReasoningDelta
    | ToolCallStarted
    | ToolCallDelta
    | ToolCallFinished
    | Relayed
    | Finished
    | Counted
    | Embedded
    | Heard
    | Transcribed
    | Sound
    | Spoken
    | Failed
    | Returned
)

# The answer stands without them.
INCIDENTAL = (Progress, ReasoningDelta)

# State -> the event types legal in it, and where they lead. An event that is not listed is a bug in its sender.
_LEGAL: dict[str, dict[type, str]] = {
    "waiting": {Progress: "waiting", Started: "open", Failed: "ended", Returned: "ended"},
    "open": {
        Progress: "open",
        TextDelta: "open",
        ReasoningDelta: "open",
        ToolCallStarted: "calling",
        Relayed: "open",
        Finished: "ended",
        Failed: "ended",
    },
    "calling": {ToolCallDelta: "calling", ToolCallFinished: "open", Failed: "ended"},
    "counting": {Progress: "counting", Counted: "ended", Failed: "ended", Returned: "ended"},
    "embedding": {Progress: "embedding", Embedded: "ended", Failed: "ended", Returned: "ended"},
    "listening": {Progress: "listening", Started: "hearing", Failed: "ended", Returned: "ended"},
    "hearing": {Heard: "hearing", Transcribed: "ended", Failed: "ended"},
    "speaking": {Progress: "speaking", Started: "sounding", Failed: "ended", Returned: "ended"},
    "sounding": {Sound: "sounding", Spoken: "ended", Failed: "ended"},
    "ended": {},
}
# Where the answers of the kinds of work begin.
_FIRST = frozenset({"waiting", "counting", "embedding", "listening", "speaking"})


class EventOrder:
    """Follows one request's events and raises `InternalError` at the first illegal one. It begins where the answer to
    its kind of work does."""

    def __init__(self, begins: str = "waiting") -> None:
        self.state = begins

    def feed(self, event: Event) -> None:
        following = _LEGAL[self.state].get(type(event))
        if following is None:
            raise InternalError(f"event {type(event).__name__} is not legal while {self.state}")
        self.state = following

    @property
    def has_begun(self) -> bool:
        """Whether more was told than progress."""
        return self.state not in _FIRST

    @property
    def ended(self) -> bool:
        return self.state == "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A whole answer: parts in the order they were generated (text, reasoning and tool calls only). `relayed` is the
    body in their place, where another server has given it."""

    parts: tuple[Part, ...]
    reason: FinishReason
    usage: Usage
    stop_sequence: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    relayed: bytes = b""


@dataclass(slots=True)
class _CallText:
    id: str
    name: str
    arguments: list[str] = field(default_factory=list)


def assemble(events: Iterable[Event]) -> Completion:
    """The whole answer that a stream of events spells out. Raises the error of a `Failed` event."""
    order = EventOrder()
    pieces: list[TextDelta | ReasoningDelta | _CallText] = []
    logprobs: list[TokenLogprob] = []
    relayed: list[bytes] = []
    for event in events:
        order.feed(event)
        match event:
            case TextDelta() | ReasoningDelta():
                if event.text:
                    pieces.append(event)
                if isinstance(event, TextDelta):
                    logprobs.extend(event.logprobs)
            case ToolCallStarted():
                pieces.append(_CallText(event.id, event.name))
            case ToolCallDelta(arguments=arguments):
                call = pieces[-1]
                assert isinstance(call, _CallText)
                call.arguments.append(arguments)
            case Relayed(data=data):
                relayed.append(data)
            case Failed() | Returned():
                raise event.error()
            case Finished():
                return Completion(
                    parts=_merge(pieces),
                    reason=event.reason,
                    usage=event.usage,
                    stop_sequence=event.stop_sequence,
                    logprobs=tuple(logprobs),
                    relayed=b"".join(relayed),
                )
            case _:
                pass
    raise InternalError("the events ended without Finished or Failed")


def _merge(pieces: list[TextDelta | ReasoningDelta | _CallText]) -> tuple[Part, ...]:
    """Neighbouring deltas of one kind become one part."""
    parts: list[Part] = []
    for kind, group in groupby(pieces, type):
        if kind is _CallText:
            parts.extend(
                ToolCallPart(id=call.id, name=call.name, arguments="".join(call.arguments))
                for call in group
                if isinstance(call, _CallText)
            )
            continue
        text = "".join(piece.text for piece in group if not isinstance(piece, _CallText))
        parts.append(TextPart(text=text) if kind is TextDelta else ReasoningPart(text=text))
    return tuple(parts)
