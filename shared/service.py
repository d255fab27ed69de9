"""Tells whoever keeps this process as a service that it is ready (sd_notify: one datagram, and nothing where nobody
asked).

Source: https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html.
"""

from __future__ import annotations

import logging
import socket

from shared.config import service_socket

logger = logging.getLogger(__name__)


def tell_ready(path: str | None = None) -> None:
    """Raises nothing."""
    path = service_socket() if path is None else path
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"READY=1", address)
    except OSError as error:
        logger.warning("the service manager was not told that this is ready: %s", error)
