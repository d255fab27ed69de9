"""What the sharing Mac keeps of sharing, `<state>/door/`: the code that is open, the hosts that joined, the door."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import orjson

from shared.config import Settings
from shared.errors import ConfigError
from shared.membership import HOST
from shared.private_files import locked, private_folder, write_private
from shared.processes import is_running

_R = TypeVar("_R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """A code that may be used once, until `ends_at_s` (Unix time), while `tries` are left, by one of this role."""

    secret: str = field(repr=False)
    ends_at_s: float
    tries: int
    is_used: bool = False
    role: str = HOST


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedHost:
    """A Mac that joined, by its host's word. A new `generation` makes its key another one; `password_digest` is the
    SHA-256 of its Redis user's password, `serial` that of its certificate. Those that were revoked stay, for their
    generation."""

    name: str
    generation: int
    serial: str
    password_digest: str = field(repr=False)
    joined_at_s: float = 0.0
    version: str = ""
    is_revoked: bool = False
    role: str = HOST


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenDoor:
    """The door that runs."""

    pid: int
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenHttps:
    """The gateway that is reached at `url`, over HTTPS."""

    pid: int
    url: str


class DoorFolder:
    """Every method may raise `ConfigError` for what cannot be read."""

    def __init__(self, settings: Settings) -> None:
        self.path = settings.state_dir / "door"

    @property
    def is_shared(self) -> bool:
        """Whether this Mac was ever shared: `up` opens the door then."""
        return (self.path / "door-ca.pem").exists()

    def make(self) -> None:
        private_folder(self.path)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        self.make()
        with locked(self.path):
            yield

    def invitation(self) -> Invitation | None:
        return self._read("invitation.json", lambda data: Invitation(**data), None)

    def invite(self, invitation: Invitation) -> None:
        self._write("invitation.json", asdict(invitation))

    def hosts(self) -> dict[str, JoinedHost]:
        """By name, the revoked ones among them."""
        return self._read("hosts.json", lambda data: {each["name"]: JoinedHost(**each) for each in data["hosts"]}, {})

    def note(self, host: JoinedHost) -> None:
        """Under the lock."""
        self._write_hosts({**self.hosts(), host.name: host})

    def forget(self, name: str, before: JoinedHost | None) -> None:
        """Under the lock: a joining that did not come to its end."""
        hosts = self.hosts()
        hosts.pop(name, None)
        self._write_hosts({**hosts, name: before} if before is not None else hosts)

    def revoke(self, name: str) -> JoinedHost:
        """Its key and certificate mean nothing any more. The host as it is noted then. Raises `ConfigError` when there
        is none."""
        with self.locked():
            host = self.hosts().get(name)
            if host is None or host.is_revoked:
                there = ", ".join(each.name for each in self.hosts().values() if not each.is_revoked) or "none"
                raise ConfigError(f"no host that joined is called {name!r}; there are: {there}", is_missing=True)
            revoked = replace(host, generation=host.generation + 1, is_revoked=True, serial="", password_digest="")
            self.note(revoked)
        return revoked

    def stamp(self) -> tuple[int, ...]:
        """Changes with the list of hosts, each of which is a new file."""
        try:
            stat = (self.path / "hosts.json").stat()
        except OSError:
            return ()
        return stat.st_mtime_ns, stat.st_ino, stat.st_size

    def door(self) -> OpenDoor | None:
        found = self._read("door.json", lambda data: OpenDoor(**data), None)
        return found if found is not None and is_running(found.pid) else None

    def note_door(self, door: OpenDoor) -> Path:
        self._write("door.json", asdict(door))
        return self.path / "door.json"

    def https(self) -> OpenHttps | None:
        found = self._read("https.json", lambda data: OpenHttps(**data), None)
        return found if found is not None and is_running(found.pid) else None

    def note_https(self, https: OpenHttps) -> Path:
        self._write("https.json", asdict(https))
        return self.path / "https.json"

    def _write_hosts(self, hosts: dict[str, JoinedHost]) -> None:
        self._write("hosts.json", {"hosts": [asdict(host) for host in hosts.values()]})

    def _write(self, name: str, data: Any) -> None:
        self.make()
        try:
            write_private(self.path / name, orjson.dumps(data, option=orjson.OPT_INDENT_2))
        except OSError as error:
            raise ConfigError(f"{self.path / name} cannot be written: {error.strerror}") from error

    def _read(self, name: str, parse: Callable[[Any], _R], missing: _R) -> _R:
        try:
            return parse(orjson.loads((self.path / name).read_bytes()))
        except FileNotFoundError:
            return missing
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ConfigError(f"{self.path / name} cannot be read: {error}") from error


def generations(hosts: dict[str, JoinedHost]) -> dict[str, int]:
    """Of all hosts whose key is not their first."""
    return {name: host.generation for name, host in hosts.items() if host.generation != 1}
