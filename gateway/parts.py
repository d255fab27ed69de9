"""The parts of one gateway process, built from its settings and wired to each other. Nothing here decides anything."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from dataclasses import dataclass

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from gateway.batches.store import BatchStore
from gateway.dialects.registry import VENDOR_NAMES
from gateway.disk_watch import DiskWatch
from gateway.dispatch.dispatch import Dispatch
from gateway.dispatch.dispatcher import Dispatcher
from gateway.dispatch.fleet import FleetWatcher
from gateway.dispatch.handover import Handovers
from gateway.dispatch.jobs import JobQueue
from gateway.dispatch.joining import Joining
from gateway.dispatch.limits import Limits
from gateway.dispatch.outlook import Outlook
from gateway.dispatch.pieces import PieceLook
from gateway.dispatch.runs import Runs
from gateway.dispatch.space import Space
from gateway.dispatch.strays import Strays
from gateway.dispatch.streams import FrameHub
from gateway.dispatch.suspects import Suspects
from gateway.dispatch.watchdog import Patience
from gateway.door.expiry import CertificateCollector
from gateway.door.folder import DoorFolder
from gateway.intake.intake import Intake
from gateway.intake.reader import BodyReader
from gateway.intake.tags import Tagger
from gateway.kept.runs import RunStore
from gateway.kept.store import AnswerStore
from gateway.keys.check import KeyCheck
from gateway.keys.file import KeyFile
from gateway.keys.quota import Quotas
from gateway.keys.usage import UsageBook
from gateway.metrics import HostPages, Metrics
from gateway.models.fallbacks import Fallbacks
from gateway.models.names import ModelNames
from gateway.models.settings_files import Policies
from gateway.trace.file import TraceFile
from gateway.waiting_metrics import Waiter, WaitingCollector, waiter_of
from shared.config import Settings, load_secret
from shared.connections import build_async_redis
from shared.keys import Names
from shared.registry import GatewayRecord
from shared.seal import Keyring
from shared.tracing import Tracer, build_tracer
from shared.wire import READER

_EVERYWHERE = ("0.0.0.0", "::")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """`gateway` is this process's id."""

    gateway: str
    settings: Settings
    fleet: FleetWatcher
    hub: FrameHub
    jobs: JobQueue
    disk: DiskWatch
    dispatcher: Dispatcher
    joining: Joining
    suspects: Suspects
    strays: Strays
    handovers: Handovers
    pieces: PieceLook
    reader: BodyReader
    policies: Policies
    names: ModelNames
    intake: Intake
    metrics: Metrics
    host_pages: HostPages
    space: Space
    traces: TraceFile
    tracer: Tracer
    answers: AnswerStore
    runs: RunStore
    batches: BatchStore
    keys: KeyFile
    key_check: KeyCheck
    quotas: Quotas
    usage: UsageBook
    connections: tuple[redis.asyncio.Redis, ...]

    async def aclose(self) -> None:
        await self.reader.aclose()
        self.traces.close()
        await asyncio.to_thread(self.tracer.close)
        await self.batches.aclose()
        for connection in self.connections:
            await connection.aclose()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Base:
    """What all that speaks with the fleet is made of."""

    gateway: str
    broker: redis.asyncio.Redis
    names: Names
    keyring: Keyring
    fleet: FleetWatcher
    hub: FrameHub
    metrics: Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class _Dispatching:
    """What puts requests under way."""

    dispatcher: Dispatcher
    joining: Joining
    jobs: JobQueue
    suspects: Suspects
    strays: Strays
    space: Space


def build_parts(settings: Settings) -> Parts:
    """Redis may come later; a settings file or a URL that cannot be used raises `ConfigError`."""
    policies = Policies(settings)
    secret = load_secret(settings)
    key_file = KeyFile(settings.state_dir)
    broker, subscriber = connect_broker(settings)
    base = _build_base(settings, secret, broker, subscriber)
    names, keyring, fleet, hub, metrics = base.names, base.keyring, base.fleet, base.hub, base.metrics
    disk = DiskWatch(settings.state_dir)
    _wire(fleet, hub, metrics, policies, disk)
    limits = Limits.of(settings)
    dispatching = _build_dispatching(base, limits, Patience.of(settings.execution_ttl_s).broker_away_s)
    dispatcher = dispatching.dispatcher
    fleet.beside = (dispatching.suspects,)
    metrics.registry.register(_collector(fleet, limits, dispatcher))
    metrics.registry.register(CertificateCollector(DoorFolder(settings)))
    model_names = ModelNames(policies, fleet, VENDOR_NAMES, lambda: dispatcher.last_model)
    fallbacks = Fallbacks(policies.fallbacks, VENDOR_NAMES, time.monotonic)
    return Parts(
        gateway=base.gateway,
        settings=settings,
        fleet=fleet,
        hub=hub,
        jobs=dispatching.jobs,
        disk=disk,
        dispatcher=dispatcher,
        joining=dispatching.joining,
        suspects=dispatching.suspects,
        strays=dispatching.strays,
        handovers=Handovers(broker, names, keyring, fleet),
        pieces=PieceLook(broker, names, keyring, fleet, base.gateway),
        reader=BodyReader(),
        policies=policies,
        names=model_names,
        intake=Intake(model_names, policies, Tagger(keyring.tags), fallbacks),
        metrics=metrics,
        host_pages=HostPages(fleet),
        space=dispatching.space,
        traces=TraceFile.of(settings),
        tracer=build_tracer("gateway"),
        answers=AnswerStore(broker, names, keyring),
        runs=RunStore(broker, names, keyring),
        batches=BatchStore(settings.state_dir / "batches.sqlite3"),
        keys=key_file,
        key_check=KeyCheck(settings.api_key, key_file, secret),
        quotas=Quotas(broker, names),
        usage=UsageBook(settings.state_dir),
        connections=(broker, subscriber),
    )


