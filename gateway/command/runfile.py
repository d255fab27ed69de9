"""Which `up` runs on a state folder: held by a lock, described in a file for the other commands."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import orjson

from gateway.command.ends import failed
from shared.errors import ConfigError
from shared.processes import is_running

_HTTP_S = 2.0
_LOCAL = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # what listens everywhere is reached here


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """What `up` leaves for the other commands while it runs; the file is its owner's alone. `config_dir` is the folder
    of its settings files, empty for none. `is_ready`: a model has answered, and `up` has said so. Its parts are of
    `parts_release`; `renewing` is the one that is replaced now, empty for none."""

    pid: int
    url: str
    redis_url: str = field(repr=False)
    is_ready: bool = False
    config_dir: str = ""
    parts_release: str = ""
    renewing: str = ""


def read_running(state_dir: Path) -> Running | None:
    """The `up` that runs on this state folder, if any. (A machine that lost its power leaves the file behind.)"""
    try:
        found = Running(**orjson.loads((state_dir / "up.json").read_bytes()))
    except (FileNotFoundError, orjson.JSONDecodeError, TypeError):
        return None
    return found if is_running(found.pid) else None


def write_running(state_dir: Path, running: Running) -> Path:
    """Whole at every moment: who reads it finds this or what was there before. Raises `ConfigError` where nothing can
    be written, as on a disk that is full."""
    path = state_dir / "up.json"
    written = state_dir / "up.json.new"
    try:
        written.unlink(missing_ok=True)
        with os.fdopen(os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(orjson.dumps(asdict(running)))
        written.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            written.unlink(missing_ok=True)
        raise ConfigError(f"the state folder {state_dir} cannot be written: {error.strerror}") from error
    return path


@contextlib.contextmanager
def only_one(state_dir: Path) -> Iterator[None]:
    """Hold the state folder. Raises `ConfigError` when another `up` does, or when it cannot be used; a killed one holds
    nothing."""
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder = os.open(state_dir, os.O_RDONLY)
    except OSError as error:
        raise ConfigError(f"the state folder {state_dir} cannot be used: {error}") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(folder)
        other = read_running(state_dir)
        where = f" (pid {other.pid}, {other.url})" if other else ""
        raise failed(
            f"mlx-gateway is already up on {state_dir}{where}: stop it, or give this one another --state"
        ) from None
    try:
        yield
    finally:
        os.close(folder)


def reachable(url: str) -> str:
    """Where the gateway that listens on `url` is reached from this machine."""
    address = urlsplit(url)
    host = _LOCAL.get(address.hostname or "")
    if host is None:
        return url
    return f"http://{f'[{host}]' if ':' in host else host}:{address.port}"


def answers(url: str, path: str) -> bool:
    """Whether the gateway at `url` says 200 to a GET of `path`, from this machine."""
    address = urlsplit(reachable(url))
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=_HTTP_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
