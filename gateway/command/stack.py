"""`mlx-gateway up`: Redis, gateway and host as child processes, watched until a person stops them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from redis.exceptions import AuthenticationError, RedisError

from gateway.command.ends import failed, not_running
from gateway.command.leaving import drain_host
from gateway.command.runfile import Running, answers, only_one, write_running
from gateway.command.sharing import https_lines, join_lines, wait_for_door
from gateway.door.code import JoinCode
from gateway.door.folder import DoorFolder
from gateway.models.settings_files import Policies
from gateway.secured import listen_https
from shared import wire
from shared.beats import until_beat_s
from shared.config import Settings, child_environment, load_secret, resolve_source
from shared.connections import build_async_redis, build_redis
from shared.disk import subject_and_effect
from shared.errors import ConfigError, GatewayError, WireError
from shared.keys import Names, word
from shared.log import last_lines, log_size
from shared.processes import EXIT_LEFT, GuardedProcess
from shared.redis_server import MINIMUM_VERSION, RedisServer
from shared.registry import HostRecord, ModelRecord, model_id_of
from shared.restarts import Restarts
from shared.seal import Keyring, Purpose, Seal
from shared.service import tell_ready

logger = logging.getLogger(__name__)

EXIT_CONFIG = 2  # a child that ends so will end so again
_POLL_S = 0.1
_SETTLED_POLL_S = 1.0
_SHARED_EVERY_S = 2.0  # between two looks whether this Mac is shared
_SHOWN_EVERY_S = 2.0  # once it is ready: people read it
_GRACE_S = 8.0  # over what a worker gets to drain: the host waits for its workers, the gateway for their answers
_DOOR_GRACE_S = 2.0
_BACKLOG = 2048
_HURRY_S = 1.0
_SHOWN_STEP = 0.1  # of a load


def listen(settings: Settings) -> socket.socket:
    """The gateway's socket, bound here so that it outlives a restart of the gateway. Raises `ConfigError`."""
    try:
        family, _, _, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ConfigError(f"--listen {settings.host}: {error.strerror}") from error
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise failed(
            f"cannot listen on {settings.host}:{settings.port} ({error.strerror}): "
            "stop the program that uses it, or choose another --port"
        ) from error
    return listener


class _Service:
    """One child process that is started again when it dies."""

    def __init__(self, name: str, start: Callable[[], GuardedProcess], log: Path) -> None:
        self.name = name
        self.log = log
        self.process: GuardedProcess | None = None
        self.starts = 0
        self._start = start
        self._restarts = Restarts()
        self._is_renewed = False

    async def keep(self, must_live: Callable[[], bool]) -> None:
        """Until cancelled. Raises `ConfigError` when it cannot run, as long as `must_live` says that this counts."""
        while True:
            log_start = log_size(self.log)
            self.process = self._start()
            self.starts += 1
            status = await self.process.ended()
            if self._is_renewed:
                self._is_renewed = False
                continue
            if status == EXIT_LEFT:
                logger.warning("the %s has left, as it was told to: start `up` again to have it back", self.name)
                await asyncio.Event().wait()
            delay_s = self._restarts.delay_s(time.monotonic())
            words = last_lines(self.log, since_byte=log_start)
            if must_live() and (status == EXIT_CONFIG or self._restarts.exhausted):
                raise failed(f"the {self.name} does not run (exit status {status}):\n{words}")
            logger.error("the %s died (exit status %d); next start in %.2f s. %s", self.name, status, delay_s, words)
            await asyncio.sleep(delay_s)

    async def renew(self, leave: Callable[[], Awaitable[bool]] | None = None) -> None:
        """Until it runs again, after it had finished what it holds. `leave` has it go in a way of its own, and tells
        whether it does; else it is told to stop."""
        if self.process is None:
            return
        self._is_renewed, starts = True, self.starts
        if leave is None or not await leave():
            self.process.terminate()
        while self.starts == starts:  # noqa: ASYNC110 - until `keep` has started it
            await asyncio.sleep(_POLL_S)

    async def stop(self) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            async with asyncio.timeout(self.process.grace_s):
                await self.process.ended()
        except TimeoutError:
            logger.warning("the %s did not stop within %.0f s; killed", self.name, self.process.grace_s)
            self.process.kill()
            await self.process.ended()

    def hurry(self) -> None:
        """A second SIGTERM, which the host passes on as a kill; then no more patience."""
        if self.process is not None:
            self.process.terminate()
            asyncio.get_running_loop().call_later(_HURRY_S, self.process.kill)


