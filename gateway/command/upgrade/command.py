"""The command itself: what it takes, and what it says."""

from __future__ import annotations

import argparse
import sys

from gateway.command.ends import DONE
from gateway.command.upgrade import run
from gateway.command.upgrade.installation import Installation, find_installation, upgrade_words
from shared.config import Settings


def add_upgrade_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--check", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--find-links", metavar="PLACE", default="", help="one more folder or page with releases")


def run_upgrade(settings: Settings, options: argparse.Namespace) -> int:
    installation = find_installation()
    words = upgrade_words(installation, options.find_links)
    now = run.installed_release(installation.python)
    there = run.newest(installation, now, options.find_links)
    if there == "":
        _tell(f"{now} is the newest release (installed with {installation.way})", *_pin_lines(installation))
    elif options.check:
        _tell(f"{now} is installed, with {installation.way}; {there or 'a newer release, if there is one,'} would be:")
        _tell(f"  {' '.join(words)}", *_pin_lines(installation), *run.plan(settings))
    else:
        release = run.install(installation, options.find_links)
        _tell(f"{release} is installed (it was {now})", *_pin_lines(installation))
        if release != now:
            run.replace_running(settings, release, run.say_line)
    return DONE


def _pin_lines(installation: Installation) -> list[str]:
    if not installation.pinned:
        return []
    line = f"uv tool install --upgrade '{installation.wanted}'"
    return [f"it was installed as {installation.pinned}, which uv keeps to; to go beyond: {line}"]


def _tell(*lines: str) -> None:
    for line in lines:
        sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
