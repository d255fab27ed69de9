"""Whether who asks may join: pure decisions, and their words for the person at the other Mac."""

from __future__ import annotations

import hmac
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from gateway.door.folder import Invitation
from gateway.door.messages import Ask
from shared.keys import word
from shared.membership import GATEWAY

LIFE_S = 600.0
TRIES = 3
_MOST_LETTERS = 63  # of a name in a certificate

_AGAIN = "`mlx-gateway share` on the sharing Mac makes a new one"


@dataclass(frozen=True, slots=True)
class Fleet:
    """What the door compares with: versions here, and the names that are taken, as words."""

    version: str
    wire: int
    names: Collection[str]


def why_not_code(secret: str, invitation: Invitation | None, now_s: float) -> str:
    """Empty when the code is good. Only who knows it hears what has become of it."""
    if invitation is None:
        return f"no code is open: {_AGAIN}"
    is_known = hmac.compare_digest(secret.encode(errors="replace"), invitation.secret.encode())
    if invitation.tries <= 0:
        return f"the code was tried {TRIES} times with a mistake in it and is closed: {_AGAIN}"
    if not is_known:
        left = invitation.tries - 1
        more = f"{left} more {'try' if left == 1 else 'tries'}" if left else f"no more tries: {_AGAIN}"
        return f"the code is wrong ({more})"
    if invitation.is_used:
        return f"the code was used already, and joins one Mac: {_AGAIN}"
    if now_s >= invitation.ends_at_s:
        return f"the code is older than {LIFE_S / 60:.0f} minutes: {_AGAIN}"
    return ""


def why_not_role(asked: str, invitation: Invitation | None) -> str:
    """Empty when the code is for this role. A gateway is told the deployment's secret, so that a person of the sharing
    Mac must have meant one."""
    if invitation is None or asked == invitation.role:
        return ""
    if invitation.role == GATEWAY:
        return "this code is for a gateway, which serves no models: add --gateway"
    return "this code is for a host, which serves models: `mlx-gateway share --gateway` makes one for a gateway"


def after_try(secret: str, invitation: Invitation) -> Invitation:
    """What is left of the code once somebody has said a secret."""
    if hmac.compare_digest(secret.encode(errors="replace"), invitation.secret.encode()):
        return invitation
    return replace(invitation, tries=max(0, invitation.tries - 1))


def why_not_host(ask: Ask, fleet: Fleet) -> str:
    """Empty when this host can be one of the fleet."""
    if ask.name != word(ask.name) or len(ask.name) > _MOST_LETTERS:
        return f"{ask.name[:80]!r} is no name for a host: letters, digits, - and _, {_MOST_LETTERS} at most"
    if ask.name in fleet.names:
        return (
            f"a host is called {ask.name!r} already: give this one another --name, or take that one out with "
            f"`mlx-gateway revoke {ask.name}` on the sharing Mac"
        )
    return why_not_version(ask.version, ask.wire, fleet)


def why_not_version(version: str, wire: Sequence[int], fleet: Fleet) -> str:
    """Empty when both speak one wire version."""
    if fleet.wire in wire:
        return ""
    is_older = max(wire, default=0) < fleet.wire
    versions = f"this Mac has mlx-gateway {version[:40]} (wire {_listed(wire)}), the sharing one {fleet.version} "
    return f"{versions}(wire {fleet.wire}): update mlx-gateway on {'this Mac' if is_older else 'the sharing Mac'}"


def _listed(wire: Sequence[int]) -> str:
    return ", ".join(map(str, wire[:8])) or "none"
