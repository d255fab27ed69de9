"""A worker process and a gateway's side of it, small enough to see everything that happens."""

from __future__ import annotations

import signal
import socket
import sys
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast

import redis
from rq import Queue

from gateway.dispatch.jobs import job_fields
from gateway.dispatch.queue_scripts import PLACE
from shared import keys, wire
from shared.config import Settings, load_settings
from shared.events import Completion, Counted, Event, Failed, Finished, Returned, assemble
from shared.messages import Message, TextPart
from shared.registry import WorkerLease
from shared.request import End, GenerateRequest, SamplingParams
from shared.seal import Keyring, Purpose
from shared.wire import Frame, JobSerializer
from shared.work import Count, Envelope, Generate, Work, job_subject, lane_of
from tests.support.names import NAMES
from tests.support.processes import Running, running, wait_until
from tests.support.sealed import KEYRING, SECRET, control_seal, open_lease

HOST = keys.word(socket.gethostname())
MODEL = "tiny"
_DEADLINE_S = 600.0
QUEUE = NAMES.queue(MODEL, "interactive")  # where the records of interactive jobs are
_T = TypeVar("_T")


def build_request(text: str, request_id: str = "r1", **fields: Any) -> GenerateRequest:
    fields.setdefault("model", MODEL)
    return GenerateRequest(id=request_id, messages=(Message(role="user", parts=(TextPart(text=text),)),), **fields)


def sign(
    request_id: str,
    attempt: int,
    body: bytes,
    secret: str = SECRET,
    *,
    host: str = keys.NO_HOST,
    kind: str = "generate",
) -> str:
    """A job's signature, as a gateway makes it for a host."""
    return Keyring(secret.encode()).of(host).sign(job_subject(kind, keys.job_id(request_id, attempt)), body)


def job_data(request_id: str, attempt: int, signature: str, kind: str = "generate") -> bytes:
    """What RQ keeps of the job's function and arguments."""
    arguments = [request_id, attempt, signature, kind]
    return zlib.compress(JobSerializer.dumps((keys.JOB_FUNCTION, None, arguments, {})))


