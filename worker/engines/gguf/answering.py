"""One request at the server: asked, read chunk by chunk, and asked again where the server was lost."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

import orjson

from shared.errors import InternalError, WorkerLostError
from shared.events import Event, Finished, Progress, Started, TokenLogprob, Usage
from shared.http_client import AskError, Response, ask, events
from worker.engines.base import Output, Prepared
from worker.engines.gguf.completion import Chunk, Form, parse_chunk, render_body, told_tokens, translate
from worker.engines.gguf.preparing import Payload
from worker.engines.gguf.rates import Pace
from worker.engines.gguf.server import LlamaServer
from worker.engines.gguf.vocabulary import Vocabulary

_TRIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Speller:
    """The vocabulary's bytes by token, and its tokens by bytes. `control` are tokens that may be an end to the server
    alone: they wait until it goes on."""

    pieces: Sequence[bytes]
    by_bytes: Mapping[bytes, int]
    control: frozenset[int]

    @classmethod
    def of(cls, vocabulary: Vocabulary, ends: Collection[int]) -> Speller:
        pieces = vocabulary.table.pieces
        return cls(
            pieces=pieces,
            by_bytes={piece: index for index, piece in enumerate(pieces) if piece},
            control=frozenset(i for i, token in vocabulary.added.items() if token.special and i not in ends),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a request runs: the slot, how much of the prompt it has, and whether that may be used."""

    slot: int
    may_reuse: bool


