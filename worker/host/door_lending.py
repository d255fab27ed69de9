"""Lends through the door: this host opens nothing, but holds a connection to the door on which it hears that somebody
wants to read, and comes for each with a connection of its own."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable

from shared.beats import until_beat_s
from shared.cache_door import ALIVE_S, decode_words, encode_words, hang_up, has_door, open_door, read_line
from shared.config import Settings
from shared.errors import GatewayError

log = logging.getLogger(__name__)

_AGAIN_S = 2.0
_SILENCE_S = 3 * ALIVE_S  # of the door, before it is looked for again


class DoorLending:
    """`serve` is given each reader's stream, and closes it. `is_open` says whether the door leads here now."""

    def __init__(self, settings: Settings, host: str, serve: Callable[[socket.socket], None]) -> None:
        self._settings = settings
        self._host = host
        self._serve = serve
        self._stopping = threading.Event()
        self._stream: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, name="cache-door", daemon=True)
        self._last_fault = ""
        self.is_open = False

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stopping.set()
        if self._stream is not None:
            hang_up(self._stream)

    def _run(self) -> None:
        while not self._stopping.is_set():
            if has_door(self._settings):
                try:
                    self._lend()
                except (OSError, GatewayError) as error:
                    self._tell(error)
                finally:
                    self.is_open, self._stream = False, None
            self._stopping.wait(until_beat_s(_AGAIN_S))

    def _tell(self, error: Exception) -> None:
        """Each fault once, until it is another."""
        fault = f"{type(error).__name__}: {error}"
        if not self._stopping.is_set() and fault != self._last_fault:
            log.warning("nothing is lent through the door: %s", fault)
        self._last_fault = fault

    def _lend(self) -> None:
        """Until the door is gone. Raises `OSError` and `GatewayError`."""
        with open_door(self._settings) as stream:
            self._stream = stream
            stream.settimeout(_SILENCE_S)
            stream.sendall(encode_words(lend=self._host))
            while not self._stopping.is_set():
                match decode_words(read_line(stream)):
                    case {"lending": True}:
                        self.is_open, self._last_fault = True, ""
                        log.info("what is kept in files is lent through the door")
                    case {"reader": str(code)}:
                        threading.Thread(target=self._come_for, args=(code,), name="cache-take", daemon=True).start()

    def _come_for(self, code: str) -> None:
        try:
            with contextlib.ExitStack() as unless_taken:
                stream = unless_taken.enter_context(open_door(self._settings))
                stream.sendall(encode_words(take=code))
                unless_taken.pop_all()
        except (OSError, GatewayError) as error:
            log.warning("who wanted to read kept prefixes through the door was not reached: %s", error)
            return
        self._serve(stream)