def _build_base(
    settings: Settings, secret: bytes, broker: redis.asyncio.Redis, subscriber: redis.asyncio.Redis
) -> _Base:
    names, keyring, gateway = Names(settings.deployment), Keyring(secret), f"gw{secrets.token_hex(6)}"
    fleet = FleetWatcher(broker, names, keyring, myself=_record(gateway, settings))
    metrics = Metrics(fleet)
    hub = FrameHub(subscriber, broker, names, keyring, gateway, on_gap=metrics.gap, on_refused=metrics.refused_frame)
    return _Base(gateway=gateway, broker=broker, names=names, keyring=keyring, fleet=fleet, hub=hub, metrics=metrics)


def _build_dispatching(base: _Base, limits: Limits, patience_s: float) -> _Dispatching:
    broker, names, keyring, fleet, hub = base.broker, base.names, base.keyring, base.fleet, base.hub
    jobs, suspects, space = JobQueue(broker, names, keyring), Suspects(broker, names), Space(broker)
    dispatcher = Dispatcher(
        names=names,
        hub=hub,
        fleet=fleet,
        jobs=jobs,
        outlook=Outlook(broker, names, keyring, fleet),
        space=space,
        suspects=suspects,
        limits=limits,
        observer=base.metrics,
        patience_s=patience_s,
    )
    joining = Joining(
        Runs(broker, names, keyring, base.gateway),
        hub,
        dispatcher,
        jobs,
        limits,
        patience_s=patience_s,
        away_s=lambda: max(fleet.away_s, hub.away_s),
        on_joined=base.metrics.attachment,
    )
    return _Dispatching(
        dispatcher=dispatcher,
        joining=joining,
        jobs=jobs,
        suspects=suspects,
        strays=Strays(broker, names, jobs),
        space=space,
    )


def _record(gateway_id: str, settings: Settings) -> GatewayRecord:
    return GatewayRecord(gateway=gateway_id, pid=os.getpid(), reader=READER, address=_address(settings))


def _wire(fleet: FleetWatcher, hub: FrameHub, metrics: Metrics, policies: Policies, disk: DiskWatch) -> None:
    """What the fleet tells others, and hears from them."""
    fleet.on_round_trip = metrics.redis_round_trip
    fleet.on_hosts = hub.listen_to
    fleet.is_busy = lambda: bool(hub.dispatches)
    fleet.faults = lambda: (*policies.faults(), *filter(None, (disk.trouble,)))


def _collector(fleet: FleetWatcher, limits: Limits, dispatcher: Dispatcher) -> WaitingCollector:
    return WaitingCollector(fleet, limits.deadlines(), lambda: [_waiter(each) for each in dispatcher.waiting()])


def _waiter(dispatch: Dispatch) -> Waiter:
    return waiter_of(dispatch.model, dispatch.request.priority, dispatch.opened_s)


def _address(settings: Settings) -> str:
    """Where others reach this gateway, as far as it knows."""
    host = socket.gethostname() if settings.host in _EVERYWHERE else settings.host
    return f"[{host}]:{settings.port}" if ":" in host else f"{host}:{settings.port}"


def connect_broker(settings: Settings) -> tuple[redis.asyncio.Redis, redis.asyncio.Redis]:
    """One connection for commands, one for the subscription. Neither retries by itself: a job must not be queued twice,
    and a broken subscription must be seen. Neither has time-outs: whoever asks has one for the whole."""
    broker, subscriber = (build_async_redis(settings, socket_timeout_s=None) for _ in range(2))
    for each in (broker, subscriber):
        each.set_retry(Retry(NoBackoff(), 0))
    return broker, subscriber
