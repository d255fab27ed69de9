"""A settings file whose last good content stays in force while somebody edits it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from shared.config import Settings, SettingsFile
from shared.errors import ConfigError

_T = TypeVar("_T")


class ParsedFile(Generic[_T]):
    """`value` is the last good content, `fault` why the file cannot be used as it is now. Raises `ConfigError` when
    made with a file that cannot be used."""

    def __init__(
        self, settings: Settings, name: str, parse: Callable[[Any], _T], tell: Callable[[str], None] = lambda _: None
    ) -> None:
        self._file = SettingsFile(settings, name, tell)
        self._parse = parse
        self._data = self._file.load()
        self._misread = ""  # what is wrong with JSON that can be read
        self.value = parse(self._data)

    @property
    def fault(self) -> str:
        return self._file.fault or self._misread

    def refresh(self) -> bool:
        """Whether the content changed."""
        try:
            data = self._file.load()
            if data is self._data:
                return False
            self._data, self._misread = data, ""
            self.value = self._parse(data)
        except ConfigError as error:
            self._misread = "" if self._file.fault else str(error)
            return False
        return True
