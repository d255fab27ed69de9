"""Which files of a model's folder lead to a prefix that somebody names by a tag."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from worker.cache_files.file_format import DamagedFileError, parse_info, read_head

SUFFIX = ".safetensors"
MOST_FILES = 256  # of an answer
_KNOWN_FOLDERS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file, and what its header says of where it hangs. `stamp` is another when the file is."""

    key: bytes
    parent: bytes
    seed: bytes
    end: int
    tags: frozenset[bytes]
    stamp: tuple[int, int]


class Catalog:
    """The files of all models below `root`. Thread-safe."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._folders: dict[str, dict[str, Entry]] = {}

    def path(self, folder: str, key: bytes) -> Path:
        """Of a file that the catalog has named: its name is made of the key, never of what somebody said."""
        return self._root / folder / f"{key.hex()}{SUFFIX}"

    def folders(self) -> list[str]:
        with contextlib.suppress(OSError):
            return sorted(entry.name for entry in os.scandir(self._root) if entry.is_dir(follow_symlinks=False))
        return []

    def locate(
        self, folder: str, seed: bytes, message_tags: Sequence[bytes], head_tags: Sequence[bytes]
    ) -> list[bytes]:
        """Keys of the files that lead to the first of the tags that is known, parents before children; for the end of
        a message also of those that go on from there: what was answered has no tag yet. Empty where none is known, or
        the folder is none of ours."""
        if folder not in self.folders():
            return []
        entries = {entry.key: entry for entry in self._look(folder) if entry.seed == seed}
        for tags, goes_on in ((message_tags, True), (head_tags, False)):
            for tag in tags:
                found = [entry for entry in entries.values() if tag in entry.tags]
                if found:
                    return _chain(entries, found, goes_on=goes_on)
        return []

    def latest(self, folder: str, *, most_bytes: int, part: int, parts: int) -> list[bytes]:
        """Keys of the files of the conversations that were used last, whosever they are, parents before children: of
        `parts` that have nothing in common but heads, the one with this number, and no more than `most_bytes`."""
        if folder not in self.folders():
            return []
        entries = {entry.key: entry for entry in self._look(folder)}
        parents = {entry.parent for entry in entries.values()}
        ends = [entry for entry in entries.values() if entry.key not in parents and entry.key[0] % parts == part]
        keys: dict[bytes, None] = {}
        for entry in sorted(ends, key=lambda entry: self._used_s(folder, entry.key), reverse=True):
            more = [key for key in _way(entries, entry) or () if key not in keys]
            most_bytes -= sum(entries[key].stamp[1] for key in more)
            if most_bytes < 0 or len(keys) + len(more) > MOST_FILES:
                break
            keys.update(dict.fromkeys(more))
        return list(keys)

    def _used_s(self, folder: str, key: bytes) -> float:
        with contextlib.suppress(OSError):
            return self.path(folder, key).stat(follow_symlinks=False).st_mtime
        return 0.0

    def _look(self, folder: str) -> list[Entry]:
        with self._lock:
            known = self._folders.pop(folder, {})
            found = {}
            with contextlib.suppress(OSError):
                for file in os.scandir(self._root / folder):
                    if file.name.endswith(SUFFIX) and (entry := _entry(file, known.get(file.name))) is not None:
                        found[file.name] = entry
            self._folders[folder] = found
            while len(self._folders) > _KNOWN_FOLDERS:
                del self._folders[next(iter(self._folders))]
            return list(found.values())


def _entry(file: os.DirEntry[str], known: Entry | None) -> Entry | None:
    """None for what is no file of ours, or is gone. Only headers are read, and only of files that are new."""
    try:
        status = file.stat(follow_symlinks=False)
        stamp = (status.st_ino, status.st_size)
        if known is not None and known.stamp == stamp:
            return known
        info = parse_info(read_head(Path(file.path)))
    except (OSError, DamagedFileError):
        return None
    if f"{info.key.hex()}{SUFFIX}" != file.name:
        return None
    return Entry(
        key=info.key, parent=info.parent, seed=info.seed, end=info.end, tags=frozenset(info.marks), stamp=stamp
    )


def _chain(entries: dict[bytes, Entry], found: Iterable[Entry], *, goes_on: bool) -> list[bytes]:
    keys: dict[bytes, None] = {}
    for entry in found:
        way = _way(entries, entry)
        if way is not None:
            keys.update(dict.fromkeys(way))
    if goes_on:
        _go_on(entries, keys)
    return list(keys)[:MOST_FILES]


def _way(entries: dict[bytes, Entry], entry: Entry) -> list[bytes] | None:
    """From the root to the entry; None where a file on the way is missing."""
    way = [entry.key]
    while entry.parent:
        above = entries.get(entry.parent)
        if above is None or above.key in way:
            return None
        entry = above
        way.append(entry.key)
    return way[::-1]


def _go_on(entries: dict[bytes, Entry], keys: dict[bytes, None]) -> None:
    """Add all that hangs below files that are there, level by level. Those that lead to a tag are not gone on from but
    for the last: others of the same head are not meant."""
    children: dict[bytes, list[Entry]] = {}
    for entry in entries.values():
        children.setdefault(entry.parent, []).append(entry)
    ends = _leaves(entries, keys)
    while ends and len(keys) < MOST_FILES:
        below = [child for key in ends for child in children.get(key, ()) if child.key not in keys]
        keys.update(dict.fromkeys(child.key for child in below))
        ends = [child.key for child in below]


def _leaves(entries: dict[bytes, Entry], keys: Collection[bytes]) -> list[bytes]:
    parents = {entries[key].parent for key in keys}
    return [key for key in keys if key not in parents]
