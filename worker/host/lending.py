"""Where other hosts read what is kept in files here: through the door, where the fleet has one, or at an address that a
person named."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

from shared.cache_door import BY_DOOR
from shared.config import Settings, environment_name
from shared.errors import ConfigError, WireError
from shared.seal import HostKey
from shared.sentinel import first_address, is_sentinel
from worker.cache_files.protocol import parse_address
from worker.cache_files.server import FileServer
from worker.host.door_lending import DoorLending

_ANY = ("", "0.0.0.0", "::")
_REDIS_PORT = 6379


class Lender:
    """`address` is what other hosts are told, empty while nothing is lent."""

    def __init__(self, settings: Settings, key: HostKey) -> None:
        self._settings = settings
        self._server = FileServer(settings.state_dir / "cache", key)
        self._door = DoorLending(settings, key.host, self._server.serve_beside)
        self._listens_at = ""

    @property
    def address(self) -> str:
        return self._listens_at or (BY_DOOR if self._door.is_open else "")

    def start(self) -> None:
        """Raises `ConfigError` where it cannot listen."""
        if self._settings.cache_listen:
            self._listen()
        elif self._settings.ssd_cache_bytes >= 0:
            self._door.start()

    def _listen(self) -> None:
        name = environment_name("cache_listen")
        try:
            host, port = parse_address(self._settings.cache_listen)
            port = self._server.listen(host, port)
        except WireError as error:
            raise ConfigError(f"{name}: {error}") from error
        except OSError as error:
            raise ConfigError(f"{name}={self._settings.cache_listen}: {error.strerror}") from error
        self._listens_at = self._settings.cache_address or _join(self._own_address() if host in _ANY else host, port)

    def _own_address(self) -> str:
        """The address of this machine on its way to Redis, which all hosts can reach."""
        url = self._settings.redis_url
        parts = urlsplit(url)
        target = first_address(url) if is_sentinel(url) else (parts.hostname or "127.0.0.1", parts.port or _REDIS_PORT)
        try:
            family, kind, _, _, address = socket.getaddrinfo(*target, type=socket.SOCK_DGRAM)[0]
            with socket.socket(family, kind) as way:
                way.connect(address)
                return str(way.getsockname()[0])
        except OSError:
            return "127.0.0.1"

    def learn(self, generations: Mapping[str, int]) -> None:
        """See `FileServer.learn`."""
        self._server.learn(generations)

    @property
    def has_something(self) -> bool:
        """Whether there is anything that another host could read."""
        return bool(self.address) and not self._server.is_empty

    def close(self) -> None:
        self._listens_at = ""
        self._door.close()
        self._server.close()


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
