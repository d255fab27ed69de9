"""A model behind another server, as `worker.engines.streamed.Source`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from shared.config import Settings, SettingsFile, variable
from shared.errors import (
    ConfigError,
    GatewayError,
    InvalidRequestError,
    ModelUnavailableError,
    PromptTooLongError,
    UnsupportedContentError,
    WorkerLostError,
)
from shared.fingerprints import recognise
from shared.http_client import Address, AskError, Response, ask
from shared.registry import ModelSpec
from shared.remote_commands import completed
from shared.remotes import FILE, HOPS_HEADER, MOST_HOPS, Remote, parse_remotes
from shared.request import GenerateRequest, Resume
from worker.engines.base import EngineInfo, EngineStats, Output, Prepared
from worker.engines.remote.answer import RemoteAnswer
from worker.engines.remote.anthropic import anthropic_body
from worker.engines.remote.bodies import chat_body, ollama_body
from worker.engines.remote.estimate import Estimate
from worker.engines.remote.messages import MessageWriter
from worker.engines.remote.pieces import Piece, count_of, reading
from worker.engines.remote.presence import Presence
from worker.engines.remote.probing import SlotProbe, may_probe
from worker.engines.remote.profiles import PROFILES, UNKNOWN_CONTEXT_TOKENS, Facts, Profile, Wanted
from worker.engines.remote.reading import pieces_of
from worker.engines.remote.relay import RelayedAnswer, blocks, counted_body, refusal, relayed_body
from worker.engines.remote.supervised import Supervised

log = logging.getLogger(__name__)

_WAIT_S = 5.0  # for a server that may be starting, too
_POLL_S = 0.25
_TRIES = 2  # before anything was said
_RELAYED = "anthropic"  # the dialect, and the shape, whose bodies may be passed on


@dataclass(frozen=True, slots=True, kw_only=True)
class _Payload:
    body: dict[str, Any] | bytes  # bytes: the client's own, passed on
    tokens: int = 0  # estimated


class RemoteSource:
    """See the module's text. A server that is away when the model is loaded is asked again with each request."""

    def __init__(self, spec: ModelSpec, settings: Settings) -> None:
        self._remote = _entry(spec.id, settings)
        remote = self._remote
        key = remote.key or (variable(remote.key_env) if remote.key_env else "")
        self._profile: Profile = PROFILES[remote.profile or "openai"]
        name = self._profile.key_header
        given = {} if not key else {name: key} if name else {"Authorization": f"Bearer {key}"}
        url = remote.url.rstrip("/").removesuffix("/v1")
        self._address = Address(url=url, headers={**self._profile.headers, **given})
        self._facts = Facts(model=remote.model)
        self._is_found = False
        self._estimate = Estimate()
        self._presence = Presence(self._look)
        self._probe = SlotProbe(remote.id, self._words, is_idle=self._is_idle, is_told=lambda: self._facts.slots > 0)
        self._may_probe = may_probe(remote, has_key=bool(key))
        command = completed(remote.command, urlsplit(remote.url).port)
        self._server = Supervised(remote.id, command, _environment(remote)) if command else None

    @property
    def _window(self) -> int:
        """What a person set is for the server to have, and what it has counts."""
        return self._facts.context_tokens or self._remote.context_tokens

    # -- life -----------------------------------------------------------------------------------------------------

    async def load(self, report: Callable[[float], None]) -> EngineInfo:
        report(0.0)
        if self._server is not None:
            self._server.start(report)
        await self._wait(_WAIT_S if self._server is None else self._remote.start_s)
        if self._server is not None:
            self._server.keep()
        self._presence.start()
        if self._may_probe:
            self._probe.start()
        report(1.0)
        remote = self._remote
        return EngineInfo(
            context_tokens=self._window or UNKNOWN_CONTEXT_TOKENS,
            supports_tools=True,
            supports_reasoning=True,
            supports_images=remote.images or self._facts.images,
            capacity=remote.slots or self._facts.slots or 1,
            gives_token_ids=False,
            relays=self._profile.shape if self._profile.shape == _RELAYED else "",
        )

    async def _wait(self, wait_s: float) -> None:
        """For the server, a while: one that is away now may be there later. Raises `ModelUnavailableError` when the
        one that was started here has ended."""
        said: GatewayError | None = None
        try:
            async with asyncio.timeout(wait_s):
                while not self._is_found:
                    if self._server is not None:
                        self._server.check()
                    try:
                        await self._find()
                    except ModelUnavailableError as error:
                        said = error
                        await asyncio.sleep(_POLL_S)
        except TimeoutError:
            log.warning("%s is away: %s", self._remote.id, said)

    async def _look(self) -> None:
        """Nobody asks: who is there, and nothing is loaded for it. Raises `ModelUnavailableError`."""
        await self._find(may_load=False)

    async def _find(self, *, may_load: bool = True) -> None:
        """Who is there, and what it says of the model. Raises `ModelUnavailableError`."""
        remote = self._remote
        if not remote.profile:
            found = await recognise(self._address)
            if found is None:
                raise ModelUnavailableError(f"no server of models answers at {self._address.url}")
            self._profile = PROFILES[found.profile or "openai"]
        wanted = Wanted(model=remote.model, context_tokens=remote.context_tokens, may_load=may_load)
        try:
            with reading():
                facts = await self._profile.find(self._address, wanted)
        except AskError as error:
            raise ModelUnavailableError(f"{self._address.url}: {error}") from error
        self._is_found = facts.is_loaded  # else by the next request
        self._presence.note(True)
        if not facts.is_loaded:
            return
        self._facts = facts
        log.info("%s is %s of %s (%s): %s", remote.id, self._facts.model, remote.url, self._profile.name, self._facts)

    async def close(self) -> None:
        """What was started here ends."""
        await self._probe.close()
        await self._presence.close()
        if self._server is not None:
            await self._server.close()

    # -- beside the loop ------------------------------------------------------------------------------------------

    def prepare(self, request: GenerateRequest, resume: Resume | None = None) -> Prepared:
        if resume is not None and resume.token_ids:
            raise WorkerLostError("another server's answer cannot be gone on with")
        if request.is_raw:
            raise UnsupportedContentError("this server is asked with messages, not with a raw prompt")
        if request.response_pattern or request.response_grammar:
            raise InvalidRequestError("a pattern or a grammar cannot be demanded of another server")
        if request.hops >= MOST_HOPS:
            raise InvalidRequestError(
                f"the request came through {request.hops} gateways: one of them leads back to another (remotes.json)"
            )
        if self._relays(request):
            return Prepared(
                request=request, prompt_tokens=None, payload=_Payload(body=relayed_body(request, self._facts.model))
            )
        body = self._body(request)
        tokens = self._estimate.tokens(body)
        if self._estimate.is_too_long(tokens, self._window):
            raise PromptTooLongError.of(tokens, self._window)
        return Prepared(request=request, prompt_tokens=None, payload=_Payload(body=body, tokens=tokens))

    def _relays(self, request: GenerateRequest) -> bool:
        return bool(request.original) and self._profile.shape == _RELAYED

    def _body(self, request: GenerateRequest) -> dict[str, Any]:
        remote, profile = self._remote, self._profile
        writer = MessageWriter(
            images=remote.images or self._facts.images,
            writes_tools=remote.tools == "prompt",
            keeps_reasoning=profile.keeps_reasoning,
        )
        if profile.shape == "anthropic":
            return anthropic_body(request, self._facts.model, images=remote.images or self._facts.images)
        if profile.shape == "ollama":
            return ollama_body(request, self._facts.model, self._window or UNKNOWN_CONTEXT_TOKENS, writer)
        return chat_body(request, self._facts.model, profile, writer)

    def count(self, request: GenerateRequest) -> int | None:
        """The server alone knows; one of the client's own API is asked."""
        return asyncio.run(self._count_there(request)) if self._relays(request) else None

    async def _count_there(self, request: GenerateRequest) -> int:
        if not self._is_found:
            await self._find()
        body = counted_body(request, self._facts.model)
        try:
            async with self._asked(request, f"{self._profile.path}/count_tokens", body) as response:
                if response.status != 200:
                    raise await self._refused(response, is_relayed=True)
                with reading():
                    counted = count_of((await response.json())["input_tokens"])
        except AskError as error:
            raise WorkerLostError(f"{self._remote.id}: {self._address.url}: {error}") from error
        if counted is None:
            raise WorkerLostError(f"{self._remote.id}: {self._address.url} tells no count of tokens")
        return counted

    def stats(self) -> EngineStats:
        notes = () if self._presence.is_up else (f"{self._address.url} is away",)
        return EngineStats(
            notes=notes, capacity=self._probe.slots, metrics={"upstream_up": float(self._presence.is_up)}
        )

    # -- the loop -------------------------------------------------------------------------------------------------

    async def answer(self, prepared: Prepared) -> AsyncGenerator[Output, None]:
        prepared = await self._found(prepared)
        payload: _Payload = prepared.payload
        if isinstance(payload.body, bytes):
            relayed = RelayedAnswer(self._remote.id)
            async with aclosing(self._tried(relayed, lambda: self._relay(prepared, relayed))) as outputs:
                async for output in outputs:
                    yield output
            return
        answer = RemoteAnswer(prepared.request, prompt_is_full=self._estimate.may_be_full(payload.tokens, self._window))
        async with aclosing(self._tried(answer, lambda: self._stream(prepared, answer))) as outputs:
            async for output in outputs:
                yield output
        self._estimate.learn(payload.body, answer.usage().input_tokens)

    async def _tried(
        self, answer: RemoteAnswer | RelayedAnswer, stream: Callable[[], AsyncGenerator[Output, None]]
    ) -> AsyncGenerator[Output, None]:
        """What one stream says; where the connection broke before it said anything, what another does. Raises
        `WorkerLostError`."""
        for attempt in range(_TRIES):
            try:
                with self._presence.asked():
                    async with aclosing(stream()) as outputs:
                        async for output in outputs:
                            yield output
                return
            except AskError as error:
                self._is_found = False
                if answer.is_started or error.is_silent or attempt == _TRIES - 1:
                    raise WorkerLostError(f"{self._remote.id}: {self._address.url}: {error}") from error

    async def _found(self, prepared: Prepared) -> Prepared:
        """With the body as it is for who is there. Raises `ModelUnavailableError`."""
        if self._is_found:
            return prepared
        await self._find()
        return replace(self.prepare(prepared.request), key=prepared.key)

    def _asked(self, request: GenerateRequest, path: str, body: Any) -> AbstractAsyncContextManager[Response]:
        headers = {**request.original_headers, HOPS_HEADER: str(request.hops + 1)}
        return ask(self._address, path, body, headers=headers, silence_s=self._remote.silence_s)

    async def _relay(self, prepared: Prepared, answer: RelayedAnswer) -> AsyncGenerator[Output, None]:
        """What the server says, as it says it."""
        async with self._asked(prepared.request, self._profile.path, prepared.payload.body) as response:
            if response.status != 200:
                raise await self._refused(response, is_relayed=True)
            answer.opened(response.headers)
            if "event-stream" not in response.headers.get("content-type", "").lower():
                yield Output(key=prepared.key, events=tuple(answer.whole(await response.whole())))
                return
            async with aclosing(blocks(response.lines())) as parts:
                async for block in parts:
                    yield Output(key=prepared.key, events=tuple(answer.feed(block)))
                    if answer.is_over:
                        return
        answer.check()

    async def _stream(self, prepared: Prepared, answer: RemoteAnswer) -> AsyncGenerator[Output, None]:
        async with self._asked(prepared.request, self._profile.path, prepared.payload.body) as response:
            if response.status != 200:
                raise await self._refused(response)
            async with aclosing(pieces_of(response, self._profile.shape, self._remote.id)) as pieces:
                async for piece in pieces:
                    events = answer.feed(piece) if isinstance(piece, Piece) else [piece]
                    if events:
                        yield Output(key=prepared.key, events=tuple(events))
                    if answer.is_over:
                        return
        yield Output(key=prepared.key, events=(*answer.feed(Piece()), *answer.end()))

    def _is_idle(self) -> bool:
        return self._is_found and not self._presence.is_asked

    async def _words(self, request: GenerateRequest) -> AsyncGenerator[Piece, None]:
        """Of an answer that nobody reads: what says something of it. Raises `AskError`, `GatewayError`."""
        async with self._asked(request, self._profile.path, self._body(request)) as response:
            if response.status != 200:
                raise await self._refused(response)
            async with aclosing(pieces_of(response, self._profile.shape, self._remote.id)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Piece) and (piece.text or piece.reasoning):
                        yield piece

    async def _refused(self, response: Response, *, is_relayed: bool = False) -> GatewayError:
        body = await response.whole()
        error = refusal(self._remote.id, response.status, response.headers, body, is_relayed=is_relayed)
        if isinstance(error, PromptTooLongError | ModelUnavailableError):
            self._is_found = False  # what is known of it may not hold any more
        return error


def _entry(model: str, settings: Settings) -> Remote:
    """Raises `ConfigError`."""
    remotes = parse_remotes(SettingsFile(settings, FILE).load())
    found = next((remote for remote in remotes if remote.id == model), None)
    if found is None:
        raise ConfigError(f"{FILE} has no entry {model!r}")
    return found


def _environment(remote: Remote) -> dict[str, str]:
    """Of a server that is started here: the key that it is asked with, and nothing else of ours."""
    return {remote.key_env: variable(remote.key_env)} if remote.key_env else {}
