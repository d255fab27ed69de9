"""The supervisor of one Mac: which models it may serve, one worker process each, and what the fleet hears of them."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from redis.exceptions import RedisError

from shared import keys, wire
from shared.beats import until_beat_s
from shared.cache_settings import FILE as CACHE_SETTINGS
from shared.cache_settings import parse_cache_settings, with_cache_settings
from shared.config import (
    Settings,
    SettingsFile,
    child_environment,
    load_settings,
    model_folders,
    resolve_source,
    setting_sources,
)
from shared.connections import build_async_redis, build_redis
from shared.errors import ConfigError
from shared.keys import Names, word
from shared.log import set_up_logging
from shared.options import ENGINE_OPTIONS
from shared.parsed_file import ParsedFile
from shared.processes import EXIT_LEFT
from shared.registry import (
    ENGINE_NAMES,
    EngineName,
    HostRecord,
    ModelSpec,
    default_keep_alive_s,
    model_id_of,
    parse_models,
)
from shared.remotes import FILE as REMOTES
from shared.remotes import parse_remotes
from shared.routing import Target, parse_tiers
from shared.seal import Purpose, host_keys
from shared.service import tell_ready
from shared.steady import Steady
from worker.device.turns import read_holder
from worker.host.awake import build_awake, keep_awake
from worker.host.clock import ClockOffset
from worker.host.figures import MachineFigures
from worker.host.hung import StoppedWorkers, hung_worker
from worker.host.leaving import leave
from worker.host.lending import Lender
from worker.host.memory import MemoryKeeper
from worker.host.pressure import build_pressure
from worker.host.requests import Requests
from worker.host.revoked import Revocations
from worker.host.sign import SignOfLife
from worker.host.supervision import ModelSupervisor, Surroundings
from worker.model_folder import engine_of
from worker.rq.reaping import reap

logger = logging.getLogger(__name__)

DEMO_MODEL = Path(__file__).parents[1] / "demo_model"
_CHECK_S = 1.0
_END_S = 2.0
_BURY_S = 5.0


def named_models(sources: Sequence[str], engine: EngineName) -> tuple[ModelSpec, ...]:
    """Specs of the models named on the command line; a folder that exists wins over a Hugging Face id."""
    resolved = [resolve_source(source) for source in sources]
    return tuple(
        ModelSpec(id=model_id_of(source), source=source, engine=engine_of(source, engine)) for source in resolved
    )


def demo_model(engine: EngineName) -> ModelSpec:
    """What is served when nobody named a model."""
    if engine == "mlx":
        return ModelSpec(id="demo", source=str(DEMO_MODEL), engine=engine)
    return ModelSpec(id=engine, source=engine, engine=engine)


def merge_models(named: Sequence[ModelSpec], listed: Sequence[ModelSpec]) -> dict[str, ModelSpec]:
    """By id, the command line's before the file's. Raises `ConfigError` when two of either share an id."""
    for specs in (named, listed):
        ids = [spec.id for spec in specs]
        for twice in sorted({name for name in ids if ids.count(name) > 1}):
            raise ConfigError(f"two models are called {twice!r}: give each an `id` of its own in models.json")
    return {spec.id: spec for spec in (*listed, *named)}


def add_tier_models(models: Mapping[str, ModelSpec], tiers: Mapping[str, Target]) -> dict[str, ModelSpec]:
    """The models, and those that a tier names together with the engine to serve them (`backend`), loaded when they are
    asked for. Raises `ConfigError` where a tier wants a model from another engine than it has."""
    added = dict(models)
    for name, tier in tiers.items():
        engine = next((known for known in ENGINE_NAMES if known == tier.backend), None)
        if engine is None:
            continue
        there = next((spec for spec in added.values() if tier.model in (spec.id, spec.source)), None)
        if there is None:
            source = resolve_source(tier.model)
            spec = ModelSpec(id=model_id_of(source), source=source, engine=engine, load="on-demand")
            added[spec.id] = spec
        elif there.engine != engine:
            raise ConfigError(
                f"claude_routing.json: tier {name!r} wants {there.id!r} from {engine}; it is served by {there.engine}"
            )
    return added


def give_drafts(models: Mapping[str, ModelSpec], tiers: Mapping[str, Target]) -> dict[str, ModelSpec]:
    """The models with the draft models that tiers name for them, by id or source; what a model's own options in
    models.json say comes before. Raises `ConfigError` when two tiers name different ones for a model, or its engine
    takes none."""
    given: dict[str, str] = {}
    for tier in tiers.values():
        for spec in models.values() if tier.draft_model else ():
            if tier.model not in (spec.id, spec.source) or spec.options.keys() & {"draft", "draft_model"}:
                continue
            if "draft_model" not in ENGINE_OPTIONS[spec.engine]:
                raise ConfigError(
                    f"claude_routing.json: `draft_model` for {spec.id!r}: engine {spec.engine} takes none"
                )
            draft = models[tier.draft_model].source if tier.draft_model in models else resolve_source(tier.draft_model)
            if given.setdefault(spec.id, draft) != draft:
                raise ConfigError(f"claude_routing.json: two tiers name different draft models for {spec.id!r}")
    return {
        key: replace(spec, options={**spec.options, "draft_model": given[key]}) if key in given else spec
        for key, spec in models.items()
    }


def source_stamp(source: str) -> object:
    """Sums up the files behind a source, wherever it may lie on this machine: changes when one of them does."""
    hubs, studios = model_folders()
    places = [Path(source).expanduser(), *(folder / source for folder in studios)]
    places += [hub / f"models--{source.replace('/', '--')}" / "snapshots" for hub in hubs]
    return tuple(_stamp(place) for place in places)


def _stamp(place: Path) -> tuple[tuple[str, int, int], ...]:
    found = []
    with contextlib.suppress(OSError):
        for path in (place, *sorted(place.iterdir() if place.is_dir() else ())):
            stat = path.stat()
            found.append((path.name, stat.st_mtime_ns, stat.st_size))
    return tuple(found)


class Host:
    """Runs the supervisors, publishes their records each second, and follows models.json and requests to load."""

    def __init__(self, settings: Settings, *, name: str, named: Sequence[ModelSpec], fallback: ModelSpec) -> None:
        self.settings = settings
        self.name = name
        self._word = word(name)
        self._names = Names(settings.deployment)
        self._named = tuple(named)
        self._fallback = fallback
        self._file = SettingsFile(settings, "models.json", logger.warning)
        self._routing = SettingsFile(settings, "claude_routing.json", logger.warning)
        self._remotes = SettingsFile(settings, REMOTES, logger.warning)
        self._cache = ParsedFile(settings, CACHE_SETTINGS, parse_cache_settings, logger.warning)
        self._given = setting_sources(settings).keys()
        keys = host_keys(settings, word(name))
        self._redis = build_async_redis(settings)
        self._sign = SignOfLife(self._redis, self._names, word(name), keys.own.seal(Purpose.HOST, word(name)))
        self._record = HostRecord(
            host=name,
            pid=os.getpid(),
            reader=wire.READER,
            instance=secrets.token_hex(8),
            since_s=time.time(),
            machine=f"{uuid.getnode():x}",
        )
        self._supervisors: dict[str, tuple[ModelSupervisor, asyncio.Task[None]]] = {}
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._broken = False
        self._leaving: asyncio.Task[None] | None = None
        self._surroundings = Surroundings(
            host=name,
            environment=lambda: child_environment(self._workers_settings()),
            logs=settings.state_dir / "logs",
            bury=self._bury,
            changed=self._changed.set,
            drain_s=settings.drain_s,
            stamp=source_stamp,
            entrance=asyncio.Lock(),
        )
        self._fault = ""  # of the settings files, as they are now
        self._device = settings.state_dir / "device"
        pressure = build_pressure(self._device)
        self._figures = MachineFigures(settings.state_dir, pressure)
        self._clock = ClockOffset(self._redis)
        self._lender = Lender(self._workers_settings(), keys.own)
        self._revocations = Revocations(self._redis, settings, keys.own, self._lender.learn)
        self._memory = MemoryKeeper(self._device, _Supervised(self._supervisors), pressure)
        self._requests = Requests(
            self._redis, self._names, keys, word(name), _Supervised(self._supervisors), drain=self.drain
        )

    def stop(self) -> None:
        """Ask once to end everything politely, twice to end it at once."""
        if self._stopping.is_set():
            for supervisor, _ in self._supervisors.values():
                supervisor.kill()
        self._stopping.set()

    def drain(self) -> None:
        """Take nothing new, let what runs finish, lend what is kept for a while, and leave."""
        if self._leaving is None:
            logger.info("the host leaves: what runs finishes first")
            self._requests.load_no_more()
            self._leaving = asyncio.get_running_loop().create_task(self._leave())
            self._changed.set()

    async def _leave(self) -> None:
        await leave(_Supervised(self._supervisors), self._lender, is_alone=self._sign.is_alone)
        self._stopping.set()

    @property
    def has_left(self) -> bool:
        """Whether it ended because it was told to leave."""
        return self._leaving is not None and self._leaving.done()

    async def run(self) -> bool:
        """Until stopped; False when that was a fault of its own. Raises `ConfigError` when the models at the start
        cannot be understood, when another host has its name, and when the fleet has locked it out."""
        wanted = self._wanted_models()
        try:
            await self._sign.check_free(self._record)
        except ConfigError:
            await self._redis.aclose()
            raise
        self._lender.start()
        await self._serve(wanted)
        tell_ready()
        following = asyncio.create_task(self._follow_file())
        works = (
            self._publish(),
            self._requests.follow(self._stopping),
            self._watch_device(),
            self._memory.run(self._stopping),
            self._revocations.follow(self._stopping),
            keep_awake(build_awake(), self._is_at_work, self._stopping),
        )
        tasks = [following, *(asyncio.create_task(work) for work in works)]
        try:
            stopped = asyncio.create_task(self._stopping.wait())
            done, _ = await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                await task  # an end of the others is a bug and must show
        finally:
            self._stopping.set()
            following.cancel()
            await self._requests.hear_no_more()
            await self._serve({})
            # The others end by themselves: redis-py may swallow a cancellation, or be left in the middle of a reply.
            _, late = await asyncio.wait(tasks, timeout=_END_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._lender.close()
            await self._sign.withdraw()
            await self._redis.aclose()
        return not self._broken

    def _workers_settings(self) -> Settings:
        """What a worker that starts now is given."""
        self._cache.refresh()
        return with_cache_settings(self.settings, self._cache.value, self._given)

    def _wanted_models(self) -> dict[str, ModelSpec]:
        data = self._file.load()
        is_missing = data == {}
        listed = () if is_missing else parse_models(data)
        keep_alive_s = default_keep_alive_s(data)
        named = [replace(spec, keep_alive_s=keep_alive_s) for spec in self._named]
        listed = tuple(spec for spec in listed if not spec.hosts or word(self.name) in spec.hosts)
        listed = tuple(replace(spec, engine=engine_of(spec.source, spec.engine)) for spec in listed)
        remotes = tuple(remote.spec for remote in parse_remotes(self._remotes.load()))
        is_missing = is_missing and not remotes
        merged = merge_models(named or ((self._fallback,) if is_missing else ()), (*listed, *remotes))
        tiers = parse_tiers(self._routing.load())
        return give_drafts(add_tier_models(merged, tiers), tiers)

    async def _serve(self, wanted: dict[str, ModelSpec]) -> None:
        """Make the running supervisors those of `wanted`."""
        leaving = [
            key
            for key, (supervisor, _) in self._supervisors.items()
            if key not in wanted or not supervisor.follow(wanted[key])
        ]
        tasks = [self._supervisors[key][1] for key in leaving]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for key in leaving:
            del self._supervisors[key]
        for key, spec in wanted.items():
            if key not in self._supervisors:
                supervisor = ModelSupervisor(spec, self._surroundings)
                task = asyncio.create_task(supervisor.run(), name=key)
                task.add_done_callback(self._supervisor_ended)
                self._supervisors[key] = (supervisor, task)
        self._changed.set()

    def _supervisor_ended(self, task: asyncio.Task[None]) -> None:
        """Supervisors end only when cancelled; anything else is a fault of ours that ends the host, loudly."""
        if not task.cancelled():
            logger.critical("the supervisor of %s broke", task.get_name(), exc_info=task.exception())
            self._broken = True
            self._stopping.set()

    async def _follow_file(self) -> None:
        while True:
            await asyncio.sleep(until_beat_s(_CHECK_S))
            if self._leaving is not None:
                continue
            for supervisor, _ in self._supervisors.values():
                supervisor.look()
            try:
                wanted = self._wanted_models()
            except ConfigError as error:
                self._note_fault(str(error))
                continue
            self._cache.refresh()
            self._note_fault(self._file.fault or self._routing.fault or self._cache.fault)
            if {key: supervisor.spec for key, (supervisor, _) in self._supervisors.items()} != wanted:
                logger.info("the settings changed: serving %s", ", ".join(wanted) or "nothing")
                await self._serve(wanted)

    def _note_fault(self, fault: str) -> None:
        """In the log once, in the host's record while it lasts."""
        if fault == self._fault:
            return
        self._fault = fault
        self._changed.set()
        if fault:
            logger.error("%s; the models stay as they were", fault)

    async def _watch_device(self) -> None:
        """End a worker that hangs with the device in its hands, or was stopped by a signal: it cannot, and others wait
        for it."""
        stopped, steady = StoppedWorkers(), Steady(_CHECK_S + 1.0)
        while not self._stopping.is_set():
            steady.look()
            workers = {supervisor.pid: supervisor for supervisor, _ in self._supervisors.values() if supervisor.pid}
            now_s, stall_s = time.monotonic(), self.settings.stall_s
            pid = hung_worker(read_holder(self._device), workers.keys(), stall_s=stall_s, now_s=now_s)
            if pid is not None and steady.for_s > stall_s:  # else this host slept, and its worker with it
                logger.error(
                    "%s: its worker (pid %d) has had the device for more than %.0f s without a sign of life: killed",
                    workers[pid].spec.id,
                    pid,
                    stall_s,
                )
                workers[pid].kill()
            for pid in stopped.find(workers.keys(), stall_s=stall_s, now_s=now_s):
                logger.error("%s: its worker (pid %d) stands still: killed", workers[pid].spec.id, pid)
                workers[pid].kill()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(until_beat_s(_CHECK_S)):
                    await self._stopping.wait()

    def _is_at_work(self) -> bool:
        uses = [supervisor.use for supervisor, _ in self._supervisors.values()]
        return any(use is not None and use.idle_since_s is None for use in uses)

    async def _publish(self) -> None:
        """The record, each second and at every change."""
        while not self._stopping.is_set():
            self._changed.clear()
            models = tuple(supervisor.told for supervisor, _ in self._supervisors.values())
            figures = {**await self._figures.now(), **await self._clock.read()}
            faults = tuple(filter(None, (self._fault, self._figures.disk_trouble)))
            files = self._lender.address
            is_draining = self._leaving is not None
            record = replace(
                self._record, models=models, figures=figures, faults=faults, files=files, is_draining=is_draining
            )
            try:
                await self._sign.renew(record)
            except ConfigError:  # locked out: there is nobody to give anything back to
                for supervisor, _ in self._supervisors.values():
                    supervisor.kill()
                raise
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(until_beat_s(keys.LEASE_EVERY_S)):
                    await self._changed.wait()

    async def _bury(self, worker: str) -> None:
        try:
            async with asyncio.timeout(_BURY_S):
                await asyncio.to_thread(self._reap, worker)
        except (RedisError, OSError, TimeoutError) as error:
            logger.warning("what %s held is freed when its lease ends: %s", worker, error)

    def _reap(self, worker: str) -> None:
        with build_redis(self.settings) as client:
            reap(client, self._names, worker, is_member=self.settings.is_member)