class Answering:
    """`tokens` is the prompt and what came, as far as it came."""

    def __init__(
        self, prepared: Prepared, server: LlamaServer, speller: Speller, place: Place, silence_s: float
    ) -> None:
        self._key = prepared.key
        payload: Payload = prepared.payload
        self._payload = payload
        self._answer = payload.answer
        self._server = server
        self._speller = speller
        self._place = place
        self._silence_s = silence_s
        self._resumed = payload.resume
        self._is_started = self._resumed is not None
        self._cached_tokens = 0
        self._prompt_tokens = len(payload.prompt.tokens)  # with images: until the server says how many it made of it
        self._predicted = self._prefilled = 0
        self._held: list[tuple[int, TokenLogprob | None]] = []
        self.pace = Pace()
        self.is_over = False

    @property
    def tokens(self) -> list[int]:
        return [*self._payload.prompt.tokens, *self._answer.tokens]

    @property
    def computed(self) -> list[int]:
        """Those of the tokens that the slot has, as far as is known; images by ids of their own."""
        if self._payload.media is not None:
            return [*self._payload.prompt.cache_keys, *self._answer.tokens] if self._answer.tokens else []
        return self.tokens if self._answer.tokens else self._payload.prompt.tokens[: self._prefilled]

    def usage(self) -> Usage:
        if self._resumed is not None:
            usage = self._resumed.usage
        else:
            usage = Usage(input_tokens=self._prompt_tokens, cached_tokens=self._cached_tokens)
        return replace(usage, output_tokens=len(self._answer.tokens), reasoning_tokens=self._answer.reasoning_tokens)

    async def run(self) -> AsyncGenerator[Output, None]:
        """All outputs. What a lost server had said is kept: the next goes on behind it."""
        if self._answer.end is not None:  # an earlier attempt had told all but the end
            yield self._output(self._finish(), ())
            return
        for attempt in range(_TRIES):
            await self._server.ready()
            try:
                async with aclosing(self._ask()) as outputs:
                    async for output in outputs:
                        yield output
                return
            except AskError as error:
                await self._server.lost(is_silent=error.is_silent)
                if self._answer.tokens and (self._payload.form != Form() or self._payload.media is not None):
                    words = "a demanded form" if self._payload.media is None else "an answer about images"
                    raise WorkerLostError(f"llama.cpp's server was lost within {words}: {error}") from error
                if attempt == _TRIES - 1:
                    raise WorkerLostError(f"llama.cpp's server was lost {_TRIES} times: {error}") from error

    async def _ask(self) -> AsyncGenerator[Output, None]:
        limit = (self._answer.limit or 0) - len(self._answer.tokens)
        media = self._payload.media
        body = render_body(
            self.tokens if media is None else media.render(),
            limit=limit,
            slot=self._place.slot,
            sampling=self._payload.sampling,
            form=self._payload.form,
            may_reuse=self._place.may_reuse,
        )
        self._predicted = 0
        self._held = []
        async with ask(self._server.address, "/completion", body, silence_s=self._silence_s) as response:
            if response.status != 200:
                raise translate(response.status, await response.json())
            async with aclosing(_chunks(response)) as chunks:
                async for chunk in chunks:
                    if (output := self._read(chunk)) is not None:
                        yield output
                    if self.is_over:
                        return
        raise AskError("the stream ended before the answer did", has_answered=True)

    def _read(self, chunk: Chunk) -> Output | None:
        if chunk.progress is not None:
            return self._progressed(*chunk.progress)
        tokens = told_tokens(chunk, self._predicted, self._speller.pieces, self._speller.by_bytes)
        self._predicted = max(chunk.predicted, self._predicted)
        self.pace.generated(len(tokens))
        told = [(token, _untold(chunk.logprob)) for token in tokens[:-1]]
        told += [(token, chunk.logprob) for token in tokens[-1:]]
        told, self._held = [*self._held, *told], []
        if chunk.is_last and chunk.stop_type == "eos":
            told = []  # the server's own end, which our files do not name
        elif not chunk.is_last and told and told[-1][0] in self._speller.control:
            self._held = [told.pop()]
        events_, taken = self._take(told)
        if self._answer.end is not None or chunk.is_last:
            events_ += self._finish(chunk)
        if events_ or taken:
            return self._output([*self._start(0), *events_], tuple(taken))
        return None

    def _take(self, told: Sequence[tuple[int, TokenLogprob | None]]) -> tuple[list[Event], list[int]]:
        """The events of tokens, and those that count: none behind the end."""
        events_: list[Event] = []
        taken: list[int] = []
        for token, logprob in told:
            events_ += self._answer.take(token, logprob)
            taken.append(token)
            if self._answer.end is not None:
                break
        return events_, taken

    def _progressed(self, done: int, total: int, cached: int) -> Output | None:
        if self._payload.media is not None:
            self._prompt_tokens = total
        started = self._start(cached)
        self._prefilled = done
        if self._resumed is not None or self._answer.tokens:  # else progress may come within a tool call
            return None
        return self._output([*started, Progress(phase="prefill", done_tokens=done, total_tokens=total)], ())

    def _start(self, cached: int) -> list[Event]:
        if self._is_started:
            return []
        self._is_started, self._cached_tokens = True, cached
        self.pace.begin(len(self._payload.prompt.tokens), cached)
        return [Started(usage=self.usage())]

    def _finish(self, chunk: Chunk | None = None) -> list[Event]:
        self.is_over = True
        reason = self._answer.end
        if reason is None and chunk is not None:
            if chunk.stop_type not in ("eos", "limit", "word"):
                raise InternalError(f"llama.cpp's server ended an answer without a reason ({chunk.stop_type})")
            reason = "stop" if chunk.stop_type != "limit" else "length"
        rest, final, stop_sequence = self._answer.finish(reason or "stop")
        return [*rest, Finished(reason=final, usage=self.usage(), stop_sequence=stop_sequence)]

    def _output(self, events_: list[Event], tokens: tuple[int, ...]) -> Output:
        return Output(key=self._key, events=tuple(events_), token_ids=tokens)


def _untold(logprob: TokenLogprob | None) -> TokenLogprob | None:
    """Of a token that the server held back: that it was one is all that is known."""
    return None if logprob is None else TokenLogprob(token="", logprob=0.0)


async def _chunks(response: Response) -> AsyncGenerator[Chunk, None]:
    async for data in events(response):
        if data:
            yield parse_chunk(orjson.loads(data))
