"""Runs one command and never lets it outlive the process that asked for it, however that one ends.

    python -I -S guard.py LIFELINE GRACE_S LOG [PATH]... -- COMMAND [ARG]...

LIFELINE is the descriptor of a socket whose other end the owner alone holds. The guard says `pid N` on it once the
command runs; a byte `T` from the owner ends the command politely, `K` at once; end of file means that the owner is
gone, and then the command gets GRACE_S seconds and the PATHs are removed. This works on any Unix; where the kernel
can tie a child to its parent (Linux), the command does not outlive a killed guard either. The command leads its own
process group, which is swept when it ends, so nothing that it started is left.

What the command writes to stdout and stderr goes through the guard into the file LOG, which is set aside when it has
grown large (`LOG.1` is the youngest of those, and the oldest goes), so that no log grows without limit however long the
command runs. Where LOG is empty the command writes to the guard's own.

Run as a file by `shared/processes.py`, standard library only, so that it starts in milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time
from types import FrameType

_PR_SET_PDEATHSIG = 1
LOG_BYTES = 10 * 1024 * 1024
LOGS_KEPT = 5
_READ_BYTES = 65536


class RotatingLog:
    """A file that is set aside when it has more than `most_bytes`; so many of those are kept. What cannot be written,
    because the disk is full, is counted, and said once there is room."""

    def __init__(self, path: str, *, most_bytes: int = LOG_BYTES, kept: int = LOGS_KEPT) -> None:
        self._path = path
        self._most_bytes = most_bytes
        self._kept = kept
        self._lost_bytes = 0
        self._file = -1

    def write(self, data: bytes) -> None:
        try:
            if self._file < 0:
                self._open()
            if os.fstat(self._file).st_size > self._most_bytes:
                self.set_aside()
            if self._lost_bytes:
                os.write(self._file, b"(%d bytes were lost here: the log could not be written)\n" % self._lost_bytes)
                self._lost_bytes = 0
            _write_all(self._file, data)
        except OSError:
            self._lost_bytes += len(data)

    def _open(self) -> None:
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def set_aside(self) -> None:
        """Begin a new file. Raises `OSError`."""
        for number in range(self._kept - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                os.replace(f"{self._path}.{number}", f"{self._path}.{number + 1}")
        os.replace(self._path, f"{self._path}.1")
        self.close()
        self._open()

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


class _Guard:
    def __init__(self, lifeline: socket.socket, command: list[str], grace_s: float, log: RotatingLog | None) -> None:
        self.lifeline = lifeline
        self.log = log
        self.output, self._command_output = (-1, -1) if log is None else os.pipe()
        self.command = command
        self.grace_s = grace_s
        self.owner_gone = False
        self.pid = 0

    def run(self) -> int:
        """The command's exit status as a shell gives it: 128 + n when signal n ended it."""
        self.pid = self._start()
        self._close_inherited()
        waker = self._catch_signals()
        with contextlib.suppress(OSError):  # an owner that is gone already shows as end of file below
            self.lifeline.sendall(b"pid %d\n" % self.pid)
        kill_at_s = float("inf")
        while (status := self._reap()) is None:
            watched: list[socket.socket | int] = [waker] if self.owner_gone else [waker, self.lifeline]
            if self.output >= 0:
                watched.append(self.output)
            timeout = None if kill_at_s == float("inf") else max(0.0, kill_at_s - time.monotonic())
            readable, _, _ = select.select(watched, [], [], timeout)
            if waker in readable:
                waker.recv(4096)
            if self.output in readable:
                self._pass_output_on()
            if self.lifeline in readable and self._obey():
                kill_at_s = time.monotonic() + self.grace_s
            if time.monotonic() >= kill_at_s:
                self._signal(signal.SIGKILL)
                kill_at_s = float("inf")
        self._signal(signal.SIGKILL)  # what the command left behind in its group
        self._pass_the_rest_on()
        return status

    def _pass_output_on(self) -> bool:
        """Whether there may be more."""
        data = os.read(self.output, _READ_BYTES)
        if data and self.log is not None:
            self.log.write(data)
        if not data:
            os.close(self.output)
            self.output = -1
        return bool(data)

    def _pass_the_rest_on(self) -> None:
        """What is there already: somebody who left the group may hold the other end for ever."""
        if self.output >= 0:
            os.set_blocking(self.output, False)
        with contextlib.suppress(BlockingIOError):
            while self.output >= 0 and self._pass_output_on():
                pass

    def _close_inherited(self) -> None:
        """The command has its own copies; ours would keep its pipes open after it closed them."""
        ours = sorted({self.lifeline.fileno(), self.output} - {-1})
        for first, last in zip([2, *ours], [*ours, 1024], strict=True):
            os.closerange(first + 1, last)

    def _catch_signals(self) -> socket.socket:
        """A socket that becomes readable at any signal, the end of the command (SIGCHLD) among them."""
        waker, wakeup = socket.socketpair()
        for end in (waker, wakeup):
            end.setblocking(False)
        self.wakeup = wakeup  # kept: the interpreter holds only its number
        signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _noted)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._pass_on)
        return waker

    def _start(self) -> int:
        parent = os.getpid()
        pid = os.fork()
        if pid:
            with contextlib.suppress(OSError):  # the command has done it and runs
                os.setpgid(pid, pid)
            return pid
        try:
            os.setpgid(0, 0)
            _die_with(parent)
            if self._command_output >= 0:
                for number in (1, 2):
                    os.dup2(self._command_output, number)
            os.execvp(self.command[0], self.command)
        except OSError as error:
            os.write(2, f"cannot run {self.command[0]}: {error.strerror}\n".encode())
        os._exit(127)

    def _reap(self) -> int | None:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0:
            return None
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code

    def _obey(self) -> bool:
        """Do what the owner says; True when the owner is gone."""
        try:
            said = self.lifeline.recv(64)
        except ConnectionError:
            said = b""
        if b"K" in said:
            self._signal(signal.SIGKILL)
        elif b"T" in said or not said:
            self._signal(signal.SIGTERM)
        self.owner_gone = not said
        return self.owner_gone

    def _pass_on(self, number: int, _: FrameType | None) -> None:
        self._signal(number)

    def _signal(self, number: int) -> None:
        """Politeness is for the command, which knows what to do about its children; force is for all of them."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # PermissionError: macOS, group of zombies
            if number == signal.SIGKILL:
                os.killpg(self.pid, number)
            elif self.pid:
                os.kill(self.pid, number)


def _noted(_: int, __: FrameType | None) -> None:
    """The wake-up descriptor has carried the news."""


def _die_with(parent: int) -> None:
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os._exit(128 + signal.SIGKILL)


def _remove(path: str) -> None:
    import shutil

    if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _tell_why(log: RotatingLog) -> None:
    """A bug of the guard's own, where nobody else would see it."""
    import traceback

    log.write(traceback.format_exc().encode())


def main(words: list[str]) -> int:
    lifeline, grace_s, log_path, *rest = words
    split = rest.index("--")
    os.set_inheritable(int(lifeline), False)
    log = RotatingLog(log_path) if log_path else None
    guard = _Guard(socket.socket(fileno=int(lifeline)), rest[split + 1 :], float(grace_s), log)
    try:
        status = guard.run()
    except BaseException:
        if log is not None:
            _tell_why(log)
        raise
    if log is not None:
        log.close()
    if guard.owner_gone:
        for path in rest[:split]:
            _remove(path)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
