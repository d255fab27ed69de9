"""One worker: one process that serves one model. `python -m worker --model SOURCE --engine NAME --name ID`."""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue

import redis

from shared.clock import RedisClock
from shared.config import Settings, load_settings
from shared.connections import build_redis
from shared.errors import ConfigError, GatewayError, RequestCancelledError
from shared.grants import decode_grant
from shared.keys import Names, host_of, word, worker_name
from shared.log import set_up_logging
from shared.registry import ENGINE_NAMES, ModelSpec, WorkerLease, model_id_of
from shared.request import End, TakeOver
from shared.seal import Purpose, host_keys
from shared.tracing import build_tracer
from shared.wire import READER
from worker.engines.base import Dated, Successor
from worker.engines.registry import build_engine
from worker.interpreter import freeze_objects, share_python
from worker.model_folder import made_at_s
from worker.rq.control import ControlLoop, Limits, Message
from worker.rq.worker import Stop
from worker.serving.bodies import Bodies
from worker.serving.cancellation import CancelListener
from worker.serving.pieces import PieceTeller
from worker.serving.publisher import Publisher
from worker.serving.reports import Loaded, Report
from worker.serving.runner import Runner
from worker.serving.shared_days import RedisDays
from worker.status import (
    EXIT_BROKEN,
    EXIT_LOAD_FAILED,
    EXIT_NO_REDIS,
    EXIT_ORPHANED,
    SIGNAL_UNLOAD,
    StatusPipe,
    failed_status,
    watch_parent,
)

log = logging.getLogger("worker")

_ORPHAN_GRACE_S = 5.0
_REDIS_WAIT_S = 5.0
_REDIS_RETRY_S = 0.2


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mlx-gateway worker", description="Serve one model.")
    parser.add_argument("--model", required=True, help="a folder or a Hugging Face id that is in the local cache")
    parser.add_argument("--engine", choices=ENGINE_NAMES, default="mlx")
    parser.add_argument("--name", default="", help="the model's id in the fleet (default: from --model)")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="an option of the engine")
    parser.add_argument("--host", default=socket.gethostname(), help="this machine's name in the fleet")
    parser.add_argument("--status-fd", type=int, help="where to report loading, readiness and failure (JSON lines)")
    return parser.parse_args(arguments)


def build_spec(options: argparse.Namespace) -> ModelSpec:
    """Raises `ConfigError` for an option without `=`."""
    pairs = [option.partition("=") for option in options.option]
    for key, equals, _ in pairs:
        if not key or not equals:
            raise ConfigError(f"--option {key!r}: expected KEY=VALUE")
    return ModelSpec(
        id=options.name or model_id_of(options.model),
        source=options.model,
        engine=options.engine,
        options={key: value for key, _, value in pairs},
    )


def _first_lease(name: str, epoch: str, spec: ModelSpec, host: str, settings: Settings) -> WorkerLease:
    return WorkerLease(
        worker=name,
        model=spec.id,
        host=host,
        pid=os.getpid(),
        epoch=epoch,
        state="loading",
        engine=spec.engine,
        made_at_s=made_at_s(spec.source),
        capacity=settings.capacity,
        reader=READER,
    )


