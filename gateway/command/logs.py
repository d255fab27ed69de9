"""`mlx-gateway logs`: the logs of what runs on a state folder, their end or as they grow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from gateway.command.ends import not_there

_POLL_S: Final = 0.2
_TAIL_BYTES: Final = 256 * 1024


def log_files(state_dir: Path) -> dict[str, Path]:
    """By part: `gateway`, `host`, `up`, and `worker-<model>` for each model."""
    return {path.stem: path for path in sorted((state_dir / "logs").glob("*.log"))}


def find_logs(state_dir: Path, part: str) -> dict[str, Path]:
    """The logs of a part, all without one. A model's name stands for its worker. Raises `ConfigError` (not_there)."""
    files = log_files(state_dir)
    found = {name: path for name, path in files.items() if part in ("", name) or name == f"worker-{part}"}
    if not found:
        there = ", ".join(files) or "none"
        raise not_there(f"{state_dir / 'logs'} has no log of {part or 'anything'}; there are: {there}")
    return found


def last_lines_of(path: Path, count: int) -> list[str]:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        return file.read().decode(errors="replace").splitlines()[-count:]


def following(files: dict[str, Path], wait: Callable[[float], None] = time.sleep) -> Iterator[tuple[str, str]]:
    """(part, line) of what is written from now on, for ever; also into the file that follows one set aside."""
    places = {name: path.stat().st_size for name, path in files.items()}
    while True:
        for name, path in files.items():
            data, places[name] = _grown(path, places[name])
            for line in data.splitlines():
                yield name, line
        wait(_POLL_S)


def _grown(path: Path, place: int) -> tuple[str, int]:
    """Whole lines since then, and where they end."""
    try:
        size = path.stat().st_size
        start = place if size >= place else 0
        with path.open("rb") as file:
            file.seek(start)
            data = file.read()
    except FileNotFoundError:  # it is just being set aside
        return "", 0
    whole = data[: data.rfind(b"\n") + 1]
    return whole.decode(errors="replace"), start + len(whole)
