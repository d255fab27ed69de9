"""Files that are their owner's alone, whole at every moment: who reads one finds this content or the one before."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

from shared.errors import ConfigError

_LONGEST_FOLDER = 80  # a unix socket's path has 104 bytes on macOS, 108 on Linux


def private_folder(path: Path) -> Path:
    """The folder, and the one it is in, made if they are missing. Raises `ConfigError` when it cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(f"the folder {path} cannot be used: {error.strerror}") from error
    return path


def short_private_folder(base: str = "") -> Path:
    """A new folder that only we can enter, with a path short enough for a socket; in `base`, or in /tmp."""
    base = base or tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="mlxgw-", dir=base if len(base) <= _LONGEST_FOLDER else "/tmp"))


def write_private(path: Path, data: bytes) -> None:
    """Raises `OSError`."""
    written = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        written.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            written.unlink()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Alone with the folder's files among the processes that ask for it. Held for moments only."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
