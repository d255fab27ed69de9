"""Child processes that cannot outlive us: each runs under a guard (see guard.py) at the other end of a socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from shared import guard

EXIT_LEFT = 7  # of who was told to leave, and is not to be started again
_START_S = 10.0


def is_running(pid: int) -> bool:
    """Whether a process of this machine has this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class GuardedProcess:
    """One running command. It ends when asked, and in any case when this process ends.

    Polite stops and our own death give it `grace_s` seconds after SIGTERM, then its process group is killed.
    `remove` names files and folders that go when this process dies without having stopped the command.
    Its output goes to `output`, or through the guard into the file `log`, which is set aside when it has grown.
    `fileno()` becomes readable when the command has ended, so an event loop can watch it.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        output: IO[bytes] | int = subprocess.DEVNULL,
        log: Path | None = None,
        stdin: IO[bytes] | int = subprocess.DEVNULL,
        pass_fds: Sequence[int] = (),
        grace_s: float = 10.0,
        remove: Sequence[Path] = (),
    ) -> None:
        self.grace_s = grace_s
        self._lifeline, theirs = socket.socketpair()
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        words = [str(theirs.fileno()), str(grace_s), str(log or ""), *map(str, remove), "--", *command]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", guard.__file__, *words],
                env=None if env is None else dict(env),
                stdin=stdin,
                stdout=output,
                stderr=output,
                pass_fds=(theirs.fileno(), *pass_fds),
                start_new_session=True,  # Ctrl-C is ours to handle, not theirs
            )
        except OSError:
            self._lifeline.close()
            raise
        finally:
            theirs.close()
        self.pid = self._read_pid()

    def _read_pid(self) -> int:
        """The command's own process id; 0 when it never ran."""
        self._lifeline.settimeout(_START_S)
        line = b""
        with contextlib.suppress(TimeoutError, ConnectionError):
            while not line.endswith(b"\n"):
                byte = self._lifeline.recv(1)
                if not byte:
                    break
                line += byte
        self._lifeline.settimeout(None)
        return int(line.split()[1]) if line.startswith(b"pid ") else 0

    def fileno(self) -> int:
        return self._lifeline.fileno()

    def poll(self) -> int | None:
        """None while it runs, else its exit status: 128 + n when signal n ended it."""
        return self._settled(self._process.poll())

    def wait(self, timeout_s: float | None = None) -> int:
        """The exit status. Raises `TimeoutError` when it still runs after `timeout_s`."""
        try:
            status = self._settled(self._process.wait(timeout_s))
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"process {self.pid} still runs after {timeout_s} s") from None
        assert status is not None
        return status

    def _settled(self, status: int | None) -> int | None:
        if status is None:
            return None
        self._lifeline.close()
        if status >= 0:
            return status
        # The guard itself was killed. On Linux its command died with it; elsewhere this sweeps it up.
        if self.pid:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        return 128 - status

    async def ended(self) -> int:
        """The exit status, once the command has ended. May be awaited by several tasks, one after another."""
        status = self.poll()
        if status is not None:
            return status
        loop = asyncio.get_running_loop()
        over = asyncio.Event()
        descriptor = self.fileno()
        loop.add_reader(descriptor, over.set)
        try:
            await over.wait()
        finally:
            loop.remove_reader(descriptor)
        return await asyncio.to_thread(self.wait)

    def give_input(self, data: bytes) -> None:
        """Write all of the command's input and close it (needs `stdin=subprocess.PIPE`)."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin:  # an early death shows in `poll`
            self._process.stdin.write(data)

    def terminate(self) -> None:
        self._say(b"T")

    def kill(self) -> None:
        self._say(b"K")

    def _say(self, word: bytes) -> None:
        with contextlib.suppress(OSError):  # it has ended already
            self._lifeline.send(word)

    def stop(self, grace_s: float | None = None) -> int:
        """Terminate, wait, kill after the grace; the exit status."""
        self.terminate()
        try:
            return self.wait(self.grace_s if grace_s is None else grace_s)
        except TimeoutError:
            self.kill()
            return self.wait()
