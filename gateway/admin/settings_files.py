"""Settings files changed from a console: checked first, written whole, and as they were again at a word.

A person edits the same files. A text is written as it came, so that order and spacing stay; whoever writes says which
text was changed (its tag), and is refused where that is not what is there.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from gateway.models.settings_files import PARSERS
from shared.cache_settings import FILE as CACHE_SETTINGS
from shared.config import Settings
from shared.doubled_names import doubled_names
from shared.errors import ConfigError, GatewayError, InvalidRequestError, RouteNotFoundError
from shared.private_files import locked, private_folder, write_private

EMPTY: Final = "none"  # the tag of a file that is not there
_KEPT: Final = 20  # texts to go back to
_MOST_BYTES: Final = 1 << 20

NAMES: Final = ("claude_routing.json", "model_aliases.json", "inference_settings.json", CACHE_SETTINGS)


class ChangedFileError(Exception):
    """Somebody else has written it since. `there` is what is there now."""

    def __init__(self, there: Text) -> None:
        super().__init__("the file was changed meanwhile")
        self.there = there


@dataclass(frozen=True, slots=True)
class Text:
    text: str
    tag: str


@dataclass(frozen=True, slots=True)
class History:
    """The texts to go back to, oldest first, and the tag of what was written from here last; empty: not known."""

    texts: tuple[str, ...] = ()
    wrote: str = ""

    def is_over(self, tag: str) -> bool:
        """Whether somebody else has written the text of this tag."""
        return bool(self.wrote) and tag != self.wrote


class SettingsEditor:
    """Reads and writes files: for threads. Every method raises `RouteNotFoundError` for a file that is not edited
    here, and `ConfigError` for one that cannot be used."""

    def __init__(self, settings: Settings) -> None:
        self._folder = settings.config_dir
        self._past = settings.state_dir / "before"

    @property
    def is_writable(self) -> bool:
        """Whether there is a folder of settings files."""
        return self._folder is not None

    def read(self, name: str) -> Text:
        path = self._path(name)
        try:
            text = path.read_bytes().decode() if path is not None and path.exists() else None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} cannot be read: {error}") from error
        return Text("", EMPTY) if text is None else Text(text, _tag(text))

    def stamp(self) -> object:
        """Changes with the files, in microseconds."""
        paths = [path for name in NAMES if (path := self._path(name)) is not None]
        return tuple(_stamp(path) for path in paths), _stamp(self._past)

    def check(self, name: str, text: str) -> dict[str, Any]:
        """What would change, as a unified diff, and what is wrong with it: empty where it can be written."""
        there = self.read(name)
        return {"tag": there.tag, "diff": _diff(name, there.text, text), "fault": self._fault(name, text)}

    def write(self, name: str, text: str, tag: str) -> Text:
        """Raises `ChangedFileError`, and `InvalidRequestError` for what no gateway could use."""
        if fault := self._fault(name, text):
            raise InvalidRequestError(fault, param="text")
        return self._replace(name, text, tag, is_undone=False)

    def undo(self, name: str, tag: str) -> Text:
        """As it was before the last write from a console. Raises as `write` does, and `InvalidRequestError` where there
        is no way back, or somebody's edit since would be lost on it."""
        past = self._history(name)
        if not past.texts:
            raise InvalidRequestError(f"nothing was written to {name} from here")
        if past.is_over(tag):
            raise InvalidRequestError(
                f"{name} was edited elsewhere since it was written from here: undo would lose that"
            )
        return self._replace(name, past.texts[-1], tag, is_undone=True)

    def undoable(self, name: str, tag: str) -> int:
        """How many steps there are back from the text of this tag."""
        past = self._history(name)
        return 0 if past.is_over(tag) else len(past.texts)

    def _history(self, name: str) -> History:
        self._path(name)
        try:
            return _history_of(orjson.loads((self._past / name).read_bytes()))
        except FileNotFoundError:
            return History()
        except (OSError, orjson.JSONDecodeError) as error:
            raise ConfigError(f"{self._past / name} cannot be read: {error}") from error

    def _replace(self, name: str, text: str, tag: str, *, is_undone: bool) -> Text:
        path = self._path(name)
        if path is None:
            raise InvalidRequestError("there is no folder of settings files: start `mlx-gateway up` with --config DIR")
        text = text if is_undone or text.endswith("\n") or not text.strip() else f"{text}\n"
        with locked(private_folder(self._past)):
            there = self.read(name)
            if there.tag != tag:
                raise ChangedFileError(there)
            past = self._history(name).texts
            kept = past[:-1] if is_undone else (*past, there.text)[-_KEPT:]
            wrote = _tag(text) if text.strip() else EMPTY
            try:
                write_private(self._past / name, orjson.dumps({"texts": kept, "wrote": wrote}))
                _write(path, text)
            except OSError as error:
                raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
        return self.read(name)

    def _path(self, name: str) -> Path | None:
        if name not in NAMES:
            raise RouteNotFoundError(f"{name[:100]!r} is not changed here: {', '.join(NAMES)} are")
        return None if self._folder is None else self._folder / name

    def _fault(self, name: str, text: str) -> str:
        self._path(name)
        if len(text) > _MOST_BYTES:
            return f"{name}: more than {_MOST_BYTES} bytes"
        try:
            data = orjson.loads(text.encode()) if text.strip() else {}
            PARSERS[name](data)
            return f"{name}: {doubled}" if (doubled := next(doubled_names(text), "")) else ""
        except UnicodeEncodeError:
            return f"{name}: no text that UTF-8 can hold"
        except orjson.JSONDecodeError as error:
            return f"{name}: line {error.lineno}, column {error.colno}: {error.msg}"
        except GatewayError as error:
            return str(error)


def _tag(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _history_of(found: object) -> History:
    """Earlier releases kept a list of texts alone."""
    told = found if isinstance(found, dict) else {"texts": found}
    texts, wrote = told.get("texts"), told.get("wrote")
    kept = tuple(text for text in texts if isinstance(text, str)) if isinstance(texts, list) else ()
    return History(kept, wrote if isinstance(wrote, str) else "")


def _diff(name: str, before: str, after: str) -> str:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), f"{name} now", f"{name} then", lineterm="")
    return "\n".join(lines)


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        stat = path.stat()
    except OSError:
        return ()
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _write(path: Path, text: str) -> None:
    """In one step; who may read it stays, and so does a link to where it is kept. Nothing to say is no file. Raises
    `OSError`."""
    path = Path(os.path.realpath(path))
    if not text.strip():
        path.unlink(missing_ok=True)
        return
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    write_private(path, text.encode())
    path.chmod(mode)
