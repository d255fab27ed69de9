"""Which work that was not begun goes back to its gateway, and why: a pure decision."""

from __future__ import annotations

from shared.errors import BrokerUnavailableError, GatewayError, OverloadedError, UnsupportedWorkError, WorkerLostError
from shared.events import ReturnReason

_PASSING = (OverloadedError, BrokerUnavailableError)
_OWN = (WorkerLostError, UnsupportedWorkError)


def return_reason(
    error: GatewayError, *, is_checked: bool, is_begun: bool, is_leaving: bool = False
) -> ReturnReason | None:
    """None for what ends the attempt as failed: an error of the request's own, any once something of it was done here,
    any before it is known who sent it, and what a server told a client of its own API. The others are the worker's: it
    stops, it has no place now, or it cannot do what it was given."""
    is_for_client = "relayed" in error.details
    if is_begun or not is_checked or is_for_client or not isinstance(error, _PASSING + _OWN):
        return None
    if is_leaving:
        return "leaving"
    return "busy" if isinstance(error, _PASSING) else "unable"