class TestGateway:
    """What a gateway does to a worker: jobs in, frames out. Keeps every frame it ever heard."""

    __test__ = False

    def __init__(self, url: str, name: str = "gw1") -> None:
        self.name = name
        self.client = redis.Redis.from_url(url)
        self.frames: list[tuple[float, Frame]] = []
        self._events: defaultdict[str, list[Event]] = defaultdict(list)
        self._seqs: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._subscription = self.client.pubsub(ignore_subscribe_messages=True)
        self._subscription.psubscribe(NAMES.gateway_channel(name, "*"))
        self._subscription.get_message(timeout=1)
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> TestGateway:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()
        self.client.close()

    def leave(self) -> None:
        """Stop listening, as a gateway that died."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        self._subscription.close()

    def _listen(self) -> None:
        while not self._stopping.is_set():
            try:
                message = self._subscription.get_message(timeout=0.1)
            except redis.RedisError:
                time.sleep(0.02)
                continue
            if message is not None:
                host = message["channel"].decode().rpartition(":")[2]
                seal = KEYRING.of(host).seal(Purpose.FRAME, self.name)
                self._hear(wire.decode_frame(seal.open(message["data"])))

    def _hear(self, frame: Frame) -> None:
        with self._changed:
            self.frames.append((time.perf_counter(), frame))
            for entry in frame.entries:
                seqs = self._seqs[entry.request_id, entry.attempt]
                if entry.seq in seqs:
                    continue  # a frame written again after a lost connection
                seqs.append(entry.seq)
                self._events[entry.request_id].extend(entry.events)
            self._changed.notify_all()

    def events(self, request_id: str = "r1") -> list[Event]:
        with self._changed:
            return list(self._events[request_id])

    def entry_seqs(self, request_id: str = "r1", attempt: int = 1) -> list[int]:
        return list(self._seqs[request_id, attempt])

    def wait_for(self, kind: type[_T], request_id: str = "r1", timeout_s: float = 40.0) -> _T:
        """The first event of a kind."""
        end_s = time.monotonic() + timeout_s
        with self._changed:
            while True:
                for event in self._events[request_id]:
                    if isinstance(event, kind):
                        return event
                left_s = end_s - time.monotonic()
                assert left_s > 0, f"no {kind.__name__} within {timeout_s} s, but {self._events[request_id]}"
                self._changed.wait(left_s)

    def wait_end(self, request_id: str = "r1", timeout_s: float = 40.0) -> Finished | Failed | Returned:
        end: Finished | Failed | Returned = self.wait_for(Finished | Failed | Returned, request_id, timeout_s)  # type: ignore[arg-type]
        return end

    def completion(self, request_id: str = "r1", timeout_s: float = 40.0) -> Completion:
        self.wait_end(request_id, timeout_s)
        return assemble(self.events(request_id))

    def queue(self, name: str = QUEUE) -> Queue:
        return Queue(name, connection=self.client, serializer=JobSerializer)

    def own_queue(self, lane: str = "interactive", worker: str = "") -> str:
        """The RQ queue of a lane on a worker: on this one, on the first that is ready, on the first there is; else
        that of the model, where jobs wait until somebody gives them to a worker."""
        leases = sorted(self.leases(), key=lambda lease: lease.state != "ready")
        name = worker or next((lease.worker for lease in leases), "")
        return NAMES.worker_queue(MODEL, name, lane) if name else NAMES.queue(MODEL, lane)

    def ring(self) -> None:
        """Tell every worker that something was put on its lists."""
        with self.client.pipeline() as pipe:
            for lease in self.leases():
                pipe.lpush(NAMES.bell(lease.worker), 1)
                pipe.ltrim(NAMES.bell(lease.worker), 0, 0)
            pipe.execute()

    def push(self, *entries: str | bytes) -> None:
        """Put entries on a worker's list as they are, and ring."""
        self.client.rpush(f"rq:queue:{self.own_queue()}", *entries)
        self.ring()

    def enqueue(self, function: str, *arguments: Any, job_id: str, **more: Any) -> None:
        """By RQ itself, on a worker's list; then ring."""
        queue = self.queue(self.own_queue())
        queue.enqueue_call(function, args=list(arguments), job_id=job_id, description="x", **more)
        self.ring()

    def hand_over(self, worker: str) -> int:
        """Give what waits for the model to a worker, as the owners of the requests do; how many jobs."""
        moved = 0
        while job := self.client.lpop(f"rq:queue:{QUEUE}"):
            request_id, _, attempt = job.decode().rpartition("-")
            host = keys.host_of(worker)
            for name in self.client.scan_iter(NAMES.body("*", "*", 0).removesuffix("-0").removesuffix("*") + "*"):
                if name.endswith(job):
                    body = self.client.get(name) or b""
                    data = job_data(request_id, int(attempt), sign(request_id, int(attempt), body, host=host))
                    self.client.hset(b"rq:job:" + job, mapping={"origin": self.own_queue(worker=worker), "data": data})
                    self.client.rename(name, NAMES.body_prefix(host).encode() + job)
            self.client.rpush(f"rq:queue:{self.own_queue(worker=worker)}", job)
            moved += 1
        self.ring()
        return moved

    def submit(
        self,
        request: GenerateRequest,
        *,
        attempt: int = 1,
        queue: str = "",
        deadline_s: float = 0.0,
        secret: str = SECRET,
        store_body: bool = True,
    ) -> str:
        """Place the job as a gateway does: on the list of the first worker that is ready, or that there is, else on
        the model's; or on `queue`. The RQ job's id."""
        return self.place(
            Generate(request=request),
            attempt=attempt,
            queue=queue,
            deadline_s=deadline_s,
            secret=secret,
            store_body=store_body,
        )

    def place(
        self,
        work: Work,
        *,
        attempt: int = 1,
        queue: str = "",
        deadline_s: float = 0.0,
        secret: str = SECRET,
        store_body: bool = True,
        signed_as: str = "",
    ) -> str:
        """As `submit`, for work of any kind; signed as another kind where one is given."""
        request = work.request
        deadline_s = deadline_s or time.time() + _DEADLINE_S  # no two envelopes of a test are the same
        envelope = Envelope(work=work, gateway=self.name, attempt=attempt, deadline_s=deadline_s)
        queue = queue or self.own_queue(lane_of(envelope.kind, request.priority))
        worker = queue.partition("@")[2].partition("!")[0]
        body = wire.encode(envelope)
        kind = signed_as or envelope.kind.name
        signature = sign(request.id, attempt, body, secret, host=keys.host_of(worker), kind=kind)
        data = job_data(request.id, attempt, signature, kind)
        body = body if store_body else b""
        job_id = keys.job_id(request.id, attempt)
        fields = job_fields(data, queue=queue, description=f"{kind} {request.model}", now=datetime.now(UTC))
        body_key, job_key = NAMES.body(keys.host_of(worker), request.id, attempt), f"rq:job:{job_id}"
        redis_keys = [NAMES.lease(worker), f"rq:queue:{queue}", NAMES.bell(worker), NAMES.placed(worker)]
        flat = [item for pair in fields.items() for item in pair]
        redis_keys += [body_key, job_key, NAMES.soon(worker), NAMES.why(request.id), NAMES.home("c"), NAMES.home("u")]
        unplanned = [-1, "", "", 0, 0, "", 0, "", 0]  # nothing was looked at, nothing is noted
        placing = [job_id, body, keys.BODY_TTL_S, *unplanned, *flat]
        if not worker or self._eval(PLACE, redis_keys, placing)[0] == -1:
            self._wait_for_a_worker(envelope, body, fields)
        elif not store_body:
            self.client.delete(body_key)
        return job_id

    def _eval(self, script: str, redis_keys: list[str], arguments: list[Any]) -> list[Any]:
        return cast(list[Any], self.client.eval(script, len(redis_keys), *redis_keys, *arguments))

    def _wait_for_a_worker(self, envelope: Envelope, body: bytes, fields: dict[Any, Any]) -> None:
        request, job_id = envelope.request, envelope.job_id
        queue = NAMES.queue(MODEL, lane_of(envelope.kind, request.priority))
        with self.client.pipeline() as pipe:
            pipe.set(NAMES.body(keys.NO_HOST, request.id, envelope.attempt), body, ex=keys.BODY_TTL_S)
            pipe.hset(f"rq:job:{job_id}", mapping={**fields, "origin": queue})
            pipe.sadd("rq:queues", f"rq:queue:{queue}")
            pipe.rpush(f"rq:queue:{queue}", job_id)
            pipe.execute()

    def ask(self, text: str, request_id: str = "r1", *, max_tokens: int | None = None, **fields: Any) -> str:
        sampling = SamplingParams(max_tokens=max_tokens)
        return self.submit(build_request(text, request_id, sampling=sampling, **fields))

    def count(self, text: str, request_id: str = "c1", *, secret: str = SECRET) -> None:
        self.place(Count(request=build_request(text, request_id)), secret=secret)

    def counted(self, request_id: str = "c1") -> int:
        return self.wait_for(Counted, request_id).input_tokens

    def tell(self, worker: str, message: object) -> bool:
        """Whether the worker heard the sealed message."""
        seal = control_seal(worker)
        return bool(self.client.publish(NAMES.worker_channel(worker), seal.close(wire.encode(message))))

    def cancel(self, request_id: str = "r1", reason: str = "client left", *, attempt: int = 1) -> None:
        with self.client.pipeline() as pipe:
            pipe.set(NAMES.ended(request_id), attempt, ex=keys.ENDED_TTL_S)
            pipe.execute()
        for worker in self.client.smembers(NAMES.workers):
            self.tell(worker.decode(), End(request_id=request_id, attempt=attempt, reason=reason))

    def job_status(self, job_id: str) -> str:
        return (self.client.hget(f"rq:job:{job_id}", "status") or b"").decode()

    def leases(self) -> list[WorkerLease]:
        names = [name.decode() for name in self.client.smembers(NAMES.workers)]
        found = [(name, self.client.get(NAMES.lease(name))) for name in names]
        return [open_lease(name, data) for name, data in found if data is not None]

    def wait_ready(self, workers: int = 1, timeout_s: float = 60.0) -> list[WorkerLease]:
        def ready() -> list[WorkerLease]:
            leases = [lease for lease in self.leases() if lease.state == "ready"]
            return leases if len(leases) >= workers else []

        return wait_until(ready, f"{workers} ready workers", deadline_s=timeout_s)


@contextmanager
def running_worker(
    url: str,
    state: Path,
    *,
    options: Sequence[str] = (),
    model: str = MODEL,
    engine: str = "echo",
    arguments: Sequence[str] = (),
    **environment: str,
) -> Iterator[Running]:
    """`python -m worker` with an echo engine, ended with the block. Its log is shown when the test fails."""
    words = [word for option in options for word in ("--option", option)]
    command = ["-m", "worker", "--model", model, "--engine", engine, "--name", model, *words, *arguments]
    variables = {"REDIS_URL": url, "MLX_GATEWAY_SECRET": SECRET, "MLX_GATEWAY_STATE_DIR": str(state), **environment}
    with running(*command, log=state / f"worker-{time.monotonic_ns()}.log", env=variables) as worker:
        try:
            yield worker
        except BaseException:
            sys.stderr.write(worker.output())
            raise
        finally:
            if worker.process.poll() is None:
                worker.signal(signal.SIGKILL)  # a test that wants a polite end waits for it
                worker.process.wait()


def worker_settings(url: str, state: Path, **values: Any) -> Settings:
    return load_settings({"redis_url": url, "state_dir": state, "secret": SECRET, **values}, environ={})