class _Supervised(Mapping[str, ModelSupervisor]):
    """The host's supervisors without their tasks, as they are at any moment."""

    def __init__(self, supervisors: Mapping[str, tuple[ModelSupervisor, asyncio.Task[None]]]) -> None:
        self._supervisors = supervisors

    def __getitem__(self, key: str) -> ModelSupervisor:
        return self._supervisors[key][0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._supervisors)

    def __len__(self) -> int:
        return len(self._supervisors)


async def _run(host: Host) -> bool:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, host.stop)
    loop.add_signal_handler(signal.SIGUSR1, host.drain)
    return await host.run()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="mlx-gateway host", description="Serve models on this machine.")
    parser.add_argument("--model", action="append", default=[], help="a folder or a Hugging Face id; may be repeated")
    parser.add_argument("--engine", choices=ENGINE_NAMES, default="mlx")
    parser.add_argument("--name", default=socket.gethostname(), help="this machine's name in the fleet")
    options = parser.parse_args(arguments)
    try:
        settings = load_settings()
        set_up_logging(settings, process="host")
        named = named_models(options.model, options.engine)
        host = Host(settings, name=options.name, named=named, fallback=demo_model(options.engine))
        is_well = asyncio.run(_run(host))
        return EXIT_LEFT if host.has_left else 0 if is_well else 1
    except ConfigError as error:
        sys.stderr.write(f"mlx-gateway host: {error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
