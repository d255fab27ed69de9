"""Where this machine's gateway listens, or will; a host listens nowhere."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from socket import socket
from urllib.parse import urlsplit

from gateway.command.checks.finding import Finding, fault, fine, remark
from gateway.command.runfile import reachable, read_running
from shared.config import Settings
from shared.errors import ConfigError
from shared.fingerprints import ID_HEADER
from shared.membership import HOST, Membership

_PATIENCE_S = 2.0


def check_port(settings: Settings, membership: Membership | None, listen: Callable[[Settings], socket]) -> Finding:
    """`membership` is that of a Mac that joined a fleet; `listen` raises `ConfigError` for a port that is taken. Where
    the machine's part is not known, since it may be a host of the Redis that is set, that is a remark."""
    running = read_running(settings.state_dir)
    if running is not None:  # whatever port it was given: that one is what its clients need
        return fine("port", f"{running.url} is this gateway (of `up`, pid {running.pid})")
    if membership is not None and membership.role == HOST:
        return fine("port", f"a host needs none: clients ask the gateway at {membership.address}")
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    try:
        listen(settings).close()
    except ConfigError as error:
        if settings.port and _is_ours(f"http://{host}:{settings.port}"):
            return fine("port", f"a gateway of mlx-gateway, which no `up` started here, is at {host}:{settings.port}")
        may_be_host = bool(settings.redis_url)
        return remark("port", f"{error}; a host needs none") if may_be_host else fault("port", str(error))
    return fine("port", f"{host}:{settings.port} is free")


def _is_ours(url: str) -> bool:
    address = urlsplit(reachable(url))
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=_PATIENCE_S)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().getheader(ID_HEADER) is not None
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
