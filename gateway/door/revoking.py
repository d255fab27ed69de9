"""Locking out a host that joined: in the list of hosts, in Redis, and for all gateways."""

from __future__ import annotations

import redis.asyncio
from redis.exceptions import RedisError

from gateway.door.folder import DoorFolder
from gateway.door.users import HostUsers, withdraw
from shared.config import Settings, load_secret
from shared.errors import BrokerUnavailableError
from shared.keys import Names
from shared.membership import GATEWAY
from shared.seal import Keyring


async def lock_out(settings: Settings, broker: redis.asyncio.Redis, host: str) -> str:
    """A host by its word: its key, certificate and Redis user mean nothing from now on, its connections end, what it
    was asked is asked elsewhere. What was done, for a person. Raises `ConfigError` when none joined under that name at
    this Mac."""
    folder, names = DoorFolder(settings), Names(settings.deployment)
    revoked = folder.revoke(host)
    try:
        await HostUsers(broker, names, Keyring(load_secret(settings)), folder).remove(host)
        await withdraw(broker, names, host)
    except (BrokerUnavailableError, RedisError, OSError) as error:
        return f"{host} is locked out; Redis does not answer ({error}), and is told when it does"
    if revoked.role == GATEWAY:
        return (
            f"{host} is locked out; as a gateway it was told the secret: to be rid of what it knows, stop `up`, delete "
            f"{settings.state_dir / 'secret'}, and let all Macs join again"
        )
    return f"{host} is locked out"
