"""The MLX engine: continuous batching over one model, with a prefix cache.

Each step decodes one token for every running sequence, then prefills one chunk of one prompt. What a chunk or an
answer computed is kept in the prefix cache as soon as a boundary is passed, so prompts that share it, even at the
same moment, compute it once; and whatever a cancelled request computed stays too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import mlx.core as mx

from shared.config import Settings
from shared.errors import InternalError, PromptTooLongError, UnsupportedContentError, WorkerLostError
from shared.events import Event, Failed, Finished, Progress
from shared.grants import Grant
from shared.registry import ModelSpec
from shared.request import PRIORITIES, GenerateRequest, Resume
from worker.answers.form import EndReason
from worker.cache_files.peers import Offer
from worker.device.neighbours import Neighbours
from worker.device.turns import Turn, Turns
from worker.engines.base import EngineInfo, EngineStats, Outbox, Output, Prepared
from worker.engines.mlx.decode.batch import Row, Token, first_token
from worker.engines.mlx.decode.decoder import Decoder
from worker.engines.mlx.decode.parameters import named_logprob
from worker.engines.mlx.decode.speculation import build_speculation
from worker.engines.mlx.kv.eight_bits import BITS
from worker.engines.mlx.kv.peer_files import PeerFiles
from worker.engines.mlx.kv.store import PrefixStore
from worker.engines.mlx.loading import WholeModel, describe, load_whole
from worker.engines.mlx.memory.room import Room
from worker.engines.mlx.model.models import LoadedModel
from worker.engines.mlx.prefill.meter import PrefillMeter
from worker.engines.mlx.prefill.prefiller import Prefiller
from worker.engines.mlx.prefill.sequence import Sequence
from worker.engines.mlx.prefill.vision import Vision
from worker.engines.mlx.preparing import Payload, Preparing
from worker.engines.mlx.samplers import build_sampler
from worker.engines.mlx.tier import open_tier
from worker.engines.tokens.constraints import Constraints
from worker.engines.tokens.output import output_format
from worker.engines.tokens.template_report import report_template
from worker.prefix_cache.tokens import pack_tokens
from worker.prompt import PromptBuilder
from worker.prompt.days import SharedDays
from worker.prompt.image_files import ImageReader

log = logging.getLogger(__name__)

_CLEAR_EVERY_STEPS = 512
_WAIT_S = 0.005


class MlxEngine:
    """See `worker.engines.stepped.Core` for threads and errors."""

    def __init__(self, spec: ModelSpec, settings: Settings) -> None:
        self._spec = spec
        self._settings = settings
        self._loaded: LoadedModel | None = None
        self._meter = PrefillMeter()
        self._sequences: dict[str, Sequence] = {}
        self._steps = 0
        self._interruptions = 0
        self._stats = EngineStats()
        self._turns: Turns | None = None
        self._neighbours: Neighbours | None = None

    # -- life -----------------------------------------------------------------------------------------------------

    def open_turns(self) -> Turns | None:
        if self._settings.state_dir.is_absolute():  # what all workers of this host have in common
            self._turns = Turns(self._settings.state_dir / "device", mx.synchronize)
        return self._turns

    @property
    def _turn(self) -> Turn:
        """For one piece of work outside `step`."""
        return self._turns.turn if self._turns is not None else nullcontext

    def load(self, report: Callable[[float], None]) -> EngineInfo:
        try:
            return self._load(report)
        except BaseException:
            self._leave_host()
            raise

    def _load(self, report: Callable[[float], None]) -> EngineInfo:
        if self._settings.state_dir.is_absolute():  # what all workers of this host have in common
            self._neighbours = Neighbours(self._settings.state_dir / "device")
        found = load_whole(self._spec, self._settings, self._neighbours, report, self._turn)
        loaded, self._layout, self._size = found.model, found.layout, found.size
        self._plan, self._weight_bytes, self._draft_bytes = found.plan, found.weight_bytes, found.draft_cache_bytes
        self._context_tokens = found.context_tokens
        self._build_for_requests(loaded)
        self._build_for_device(found)
        self._loaded = loaded
        log.info("loaded %s: %s", found.folder, describe(found, self.store.max_bytes))
        is_harmony = bool(output_format(loaded.tokenizer).harmony_tokens)
        return EngineInfo(
            context_tokens=self._context_tokens,
            supports_tools=is_harmony or output_format(loaded.tokenizer).shows_calls,
            supports_reasoning=is_harmony or output_format(loaded.tokenizer).reasoning is not None,
            supports_images=self._builder.supports_images,
            capacity=self._settings.capacity,
            can_pause=True,
            template=report_template(loaded.tokenizer, self._builder),
            identity=loaded.identity,
        )

    def _build_for_requests(self, loaded: LoadedModel) -> None:
        """What works beside the engine thread."""
        eyes = loaded.eyes
        reader = ImageReader(eyes.processor) if eyes is not None else None
        self._builder = PromptBuilder(
            loaded.tokenizer,
            context_tokens=self._context_tokens,
            vocab=loaded.vocab,
            images=reader,
            closes_reasoning=output_format(loaded.tokenizer).closing is not None,
            no_images=loaded.no_images,
        )
        self._vision = Vision(eyes, reader) if eyes is not None and reader is not None else None
        self._constraints = Constraints(loaded.tokenizer, vocab=loaded.vocab)
        self._preparing = Preparing(loaded, self._builder, self._constraints)

    def _build_for_device(self, found: WholeModel) -> None:
        """What belongs to the engine thread."""
        settings, loaded, size = self._settings, found.model, self._size
        self._tier = open_tier(loaded.fingerprint, found.form, settings)
        self.store = PrefixStore(
            loaded.model,
            self._layout,
            fingerprint=loaded.fingerprint,
            block_tokens=settings.cache_block_tokens,
            min_reuse_tokens=settings.cache_min_reuse_tokens,
            max_bytes=self._plan.cache_bytes - self._draft_bytes,
            slots=settings.cache_max_slots,
            recompute_s=self._meter.predict_s,
            segment_bytes=size.predict,
            token_bytes=size.token_bytes,
            disk=self._tier.disk,
            is_packed=settings.cache_bits == BITS,
        )
        self._builder.learn(*self.store.learnt)
        self._room = Room(self._plan, size, self.store, self._neighbours, weight_bytes=self._weight_bytes)
        with self._turn():
            self._speculation = build_speculation(found.mode, loaded, found.draft, draft_cache_bytes=self._draft_bytes)
        self._decoder = Decoder(loaded, self._layout, self._speculation, size=size, room=self._room)
        self._peer_files = PeerFiles(self.store, self._tier.peers, lambda: self._meter.cost, settings)
        self._prefiller = Prefiller(
            loaded.model,
            self._layout,
            self.store,
            self._meter,
            settings,
            size=size,
            room=self._room,
            vision=self._vision,
            peer_files=self._peer_files,
        )

    def unload(self) -> None:
        self._sequences.clear()
        if self._loaded is not None:
            self._loaded = None
            self._decoder.clear()
            if self._vision is not None:
                self._vision.close()
            self._tier.close()
            self.store.shut_down(self._turn)
            del self.store, self._prefiller, self._decoder, self._speculation, self._room
            mx.clear_cache()
        self._leave_host()

    def _leave_host(self) -> None:
        if self._neighbours is not None:
            self._neighbours.close()
            self._neighbours = None

    # -- beside the engine thread ---------------------------------------------------------------------------------

    def locate(self, request: GenerateRequest, grant: Grant) -> Offer | None:
        return self._tier.locate(request, grant, self._model.fingerprint, self._builder.learn)

    def take_over(self, grant: Grant, part: int, parts: int) -> None:
        self._tier.take_over(grant, part, parts)

    def share_days(self, days: SharedDays) -> None:
        self._builder.share_days(days)

    def prepare(self, request: GenerateRequest, resume: Resume | None = None) -> Prepared:
        return self._preparing.prepare(request, resume)

    def count(self, request: GenerateRequest) -> int:
        return self._builder.count_tokens(request)

    def stats(self) -> EngineStats:
        return self._stats

    # -- the engine thread ----------------------------------------------------------------------------------------

    def submit(self, prepared: Prepared) -> None:
        request = prepared.request
        payload: Payload = prepared.payload
        answer = payload.answer
        room = self._room.check_fits(len(payload.prompt.tokens), self._context_tokens)
        wanted = request.sampling.max_tokens
        answer.limit = room if wanted is None else min(wanted, room)
        answer.is_bound_by_context = wanted is None or wanted > room
        sequence = self._sequences[prepared.key] = Sequence(
            key=prepared.key,
            request=request,
            prompt=payload.prompt,
            packed=payload.packed,
            params=payload.params,
            grammar=payload.grammar,
            max_new_tokens=answer.limit,
            answer=answer,
            submitted_s=time.monotonic(),
        )
        if payload.resume is not None:
            sequence.resume(payload.resume.usage)
        if prepared.offer is not None:
            sequence.awaited = self._peer_files.begin(prepared.offer, prepared.request.tenant, sequence.packed)
        self._update_stats()

    def pause(self, key: str) -> None:
        if (sequence := self._sequences.get(key)) is None or sequence.is_paused:
            return
        if sequence.lease is not None:
            self._keep(sequence)
            if sequence.is_decoding:
                self._decoder.interrupt(key)
            self.store.close(sequence.lease)
            sequence.interrupt()
        # Behind those that are paused already: they go on in this order.
        self._sequences[key] = self._sequences.pop(key)
        sequence.is_paused = True
        self._update_stats()

    def _go_on(self) -> None:
        """With those that were paused, the first first, where there is a place again."""
        paused = [sequence for sequence in self._sequences.values() if sequence.is_paused]
        places = self._settings.capacity - (len(self._sequences) - len(paused))
        for sequence in paused[: max(0, places)]:
            sequence.is_paused = False

    def cancel(self, key: str) -> None:
        if (sequence := self._sequences.get(key)) is not None:
            self._end(sequence)
            self._update_stats()

    def has_work(self) -> bool:
        return bool(self._sequences)

    def step(self, outbox: Outbox, arrive: Callable[[], None] = lambda: None) -> bool:
        self._go_on()
        self._relieve()
        self._peer_files.collect()
        self.store.collect()
        decoded = self._ended_already() + self._decode()
        if decoded:
            outbox.emit(decoded)
        arrive()
        prefilled = self._prefill(outbox)
        if prefilled is not None:
            outbox.emit([prefilled])
        elif self._room.is_refusing:
            outbox.alive()  # waiting for memory, not hanging
        self._steps += 1
        if self._steps % _CLEAR_EVERY_STEPS == 0:
            mx.clear_cache()
        self._update_stats()
        return bool(decoded) or prefilled is not None or len(self._decoder) > 0

    def needs_turn(self) -> bool:
        self._room.look(0)
        return self._room.is_over or self.store.has_copying or self._peer_files.has_arrived

    def idle(self) -> float:
        self._relieve()
        self._peer_files.collect()
        self.store.collect(is_idle=True)
        self._room.tell(is_idle=True)
        self._stats = replace(self._stats, residents=self.store.residents(), cache_bytes=self.store.nbytes)
        return self._room.rest_s

    def wait(self) -> None:
        """For what others compute for this thread, or until they, whose turn it may be, have given memory up."""
        if self._vision is not None and self._vision.is_waiting:
            self._vision.wait(_WAIT_S)
        elif self._room.is_refusing:
            time.sleep(_WAIT_S)
        else:
            self.store.wait_for_disk(_WAIT_S)

    @property
    def _model(self) -> LoadedModel:
        assert self._loaded is not None, "the model is not loaded"
        return self._loaded

    # -- decode ---------------------------------------------------------------------------------------------------

    def _ended_already(self) -> list[Output]:
        """Of the answers that were resumed, those that their first attempt had told to the end but for the end."""
        ended = [s for s in self._sequences.values() if s.is_resumed and s.lease is None and s.answer.end is not None]
        outputs = [Output(key=s.key, events=tuple(self._finish(s, s.answer.end or "stop"))) for s in ended]
        for sequence in ended:
            self._end(sequence)
        return outputs

    def _decode(self) -> list[Output]:
        events: dict[str, list[Event]] = {}
        token_ids: dict[str, list[int]] = {}
        for token in self._decoder.step():
            sequence = self._sequences.get(token.key)
            if sequence is None:
                continue  # it ended with an earlier token of this step
            taken, is_over = self._take(sequence, token)
            events.setdefault(token.key, []).extend(taken)
            token_ids.setdefault(token.key, []).append(token.token)
            if is_over:
                self._end(sequence)
        return [Output(key=key, events=tuple(events[key]), token_ids=tuple(ids)) for key, ids in token_ids.items()]

    def _take(self, sequence: Sequence, token: Token) -> tuple[list[Event], bool]:
        """One generated token: its events, and whether it was the last."""
        try:
            return self._read(sequence, token)
        except Exception as error:  # one answer that cannot be read must not end the others
            log.exception("request %s: the answer cannot be read", sequence.key)
            return [Failed.of(InternalError(f"the answer cannot be read: {type(error).__name__}"))], True

    def _read(self, sequence: Sequence, token: Token) -> tuple[list[Event], bool]:
        if sequence.sampler is not None and sequence.sampler.is_broken:
            return [Failed.of(InternalError("the answer left the form that was demanded"))], True
        logprob = named_logprob(output_format(self._model.tokenizer).texts, token.token, token.logprobs)
        events = sequence.answer.take(token.token, logprob)
        reason = sequence.answer.end
        if reason is None:
            return events, False
        return events + self._finish(sequence, reason), True

    def _finish(self, sequence: Sequence, reason: EndReason) -> list[Event]:
        rest, final, stop_sequence = sequence.answer.finish(reason)
        return [*rest, Finished(reason=final, usage=sequence.usage(), stop_sequence=stop_sequence)]

    # -- prefill --------------------------------------------------------------------------------------------------

    def _prefill(self, outbox: Outbox) -> Output | None:
        waiting = [sequence for sequence in self._sequences.values() if sequence.is_waiting]
        if not waiting or not self._prefiller.is_due(self._decoder.last_s, self._sequences.values()):
            return None
        # Streams of another process on this device stall as ours do.
        is_decoding = len(self._decoder) > 0 or (self._turns is not None and self._turns.is_contended)
        sequence = self._prefiller.pick(waiting, is_decoding=is_decoding)
        if sequence is None:
            return self._refuse(waiting) if self._room.is_refusing else None
        if sequence.lease is None and not self._prefiller.begin(sequence):
            return None
        events: list[Event] = [*sequence.open(outbox)]
        self._decoder.disturbed()
        try:
            logits = self._prefiller.advance(sequence, decode_step_s=self._decoder.step_s, is_decoding=is_decoding)
        except UnsupportedContentError as error:
            self._end(sequence)
            return Output(key=sequence.key, events=(*events, Failed.of(error)))
        if logits is None:
            if not (sequence.is_resumed or sequence.generated):  # else progress may come within a tool call
                events.append(Progress(phase="prefill", done_tokens=sequence.position, total_tokens=sequence.total))
            return Output(key=sequence.key, events=tuple(events))
        return self._first(sequence, logits, events)

    def _first(self, sequence: Sequence, logits: mx.array, events: list[Event]) -> Output:
        """The first token after a prompt."""
        try:
            sequence.sampler = sequence.sampler or build_sampler(self._model, self._constraints, sequence)
        except WorkerLostError as error:
            self._end(sequence)
            return Output(key=sequence.key, events=(Failed.of(error),))
        token = first_token(sequence.key, sequence.sampler, logits)
        taken, is_over = self._take(sequence, token)
        if is_over:
            self._end(sequence)
        else:
            self._join(sequence, token.token)
        return Output(key=sequence.key, events=(*events, *taken), token_ids=(token.token,))

    def _refuse(self, waiting: list[Sequence]) -> Output | None:
        """There is no memory for any of those that wait: the end of one that can never fit any more, because other
        models were loaded since it was taken in."""
        for sequence in waiting:
            try:
                self._room.check_fits(sequence.total, self._context_tokens)
            except PromptTooLongError as error:
                self._end(sequence)
                return Output(key=sequence.key, events=(Failed.of(error),))
        return None

    def _join(self, sequence: Sequence, token: int) -> None:
        assert sequence.cache is not None
        assert sequence.sampler is not None
        row = Row(key=sequence.key, sampler=sequence.sampler, length=sequence.total, moved=sequence.moved)
        for key in self._decoder.join(row, sequence.cache, token):
            lease = self._sequences[key].lease
            assert lease is not None
            self.store.give_back(lease)
        self._speculation.begin(sequence.key, [*sequence.tokens, token], longest=sequence.longest)
        sequence.cache, sequence.is_decoding = None, True

    # -- ends -----------------------------------------------------------------------------------------------------

    def _end(self, sequence: Sequence) -> None:
        """Take the sequence out, keeping what it computed."""
        self._keep(sequence)
        if sequence.lease is not None and sequence.answer.spelling is not None:
            self.store.note(sequence.lease, sequence.answer.spelling, start=len(sequence.prompt.tokens))
        if sequence.is_decoding:
            self._decoder.leave(sequence.key)
        for held in (sequence.lease, sequence.fetching):
            if held is not None:
                self.store.close(held)
        self._peer_files.leave(sequence.awaited)
        del self._sequences[sequence.key]

    def _keep(self, sequence: Sequence) -> None:
        """Commit what it has computed so far."""
        lease = sequence.lease
        if sequence.is_decoding:
            assert lease is not None
            packed = sequence.packed + pack_tokens(sequence.generated[sequence.total - len(sequence.prompt.tokens) :])
            handed_out = len(sequence.prompt.tokens) + len(sequence.generated)
            length = min(self._decoder.length(sequence.key), handed_out)
            self.store.commit(
                lease, packed, length, lambda a, b: self._decoder.capture(sequence.key, a, b, lease.buffer)
            )
        elif lease is not None:
            self._prefiller.keep_all(sequence)

    # -- memory ---------------------------------------------------------------------------------------------------

    def _relieve(self) -> None:
        """Bring memory back under its limit: prefixes go first, then the latest request of the lowest class waits."""
        self._room.look(self._prefiller.growth_bytes(self._sequences.values()))
        if self._room.relieve():
            return
        decoding = [sequence for sequence in self._sequences.values() if sequence.is_decoding]
        if len(decoding) > 1 or (decoding and self._room.is_shared):
            self._interrupt(max(reversed(decoding), key=lambda sequence: PRIORITIES.index(sequence.request.priority)))

    def _interrupt(self, sequence: Sequence) -> None:
        """Give up a decoding sequence's cache for now; it goes on where it was as soon as there is room."""
        assert sequence.lease is not None
        log.warning(
            "request %s is interrupted for want of memory, after %d tokens", sequence.key, len(sequence.generated)
        )
        self._decoder.interrupt(sequence.key)
        self.store.close(sequence.lease)
        sequence.interrupt()
        self._interruptions += 1

    # -- numbers --------------------------------------------------------------------------------------------------

    def _update_stats(self) -> None:
        self._room.tell(is_idle=not self._sequences)
        waiting = [sequence for sequence in self._sequences.values() if sequence.is_waiting]
        self._stats = EngineStats(
            running=len(self._decoder),
            waiting=len(self._sequences) - len(self._decoder),
            waiting_tokens=sum(sequence.total - self._prefiller.depth(sequence) for sequence in waiting),
            waiting_s=self._prefiller.waiting_s(waiting),
            prefill_tokens_per_s=self._meter.cost.tokens_per_s,
            prefill_cost=self._meter.cost,
            decode_tokens_per_s=self._decoder.tokens_per_s,
            cache_bytes=self.store.nbytes,
            notes=(self.store.kept_note,) if self.store.kept_note else (),
            residents=self.store.residents(),
            kept_bytes_per_token=self._tier.bytes_per_token(self._size),
            link_bytes_per_s=self._tier.rates(),
            metrics={
                **self.store.metrics,
                **self._tier.metrics,
                **{f"computed_tokens_{why}": n for why, n in self._prefiller.computed_tokens.items()},
                "decode_groups": self._decoder.groups,
                "decode_slack_ms": 1000 * self._decoder.slack_s,
                **self._speculation.metrics,
                "interruptions": self._interruptions,
                "memory_bytes": mx.get_active_memory(),
                "memory_limit_bytes": self._room.limit_bytes,
                "memory_neighbour_bytes": self._room.neighbour_bytes,
            },
        )
