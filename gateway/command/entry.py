"""What the `mlx-gateway` command runs: the rest is imported here, because a person may press Ctrl-C meanwhile."""

from __future__ import annotations

import errno
import os
import select
import signal
import sys

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # full, or broken


def main() -> int:
    """The command's exit status, without a traceback for an interruption, a reader that has left, or a full disk."""
    try:
        return _run()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        if not _is_output_closed():
            raise
        _drop_output()
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in _DISK:
            raise
        _drop_output()
        sys.stderr.write(f"mlx-gateway: it cannot be written: {error}\n")
        return 1


def _drop_output() -> None:
    """Python writes what is left once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run() -> int:
    try:
        from gateway.command import cli

        return cli.main()
    finally:
        sys.stdout.flush()


def _is_output_closed() -> bool:
    """Whether it was standard output that nobody reads any more, and no other connection."""
    watch = select.poll()
    watch.register(sys.stdout.fileno(), 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in watch.poll(0))
