"""A GGUF model behind llama.cpp's server, as `worker.engines.streamed.Source`.

The server computes; prompts are rendered and answers are read here, as for any other engine, and travel as token ids.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path

from shared.config import Settings, SettingsFile
from shared.errors import ModelUnavailableError
from shared.gguf_config import FILE
from shared.http_client import ask_json
from shared.registry import ModelSpec
from shared.request import GenerateRequest, Resume
from worker.engines.base import EngineInfo, EngineStats, Output, Prepared
from worker.engines.gguf.answering import Answering, Place, Speller
from worker.engines.gguf.command import find_program, flags
from worker.engines.gguf.completion import Defaults
from worker.engines.gguf.cutting import ServerCut
from worker.engines.gguf.forms import MARK
from worker.engines.gguf.holding import HeldMemory
from worker.engines.gguf.media import PATCHES, MediaWriter, Placeholder
from worker.engines.gguf.model_file import GgufModel, find_gguf, find_projector, read_model
from worker.engines.gguf.options import parse_options
from worker.engines.gguf.preparing import Preparing
from worker.engines.gguf.rates import Rates
from worker.engines.gguf.server import LlamaServer
from worker.engines.gguf.slot_files import SlotFiles
from worker.engines.gguf.slot_keeper import SlotKeeper
from worker.engines.gguf.slots import Slots
from worker.engines.gguf.tokenizer import GgufTokenizer
from worker.engines.gguf.vocabulary import Vocabulary
from worker.engines.gguf.window import Window, plan_window
from worker.engines.tokens.output import output_format
from worker.engines.tokens.template_report import report_template
from worker.prompt import PromptBuilder, turn_end
from worker.prompt.days import SharedDays
from worker.prompt.image_files import ImageReader

log = logging.getLogger(__name__)

_DISK_BYTES = 32 << 30


class GgufSource:
    """See the module's text."""

    def __init__(self, spec: ModelSpec, settings: Settings) -> None:
        self._spec = spec
        self._settings = settings
        self._options = parse_options(SettingsFile(settings, FILE).load(), spec.id, spec.options)
        self.server: LlamaServer | None = None
        self._cut: ServerCut | None = None
        self._keeper: SlotKeeper | None = None
        self._memory = HeldMemory(settings)
        self._rates = Rates()
        self._projector: Path | None = None
        self._marker = ""  # of the server, for an image; empty: it sees none

    # -- life -----------------------------------------------------------------------------------------------------

    async def load(self, report: Callable[[float], None]) -> EngineInfo:
        try:
            return await self._load(report)
        except BaseException:
            await self.close()
            raise

    async def _load(self, report: Callable[[float], None]) -> EngineInfo:
        report(0.0)
        model = await asyncio.to_thread(self._read)
        window = self._plan(model)
        self._files = self._open_files(model, window)
        self.server = server = self._new_server(model, window)
        await server.start(report)
        window = await self._true_window()
        self._cut = cut = ServerCut(server)
        tokenizer = self.tokenizer = GgufTokenizer(Vocabulary.of(model.values), model.values, cut)
        info = await asyncio.to_thread(self._build, model, tokenizer, window, await self._has_llguidance())
        self._speller = Speller.of(tokenizer.vocabulary, tokenizer.eos_token_ids)
        self._keeper = SlotKeeper(server, Slots(window.slots), self._files)
        log.info(
            "loaded %s: %s, %d MB of weights, %d slots of %d tokens",
            model.path,
            model.architecture,
            model.weight_bytes >> 20,
            window.slots,
            window.context_tokens,
        )
        report(1.0)
        return info

    def _read(self) -> GgufModel:
        model = read_model(find_gguf(self._spec.source, self._options.file))
        self._projector = find_projector(model.path, self._options.mmproj)
        self._memory.claim(self._weight_bytes(model))
        return model

    def _weight_bytes(self, model: GgufModel) -> int:
        return model.weight_bytes + (self._projector.stat().st_size if self._projector is not None else 0)

    def _plan(self, model: GgufModel) -> Window:
        window = plan_window(
            trained_tokens=model.context_tokens,
            token_bytes=model.token_bytes,
            free_bytes=self._memory.free_bytes(self._weight_bytes(model)),
            wanted_tokens=self._options.context_tokens or self._settings.max_context_tokens,
            slots=min(self._options.slots or 0, self._settings.capacity),
        )
        # The cache is allocated with the weights.
        self._memory.publish(self._weight_bytes(model) + window.total_tokens * model.token_bytes)
        return window

    def _open_files(self, model: GgufModel, window: Window) -> SlotFiles:
        stat = model.path.stat()
        identity = f"{model.path.name} {model.weight_bytes} {stat.st_mtime_ns} {window}"
        folder = self._settings.state_dir / "gguf" / hashlib.blake2b(identity.encode(), digest_size=12).hexdigest()
        most_bytes = self._settings.ssd_cache_bytes or _DISK_BYTES
        files = SlotFiles(folder, most_bytes if self._settings.state_dir.is_absolute() else -1)
        files.open()
        return files

    def _new_server(self, model: GgufModel, window: Window) -> LlamaServer:
        saves = self._files.folder if self._files.is_on else None
        return LlamaServer(
            lambda port: self._command(model.path, port, window, saves),
            port=self._options.port,
            weight_bytes=model.weight_bytes,
            auto_start=self._options.auto_start,
        )

    def _command(self, path: Path, port: int, window: Window, saves: Path | None) -> Sequence[str]:
        program = find_program(self._options.binary)
        given = flags(
            path,
            port=port,
            window=window,
            name=self._spec.id,
            saves=saves,
            projector=self._projector,
            options=self._options,
            is_wheel=program.is_wheel,
        )
        return [*program.command, *given]

    async def _true_window(self) -> Window:
        """What the server has made of what it was asked for."""
        assert self.server is not None
        status, props = await ask_json(self.server.address, "/props")
        if status != 200 or not isinstance(props, dict):
            raise ModelUnavailableError(f"llama.cpp's server does not tell its properties (status {status})")
        if (props.get("modalities") or {}).get("vision"):
            self._marker = str(props.get("media_marker") or "")
        n_ctx = int(props["default_generation_settings"]["n_ctx"])
        slots = min(int(props["total_slots"]), self._settings.capacity)
        return Window(context_tokens=n_ctx, slots=slots)

    async def _has_llguidance(self) -> bool:
        """Whether it takes our grammars: it is tried with one that needs no token."""
        assert self.server is not None
        body = {"prompt": [0], "n_predict": 0, "grammar": f'{MARK}start: "x"\n', "cache_prompt": False}
        status, _ = await ask_json(self.server.address, "/completion", body, silence_s=60.0)
        if status != 200:
            log.warning("this llama.cpp server was built without llguidance: calls cannot be demanded")
        return status == 200

    def _build(self, model: GgufModel, tokenizer: GgufTokenizer, window: Window, has_llguidance: bool) -> EngineInfo:
        control = [str(token.content) for token in tokenizer.added_tokens_decoder.values()]
        ends = [tokenizer.vocabulary.text_of(end) for end in tokenizer.eos_token_ids]
        if end := turn_end(tokenizer, control, ends):
            tokenizer.eos_token_ids.add(tokenizer.get_vocab()[end])
        self._builder, media = self._new_builder(tokenizer, window)
        self._preparing = Preparing(
            tokenizer,
            self._builder,
            Defaults.of(model.values),
            context_tokens=window.context_tokens,
            has_llguidance=has_llguidance,
            media=media,
        )
        format_ = output_format(tokenizer)
        is_harmony = bool(format_.harmony_tokens)
        return EngineInfo(
            context_tokens=window.context_tokens,
            supports_tools=is_harmony or format_.shows_calls,
            supports_reasoning=is_harmony or format_.reasoning is not None,
            supports_images=self._builder.supports_images,
            capacity=window.slots,
            template=report_template(tokenizer, self._builder),
        )

    def _new_builder(self, tokenizer: GgufTokenizer, window: Window) -> tuple[PromptBuilder, MediaWriter | None]:
        """One that shows images, where the server reads them and the model's template has a place for them."""
        for patch in PATCHES if self._marker else ():
            images = ImageReader(Placeholder(patch))
            builder = PromptBuilder(tokenizer, context_tokens=window.context_tokens, images=images)
            if builder.supports_images:
                vocabulary = tokenizer.vocabulary
                control = {index: token.content for index, token in vocabulary.added.items()}
                return builder, MediaWriter(vocabulary.table.pieces, control, patch=patch, marker=self._marker)
        if self._projector is not None:
            log.warning("%s reads no images: its template has no place for one that is known here", self._spec.id)
        return PromptBuilder(tokenizer, context_tokens=window.context_tokens), None

    async def close(self) -> None:
        if self.server is not None:
            if self._keeper is not None:
                await self._keeper.save_all()
            if self._cut is not None:
                self._cut.close()
            await self.server.stop()
            self.server = None
        self._memory.close()

    # -- beside the loop ------------------------------------------------------------------------------------------

    def share_days(self, days: SharedDays) -> None:
        self._builder.share_days(days)

    def prepare(self, request: GenerateRequest, resume: Resume | None = None) -> Prepared:
        return self._preparing.prepare(request, resume)

    def count(self, request: GenerateRequest) -> int:
        return self._builder.count_tokens(request)

    def stats(self) -> EngineStats:
        server = self.server
        return self._rates.stats(starts=server.starts if server is not None else 0, disk_bytes=self._files.size_bytes)

    # -- the loop -------------------------------------------------------------------------------------------------

    async def answer(self, prepared: Prepared) -> AsyncGenerator[Output, None]:
        assert self.server is not None
        assert self._keeper is not None
        tokens, tenant = prepared.payload.prompt.cache_keys, prepared.request.tenant
        await self.server.ready()
        slot, may_reuse = await self._keeper.take(tokens, tenant)
        place = Place(slot=slot.number, may_reuse=may_reuse)
        answering = Answering(prepared, self.server, self._speller, place, self._settings.stall_s)
        try:
            async with aclosing(answering.run()) as outputs:
                async for output in outputs:
                    yield output
        finally:
            self._keeper.give_back(slot, answering.computed, tenant)
            self._rates.observe(answering.pace)