class Stack:
    """Everything that `up` runs. `say` shows a line of progress to the person, `announce` the lines that are
    for its use: where it is ready, and what another Mac joins with when there is a `code`. Where a person sees it
    (`is_seen`) it says what to type next."""

    def __init__(
        self,
        settings: Settings,
        *,
        models: Sequence[str],
        engine: str,
        name: str,
        say: Callable[[str], None],
        announce: Callable[[str], None],
        code: JoinCode | None = None,
        is_seen: bool = False,
    ) -> None:
        self.models = [resolve_source(source) for source in models]
        self.engine = engine
        self.name = name
        self.settings = settings
        if self.models and not settings.default_model:
            self.settings = replace(settings, default_model=model_id_of(self.models[0]))
        self._say = say
        self._announce = announce
        self._code = code
        self._is_seen = is_seen
        self._stopping = asyncio.Event()
        self._renewing = asyncio.Event()
        self._parts_release = version("mlx-gateway")
        self._renewed_part = ""
        self._is_ready = False
        self._services: list[_Service] = []
        self._faults: frozenset[str] = frozenset()
        self._https: socket.socket | None = None

    def renew(self) -> None:
        """Another release was installed: replace the parts, one after another."""
        self._renewing.set()

    def stop(self) -> None:
        """Ask once to end everything politely, twice to end it at once."""
        if self._stopping.is_set():
            for service in self._services:
                service.hurry()
        self._stopping.set()

    async def run(self) -> None:
        """Until stopped. Raises `ConfigError` with the reason when it cannot come up."""
        with only_one(self.settings.state_dir), contextlib.ExitStack() as stack:
            listener = stack.enter_context(listen(self.settings))
            self.settings = replace(self.settings, port=listener.getsockname()[1])
            if (https := self._listen_https()) is not None:
                self._https = stack.enter_context(https)
            server = None
            if self.settings.redis_url:
                check_redis(self.settings)
            else:
                server = stack.enter_context(RedisServer())
                self.settings = replace(self.settings, redis_url=server.url)
            load_secret(self.settings)
            note = write_running(self.settings.state_dir, self._running())
            stack.callback(note.unlink, missing_ok=True)
            await self._supervise(listener, note, server)

    @property
    def url(self) -> str:
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        return f"http://{host}:{self.settings.port}"

    def _running(self) -> Running:
        return Running(
            pid=os.getpid(),
            url=self.url,
            redis_url=self.settings.redis_url,
            is_ready=self._is_ready,
            config_dir=str(self.settings.config_dir or ""),
            parts_release=self._parts_release,
            renewing=self._renewed_part,
        )

    async def _supervise(self, listener: socket.socket, note: Path, server: RedisServer | None) -> None:
        logs = self.settings.state_dir / "logs"
        gateway = _Service("gateway", lambda: self._start_gateway(listener, note, logs), logs / "gateway.log")
        host = _Service("host", lambda: self._start_host(logs), logs / "host.log")
        door = _Service("door", lambda: self._start_door(logs), logs / "door.log")
        self._services = [gateway, host, door]
        work = [service.keep(lambda: not self._is_ready) for service in (gateway, host)]
        work += [self._follow(), self._keep_door(door), self._keep_renewing()]
        if server is not None:
            work.append(keep_redis(server))
        tasks = [asyncio.create_task(each) for each in work]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(*(service.stop() for service in self._services))

    def _start_gateway(self, listener: socket.socket, note: Path, logs: Path) -> GuardedProcess:
        given = {"--fd": listener} | ({"--https-fd": self._https} if self._https is not None else {})
        return _start(
            ["gateway", *(word for name, each in given.items() for word in (name, str(each.fileno())))],
            self.settings,
            logs / "gateway.log",
            pass_fds=[each.fileno() for each in given.values()],
            grace_s=self.settings.drain_s + _GRACE_S,
            remove=[note],
        )

    def _start_host(self, logs: Path) -> GuardedProcess:
        models = [word for source in self.models for word in ("--model", source)]
        arguments = ["worker.host.host", "--engine", self.engine, "--name", self.name, *models]
        return _start(arguments, self.settings, logs / "host.log", grace_s=self.settings.drain_s + _GRACE_S)

    def _start_door(self, logs: Path) -> GuardedProcess:
        return _start(["gateway.door"], self.settings, logs / "door.log", grace_s=_DOOR_GRACE_S)

    async def _keep_door(self, door: _Service) -> None:
        """From when this Mac is shared, which may be while we run."""
        folder = DoorFolder(self.settings)
        while not folder.is_shared:  # noqa: ASYNC110 - another process shares
            await asyncio.sleep(until_beat_s(_SHARED_EVERY_S))
        await door.keep(lambda: False)

    async def _keep_renewing(self) -> None:
        """Whenever another release was installed: each part finishes what it holds and starts anew."""
        gateway, host, door = self._services
        while True:
            await self._renewing.wait()
            self._renewing.clear()
            release = version("mlx-gateway")
            for service in (host, gateway, door):
                self._renewed_part = service.name
                self._note_readiness()
                await service.renew(self._leave if service is host else None)
                await self._until_answering()
            self._parts_release, self._renewed_part = release, ""
            self._note_readiness()

    async def _leave(self) -> bool:
        """The host finishes all that it holds, and its conversations go on elsewhere."""
        try:
            await drain_host(self.settings, self.name, say=self._say)
        except GatewayError as error:
            logger.warning("the host could not be told to leave, it is stopped: %s", error)
            return False
        return True

    async def _until_answering(self) -> None:
        while not await asyncio.to_thread(answers, self.url, "/ready"):  # noqa: ASYNC110 - another process answers
            await asyncio.sleep(_SETTLED_POLL_S)

    async def _follow(self) -> None:
        """Until stopped: show how the models do, and announce once that one answers.

        Raises `ConfigError` when none can be loaded at the start.
        """
        shown: dict[str, ModelRecord] = {}
        host = word(self.name)
        key = Names(self.settings.deployment).host(host)
        policies = Policies(self.settings, tell=lambda _: None)
        record = _Record(Keyring(load_secret(self.settings)).of(host).seal(Purpose.HOST, host))
        async with build_async_redis(self.settings) as broker:
            while not self._stopping.is_set():
                with contextlib.suppress(RedisError, OSError):
                    found = record.of(await broker.get(key))
                    self._show(found.models if found else (), shown)
                    self._show_faults((*policies.faults(), *(found.faults if found else ())))
                if not self._is_ready:
                    await self._announce_when_ready(shown.values())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(until_beat_s(_SHOWN_EVERY_S) if self._is_ready else _POLL_S):
                        await self._stopping.wait()

    async def _announce_when_ready(self, models: Collection[ModelRecord]) -> None:
        if models and all(model.is_hopeless for model in models):
            raise failed("no model could be loaded")
        if await asyncio.to_thread(answers, self.url, "/ready"):
            self._is_ready = True
            self._announce(f"ready on {self.url}")
            tell_ready()
            self._note_readiness()
            for line in next_lines(self.url) if self._is_seen else ():
                self._say(line)
            await self._tell_code()

    def _note_readiness(self) -> None:
        """On a disk that is full, who reads the note finds that it is not ready yet; it serves all the same."""
        try:
            write_running(self.settings.state_dir, self._running())
        except ConfigError as error:
            self._say(str(error))

    async def _tell_code(self) -> None:
        """Raises `ConfigError` when the door does not open."""
        if self._code is not None:
            line, hint = join_lines(self._code, await asyncio.to_thread(wait_for_door, self.settings))
            self._announce(line)
            self._say(hint)
            await self._tell_https()

    async def _tell_https(self) -> None:
        try:
            line, hint = await asyncio.to_thread(https_lines, self.settings)
        except ConfigError as error:
            self._say(str(error))
        else:
            self._announce(line)
            self._say(hint)

    def _listen_https(self) -> socket.socket | None:
        """Bound here for the same reason, once this Mac is shared."""
        if not DoorFolder(self.settings).is_shared:
            return None
        try:
            return listen_https(self.settings)
        except ConfigError as error:
            self._say(str(error))
            return None

    def _show_faults(self, faults: Collection[str]) -> None:
        """Of settings files that were changed while everything runs, and of the disk: each once, and its end."""
        for fault in dict.fromkeys(faults):
            if fault not in self._faults:
                subject, effect = subject_and_effect(fault)
                self._say(f"{subject}: {fault}; {effect}")
        for subject, good in _GOOD_AGAIN.items():
            if any(_is_about(subject, each) for each in self._faults) and not any(
                _is_about(subject, each) for each in faults
            ):
                self._say(f"{subject}: {good}")
        self._faults = frozenset(faults)

    def _show(self, models: Sequence[ModelRecord], shown: dict[str, ModelRecord]) -> None:
        for model in models:
            before = shown.get(model.id)
            if before is None or before.state != model.state or model.load_done - before.load_done >= _SHOWN_STEP:
                shown[model.id] = model
                self._say(describe_model(model))
        for gone in shown.keys() - {model.id for model in models} if models else ():
            self._say(f"{gone} is no longer served")
            del shown[gone]


