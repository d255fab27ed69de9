"""Logging set-up, done once by each process's entry point. Never prompts or outputs at info level."""

from __future__ import annotations

import json
import logging
import sys
import time
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final

from shared.config import Settings
from shared.guard import LOG_BYTES, LOGS_KEPT

_TAIL_BYTES = 4096
# Libraries that say at info what nobody here asked for, and at warning what a served model says each time.
_QUIET: Final = ("httpx", "urllib3", "filelock")
_QUIETER: Final = ("transformers", "transformers.tokenization_utils_base", "huggingface_hub")


class _Text(logging.Formatter):
    converter = staticmethod(time.gmtime)

    def __init__(self, process: str) -> None:
        super().__init__(
            f"%(asctime)s.%(msecs)03dZ %(levelname)-7s {process} %(name)s: %(message)s", datefmt="%Y-%m-%dT%H:%M:%S"
        )


class JsonLines(logging.Formatter):
    """An object per record: `time` (UTC), `level`, `process`, `logger`, `message`, `fields` where the line has them as
    values too, and `traceback`."""

    converter = staticmethod(time.gmtime)

    def __init__(self, process: str) -> None:
        super().__init__(datefmt="%Y-%m-%dT%H:%M:%S")
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        said = {
            "time": f"{self.formatTime(record, self.datefmt)}.{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields = getattr(record, "fields", None)
        if fields is not None:
            said["fields"] = fields
        if record.exc_info:
            said["traceback"] = self.formatException(record.exc_info)
        return json.dumps(said, ensure_ascii=False, default=str)


def set_up_logging(settings: Settings, *, process: str, level: str = "") -> None:
    """One line per record on stderr, or into the file of the settings, which is set aside when it has grown. `level`
    instead of the settings' one."""
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if settings.log_file is not None:
        settings.log_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handler = RotatingFileHandler(settings.log_file, maxBytes=LOG_BYTES, backupCount=LOGS_KEPT, encoding="utf-8")
    handler.setFormatter(JsonLines(process) if settings.log_format == "json" else _Text(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel((level or settings.log_level).upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in _QUIETER:
        logging.getLogger(name).setLevel(logging.ERROR)


def log_size(path: Path) -> int:
    """Bytes of a log now; 0 while there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def last_lines(path: Path, *, since_byte: int = 0, count: int = 8) -> str:
    """The end of a log, to show why its process died: what was written after `since_byte`, empty when nothing was."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            was_set_aside = size < since_byte
            file.seek(max(0 if was_set_aside else since_byte, size - _TAIL_BYTES))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-count:])
    except FileNotFoundError:
        return ""