class Worker:
    """All parts of a worker, wired."""

    def __init__(self, settings: Settings, spec: ModelSpec, host: str, status: StatusPipe) -> None:
        epoch = f"{int(time.time() * 1000):x}{secrets.token_hex(2)}"
        name = worker_name(host, spec.id, epoch)
        names = Names(settings.deployment)
        keys = host_keys(settings, word(host))
        clock = RedisClock()
        connect: Callable[[], redis.Redis] = lambda: build_redis(settings)  # noqa: E731
        inbox: SimpleQueue[Message] = SimpleQueue()
        self.inbox = inbox
        self.engine = engine = build_engine(spec, settings)
        self.days = RedisDays(connect(), names)
        gone = self._gateway_gone
        self.publisher = Publisher(connect(), names, keys.own, worker=name, epoch=epoch, gateway_gone=gone)
        bodies = Bodies(connect(), names, host=host_of(name))
        self.tracer = build_tracer("worker")
        self.runner = Runner(
            engine,
            self.publisher,
            bodies,
            worker=name,
            key=keys.own,
            clock=clock,
            report=self._hear,
            tracer=self.tracer,
        )
        self.loop = ControlLoop(
            connect(),
            self.runner,
            inbox,
            names,
            keys.own,
            clock,
            lease=_first_lease(name, epoch, spec, host, settings),
            limits=Limits(execution_ttl_s=settings.execution_ttl_s, stall_s=settings.stall_s, drain_s=settings.drain_s),
            status=status,
            on_stop=self._stop_listening,
            is_member=settings.is_member,
        )
        self.pieces = PieceTeller(connect(), names, keys.own, engine, worker=name)
        self.cancels = CancelListener(
            connect(),
            names.worker_channel(name),
            keys.own.seal(Purpose.CONTROL, name),
            self._cancel,
            self.runner.join,
            take_over=self._take_over,
            look=self.pieces.hear,
            others={self.loop.rq.pubsub_channel_name: self.loop.rq.handle_payload},
        )

    def run(self) -> int:
        """Until stopped; the exit status."""
        self.publisher.start()
        self.cancels.start()
        try:
            return self.loop.serve()
        finally:
            self._stop_listening()
            self.cancels.join()
            self.pieces.close()
            self.publisher.close()
            self.tracer.close()

    def stop(self, stop: Stop) -> None:
        self.inbox.put(stop)

    def _hear(self, report: Report) -> None:
        if isinstance(report, Loaded):
            if isinstance(self.engine, Dated):
                self.engine.share_days(self.days)
            freeze_objects()
        self.inbox.put(report)

    def _stop_listening(self) -> None:
        self.cancels.stop()

    def _cancel(self, end: End) -> None:
        error = RequestCancelledError(end.reason or "the request was cancelled")
        self.runner.leave(end.request_id, error, up_to_attempt=end.attempt)

    def _take_over(self, what: TakeOver) -> None:
        grant = decode_grant(what.grant)
        if grant is not None and isinstance(self.engine, Successor):
            self.engine.take_over(grant, what.part, what.parts)

    def _gateway_gone(self, gateway: str) -> None:
        log.warning("gateway %s no longer listens: its requests are cancelled", gateway)
        self.runner.cancel_gateway(gateway)


def wait_for_redis(client: redis.Redis) -> None:
    """Redis may be starting at the same time. Raises `redis.RedisError` when it does not come, or refuses us."""
    end_s = time.monotonic() + _REDIS_WAIT_S
    while True:
        try:
            client.ping()
            return
        except redis.AuthenticationError:
            raise
        except redis.RedisError:
            if time.monotonic() >= end_s:
                raise
            time.sleep(_REDIS_RETRY_S)


def _orphaned(worker: Worker) -> None:
    """End at once, and by force when that does not happen soon: nobody is there to do it."""
    log.error("the supervisor is gone")
    worker.stop(Stop(now=True, status=EXIT_ORPHANED))
    threading.Event().wait(_ORPHAN_GRACE_S)
    os._exit(EXIT_ORPHANED)


def _end_by_force(exit_status: int) -> None:
    """A thread that cannot be ended would keep the process, and nobody would see what is being raised."""
    if error := sys.exception():
        log.error("the worker broke", exc_info=error)
    logging.shutdown()
    os._exit(exit_status)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    status = StatusPipe(options.status_fd)
    try:
        settings = load_settings()
        spec = build_spec(options)
        set_up_logging(settings, process=f"worker/{spec.id}")
        share_python()
        with build_redis(settings) as client:
            wait_for_redis(client)
        worker = Worker(settings, spec, options.host, status)
    except redis.RedisError as error:
        sys.stderr.write(f"mlx-gateway worker: no Redis: {error}\n")
        return EXIT_NO_REDIS
    except GatewayError as error:
        status.send(failed_status(error))
        sys.stderr.write(f"mlx-gateway worker: {error.message}\n")
        return EXIT_LOAD_FAILED
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, worker.loop.request_stop)
    signal.signal(SIGNAL_UNLOAD, worker.loop.request_unload)
    if options.status_fd is not None:
        watch_parent(lambda: _orphaned(worker))
    exit_status = EXIT_BROKEN
    try:
        exit_status = worker.run()
    except redis.RedisError as error:
        log.error("Redis went away before the worker could begin: %s", error)  # noqa: TRY400 - nothing to trace
        exit_status = EXIT_NO_REDIS
    finally:
        log.info("worker %s ends with status %d", worker.loop.rq.name, exit_status)
        if worker.loop.has_hung:
            _end_by_force(exit_status)
    return exit_status


if __name__ == "__main__":
    sys.exit(main())