def next_lines(url: str) -> Iterator[str]:
    """What a person may type now, in another terminal."""
    yield "  mlx-gateway launch claude     Claude Code on these models (or codex, opencode, qwen, pi, aider)"
    yield "  mlx-gateway status            what runs, as it happens"
    yield f"  any Anthropic client: ANTHROPIC_BASE_URL={url}; any OpenAI client: OPENAI_BASE_URL={url}/v1"


class _Record:
    """A host's record, read again when it says something else."""

    def __init__(self, seal: Seal) -> None:
        self._seal = seal
        self._data: object = None
        self._found: HostRecord | None = None

    def of(self, data: object) -> HostRecord | None:
        if data != self._data:
            self._data, self._found = data, record_of(data, self._seal)
        return self._found


def record_of(data: object, seal: Seal) -> HostRecord | None:
    """A host's record as it lies in Redis; None while there is none that can be read."""
    try:
        record = wire.decode(seal.open(data)) if isinstance(data, bytes) else None
    except WireError as error:
        logger.warning("the host's record cannot be read: %s", error)
        return None
    return record if isinstance(record, HostRecord) else None


def describe_model(model: ModelRecord) -> str:
    """One line for a person: what the model is doing, and why it failed."""
    if model.state == "loading":
        return f"loading {model.id}: {model.load_done:.0%}"
    if model.state == "failed":
        return f"{model.id} failed ({model.source}): {model.reason}"
    if model.state == "no_memory":
        needed, free = (f"{count / 1e9:.2f} GB" for count in (model.needed_bytes, model.free_bytes))
        return f"{model.id} has no memory: it needs {needed}, there are {free} ({model.reason})"
    return f"{model.id} is {model.state}{' (pinned)' if model.is_pinned else ''}"


