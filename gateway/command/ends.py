"""How the `mlx-gateway` command ends: one exit status for each kind, the same for every command (`END_WORDS`)."""

from __future__ import annotations

from typing import Final

from shared.errors import BrokerUnavailableError, ConfigError, GatewayError, ModelNotFoundError

DONE: Final = 0
FAILED: Final = 1
UNUSABLE: Final = 2
NOT_RUNNING: Final = 3
NOT_THERE: Final = 4

END_WORDS: Final = (
    (DONE, "done"),
    (FAILED, "it could not be done, the last line says why"),
    (UNUSABLE, "the command line or the settings cannot be used"),
    (NOT_RUNNING, "nothing is running here, or nothing answers"),
    (NOT_THERE, "what was named is not there"),
    (130, "interrupted"),
    (141, "whoever read the output has left"),
)


KEY_REMEDY: Final = "set MLX_GATEWAY_API_KEY to one that it knows"  # what helps where a gateway refuses the key


def not_running(text: str) -> ConfigError:
    """Nothing is up on the state folder, or what should be does not answer."""
    return ConfigError(text, status=NOT_RUNNING)


def not_there(text: str) -> ConfigError:
    """What a person named does not exist."""
    return ConfigError(text, status=NOT_THERE)


def failed(text: str) -> ConfigError:
    """Nothing is wrong with what was said, and it could not be done."""
    return ConfigError(text, status=FAILED)


def exit_status(error: GatewayError) -> int:
    if isinstance(error, BrokerUnavailableError):
        return NOT_RUNNING
    if isinstance(error, ModelNotFoundError):
        return NOT_THERE
    return _status_of_config(error) if isinstance(error, ConfigError) else FAILED


def _status_of_config(error: ConfigError) -> int:
    if error.details.get("is_unreachable"):
        return NOT_RUNNING
    return int(error.details.get("status", NOT_THERE if error.details.get("is_missing") else UNUSABLE))
