"""A GGUF file of an embedding model behind llama.cpp's server, as `worker.engines.base.Embedder`."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from shared.config import Settings, SettingsFile
from shared.errors import WorkerLostError
from shared.events import Embedded
from shared.gguf_config import FILE
from shared.http_client import AskError, ask_json
from shared.registry import ModelSpec
from shared.work import KINDS, Embed, unpack_ids
from worker.engines.base import EngineInfo
from worker.engines.gguf.command import embedding_flags, find_program
from worker.engines.gguf.holding import HeldMemory
from worker.engines.gguf.model_file import GgufModel, find_gguf, read_model
from worker.engines.gguf.options import parse_options
from worker.engines.gguf.server import LlamaServer
from worker.engines.gguf.vectors import PATH, parse_vectors, refusal, relevance, render_inputs
from worker.engines.gguf.window import Window
from worker.engines.loop_end import settle
from worker.engines.no_answers import NoAnswers

log = logging.getLogger(__name__)

_MOST_TOKENS: Final = 8192  # of a text, where a person sets no other: the server holds room for all of one at once
_MOST_SLOTS: Final = 4
_BATCH: Final = 64  # inputs of one request
_TRIES: Final = 2
_Input = str | Sequence[int]
_Result = TypeVar("_Result")


class GgufEmbedder(NoAnswers):
    """See the module's text. The server and what is asked of it live on a loop of its own thread."""

    def __init__(self, spec: ModelSpec, settings: Settings) -> None:
        self._spec = spec
        self._options = parse_options(SettingsFile(settings, FILE).load(), spec.id, spec.options)
        self._settings = settings
        self._memory = HeldMemory(settings)
        self._server: LlamaServer | None = None
        self._window = Window(context_tokens=0, slots=1)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._turn, name="engine", daemon=True)

    def _turn(self) -> None:
        assert self._loop is not None
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def load(self, report: Callable[[float], None]) -> EngineInfo:
        report(0.0)
        self._loop = asyncio.new_event_loop()
        self._thread.start()
        model = read_model(find_gguf(self._spec.source, self._options.file))
        self._memory.claim(model.weight_bytes)
        self._window = Window(
            context_tokens=min(model.context_tokens, self._options.context_tokens or _MOST_TOKENS),
            slots=min(self._options.slots or _MOST_SLOTS, self._settings.capacity),
        )
        self._memory.publish(model.weight_bytes + self._window.total_tokens * model.token_bytes)
        self._server = self._new_server(model)
        self._run(self._server.start(report))
        report(1.0)
        log.info("loaded %s: %s, texts of %d tokens", model.path, model.architecture, self._window.context_tokens)
        return EngineInfo(context_tokens=self._window.context_tokens, kinds=(KINDS[Embed].name,), gives_token_ids=False)

    def _new_server(self, model: GgufModel) -> LlamaServer:
        return LlamaServer(
            lambda port: self._command(model.path, port),
            port=self._options.port,
            weight_bytes=model.weight_bytes,
            auto_start=self._options.auto_start,
        )

    def _command(self, path: Path, port: int) -> Sequence[str]:
        program = find_program(self._options.binary)
        given = embedding_flags(
            path, port=port, window=self._window, name=self._spec.id, options=self._options, is_wheel=program.is_wheel
        )
        return [*program.command, *given]

    def _run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    # --- embedding -----------------------------------------------------------------------------------------------

    def embed(self, work: Embed) -> Embedded:
        """Any number of threads may ask at once. Raises `PromptTooLongError`, `InvalidRequestError` and
        `WorkerLostError`."""
        texts = (work.query, *work.texts) if work.query else work.texts
        inputs: list[_Input] = [*texts, *map(unpack_ids, work.rows)]
        return self._run(self._embedded(inputs, is_ranked=bool(work.query)))

    async def _embedded(self, inputs: Sequence[_Input], *, is_ranked: bool) -> Embedded:
        made, input_tokens = [], 0
        for start in range(0, len(inputs), _BATCH):
            vectors, tokens = await self._asked(inputs[start : start + _BATCH])
            made += vectors
            input_tokens += tokens
        if is_ranked:
            scores = tuple(relevance(made[0], vector) for vector in made[1:])
            return Embedded(vectors=scores, input_tokens=input_tokens)
        return Embedded(vectors=tuple(vector.tobytes() for vector in made), input_tokens=input_tokens)

    async def _asked(self, inputs: Sequence[_Input]) -> tuple[list[Any], int]:
        """Once more where the server died over it. Raises `WorkerLostError`."""
        server = self._server
        assert server is not None
        said: AskError | None = None
        for _ in range(_TRIES):
            await server.ready()
            try:
                body = render_inputs(inputs)
                status, data = await ask_json(server.address, PATH, body, silence_s=self._settings.stall_s)
            except AskError as error:
                said = error
                await server.lost(is_silent=error.is_silent)
                continue
            if status != 200:
                raise refusal(status, data, self._window.context_tokens)
            return parse_vectors(data, len(inputs))
        raise WorkerLostError(f"llama.cpp's server: {said}")

    def unload(self, timeout_s: float) -> bool:
        server, self._server = self._server, None
        if server is not None:
            self._run(server.stop())
        self._memory.close()
        if self._loop is not None and self._thread.is_alive():
            self._run(settle())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout_s)
        return not self._thread.is_alive()
