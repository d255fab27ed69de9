"""Whether a Mac that joined a fleet still counts there, and reaches it."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.command.checks.finding import Finding, fault, fine
from gateway.door.joiner import greet, this_installation
from shared.config import Settings
from shared.errors import ConfigError
from shared.membership import read_membership


def check_fleet(settings: Settings) -> Iterator[Finding]:
    """Nothing where this Mac has not joined. It tries a connection, which macOS may deny without saying so."""
    try:
        membership = read_membership(settings.state_dir)
        if membership is None:
            return
        greet(settings.state_dir, membership, this_installation())
    except ConfigError as error:
        yield fault("fleet", error.message)
        return
    yield fine("fleet", f"this Mac is {membership.host!r} in the fleet at {membership.address}, whose door answers")
