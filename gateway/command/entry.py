"""What the `mlx-gateway` command runs: the rest is imported here, because a person may press Ctrl-C meanwhile."""

from __future__ import annotations

import signal


def main() -> int:
    """The command's exit status, without a traceback for an interruption."""
    try:
        from gateway.command import cli

        return cli.main()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
