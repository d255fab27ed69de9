"""`mlx-gateway config secrets`: fresh secrets for a deployment, and the users of its Redis that go with them.

Redis gets digests of the passwords, the `.env` beside the compose file the passwords.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from gateway.command.ends import failed
from shared.acl import render_users
from shared.keys import Names

_PASSWORDS: Final[Mapping[str, str]] = {"gateway": "REDIS_GATEWAY_PASSWORD", "worker": "REDIS_WORKER_PASSWORD"}
_VARIABLES: Final = ("MLX_GATEWAY_SECRET", "MLX_GATEWAY_API_KEY", *_PASSWORDS.values(), "GRAFANA_PASSWORD")
_BYTES: Final = 32


def _new_secret() -> str:
    return secrets.token_hex(_BYTES)


def write_secrets(folder: Path, *, deployment: str, make: Callable[[], str] = _new_secret) -> list[Path]:
    """What was written: `.env` and `deploy/redis/users.acl`, for their owner alone. Raises `ConfigError` (failed) when
    one of them is there: the secrets of a deployment that runs are not to be lost."""
    made = {name: make() for name in _VARIABLES}
    files = {
        folder / ".env": "".join(f"{name}={value}\n" for name, value in made.items()),
        folder / "deploy" / "redis" / "users.acl": _users(deployment, made),
    }
    there = [str(path) for path in files if path.exists()]
    if there:
        raise failed(f"{', '.join(there)} is there already: nothing was changed")
    for path, text in files.items():
        _write(path, text)
    return list(files)


def _users(deployment: str, made: Mapping[str, str]) -> str:
    text = render_users(Names(deployment))
    for user, variable in _PASSWORDS.items():
        digest = hashlib.sha256(made[variable].encode()).hexdigest()
        text = text.replace(f">CHANGE-{user.upper()}-PASSWORD", f"#{digest}")
    return text


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
    except OSError as error:
        raise failed(f"{path} cannot be written: {error}") from error