_GOOD_AGAIN = {"settings": "all files can be used again", "disk": "there is room again"}


def _is_about(subject: str, fault: str) -> bool:
    return subject_and_effect(fault)[0] == subject


def check_redis(settings: Settings) -> None:
    """Raises `ConfigError` when the Redis of the settings does not answer or is too old."""
    try:
        with build_redis(settings) as broker:
            version = str(broker.info("server")["redis_version"])
    except AuthenticationError as error:
        raise ConfigError(
            "REDIS_URL: the server refuses the user or the password, or wants one: redis://USER:PASSWORD@HOST:PORT"
        ) from error
    except (RedisError, OSError, ValueError) as error:
        raise not_running(f"REDIS_URL: the server does not answer: {error}") from error
    if tuple(int(part) for part in version.split(".")[:2]) < MINIMUM_VERSION:
        raise ConfigError(f"REDIS_URL: the server is version {version}, 6.2 or later is needed")


def _start(
    module_and_arguments: Sequence[str],
    settings: Settings,
    log: Path,
    *,
    grace_s: float,
    pass_fds: Sequence[int] = (),
    remove: Sequence[Path] = (),
) -> GuardedProcess:
    return GuardedProcess(
        [sys.executable, "-P", "-m", *module_and_arguments],
        env=child_environment(settings),
        log=log,
        pass_fds=pass_fds,
        grace_s=grace_s,
        remove=remove,
    )


async def keep_redis(server: RedisServer) -> None:
    """Start the embedded Redis again, empty, when it dies, as everything in it is soft state; and again, with back-off,
    while it does not start: whoever needs it waits."""
    restarts = Restarts()
    while True:
        status = await server.process.ended()
        delay_s = restarts.delay_s(time.monotonic())
        words = server.last_words()
        logger.error("Redis died (exit status %d); next start in %.2f s. %s", status, delay_s, words)
        await asyncio.sleep(delay_s)
        try:
            await asyncio.to_thread(server.restart)
        except (ConfigError, OSError) as error:
            logger.error("%s", error)  # noqa: TRY400 - the text says it all
