"""What the `mlx-gateway` command runs: the rest is imported here, because a person may press Ctrl-C meanwhile."""

from __future__ import annotations

import os
import select
import signal
import sys


def main() -> int:
    """The command's exit status, without a traceback for an interruption, or for a reader that has read enough."""
    try:
        return _run()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        if not _is_output_closed():
            raise
        # Python writes what is left once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


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
