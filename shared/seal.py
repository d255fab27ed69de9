"""Who said it: what hosts and gateways put into Redis is sealed with a key of the host that it comes from or goes to.

A host's key is derived from the deployment's secret, the host's name and a generation. Gateways hold the secret and
derive every key; a host needs its own alone, so that none can speak for another, and a new generation locks one out.
What is sealed is bound to its purpose and to what it is about, so that nothing valid in one place is valid in another.

    message = version (1 byte) + HMAC-SHA256 (32 bytes) + the rest of what `wire.encode` made

The code covers purpose, key, subject and rest; it is checked before anything is decoded.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from hashlib import sha256

from shared import wire
from shared.config import Settings, load_secret
from shared.errors import ConfigError, WireError
from shared.keys import NO_HOST, host_of

SEAL_BYTES = sha256().digest_size
_GATEWAYS = "*gateways"  # no word of a host: the key that no host is given


class Purpose(Enum):
    """What a message is for. The texts are the wire contract."""

    FRAME = "frame"  # about the gateway
    LEASE = "lease"  # about the worker
    HOST = "host"  # about the host
    GATEWAY = "gateway"  # about the gateway
    JOB = "job"  # about the kind of work and the attempt (`shared.work.job_subject`)
    CONTROL = "control"  # about the worker
    LOADS = "loads"
    ORDERS = "orders"  # about the host
    KEPT = "kept"  # about the tenant and the answer
    RUN = "run"  # about the key of the record
    GENERATIONS = "generations"
    PIECES = "pieces"  # about the worker
    CACHE = "cache"  # what makes the key of a ticket (`shared.grants`)


class Seal:
    """One key for one purpose and subject. Made once, used for every message."""

    __slots__ = ("_context", "_secret")

    def __init__(self, secret: bytes, context: bytes) -> None:
        self._secret = secret
        self._context = context

    def code_of(self, data: bytes | memoryview) -> bytes:
        return hmac.digest(self._secret, b"".join((self._context, data)), "sha256")

    def close(self, data: bytes) -> bytes:
        """The message around what `wire.encode` made."""
        rest = memoryview(data)[1:]
        return b"".join((data[:1], self.code_of(rest), rest))

    def open(self, message: bytes) -> bytes:
        """What `wire.decode` reads. Raises `WireError` for another version and for what does not verify."""
        wire.check_version(message)
        rest = memoryview(message)[1 + SEAL_BYTES :]
        if not hmac.compare_digest(self.code_of(rest), message[1 : 1 + SEAL_BYTES]):
            raise WireError("its seal is wrong: everything on one Redis needs the same MLX_GATEWAY_SECRET")
        return b"".join((message[:1], rest))


@dataclass(frozen=True, slots=True)
class HostKey:
    """All that a host must know to speak for itself and to know who speaks to it."""

    host: str
    generation: int
    secret: bytes = field(repr=False)

    def seal(self, purpose: Purpose, about: str = "") -> Seal:
        parts = (purpose.value, self.host, str(self.generation), about)
        texts = [part.encode(errors="surrogateescape") for part in parts]
        return Seal(self.secret, b"".join(len(text).to_bytes(4, "big") + text for text in texts))

    def sign(self, about: str, body: bytes) -> str:
        """A job's signature: hex, since it travels in RQ's JSON. Bodies may be big: hashing lets other threads run."""
        return self.seal(Purpose.JOB, about).code_of(sha256(body).digest()).hex()

    def is_signed(self, about: str, body: bytes, signature: str) -> bool:
        return hmac.compare_digest(self.sign(about, body).encode(), signature.encode(errors="replace"))


def derive_key(secret: bytes, host: str, generation: int = 1) -> HostKey:
    """The one place where keys of hosts come from. `host` is the host's word, or `NO_HOST` for what any host may
    take."""
    context = f"mlx-gateway/{generation}/{host}"
    return HostKey(host, generation, hmac.digest(secret, context.encode(errors="surrogateescape"), "sha256"))


@dataclass(frozen=True, slots=True)
class HostKeys:
    """What a host holds: its own key, and the one for what any host may take."""

    own: HostKey
    anyone: HostKey

    def of(self, host: str) -> HostKey:
        """The key of a job for `host`. Raises `WireError` for another host's."""
        for key in (self.own, self.anyone):
            if key.host == host:
                return key
        raise WireError(f"the job is for host {host!r}, this is {self.own.host!r}")


def host_keys(settings: Settings, host: str) -> HostKeys:
    """What a host of these settings holds: given by the door of the fleet that it joined, else derived from the
    deployment's secret. `host` is the host's word. Raises `ConfigError`."""
    if not settings.host_key:
        return keys_of_host(load_secret(settings), host)
    try:
        generation, own, anyone = settings.host_key.split(":")
        return HostKeys(
            own=HostKey(host, int(generation), bytes.fromhex(own)),
            anyone=HostKey(NO_HOST, 1, bytes.fromhex(anyone)),
        )
    except ValueError as error:
        raise ConfigError("MLX_GATEWAY_HOST_KEY is none: join the fleet again") from error


def keys_of_host(secret: bytes, host: str) -> HostKeys:
    """`host` is the host's word."""
    return HostKeys(own=derive_key(secret, host), anyone=derive_key(secret, NO_HOST))


class Keyring:
    """The keys of all hosts, for who holds the deployment's secret. `generations` says which hosts have had a new
    one."""

    def __init__(self, secret: bytes, generations: Mapping[str, int] | None = None) -> None:
        self._secret = secret
        self._generations = dict(generations or {})
        self._keys: dict[str, HostKey] = {}

    def learn(self, generations: Mapping[str, int]) -> None:
        """What is said of generations, which only grow: who puts back what was said before turns nothing back."""
        for host, generation in generations.items():
            if generation > self._generations.get(host, 1):
                self._generations[host] = generation
                self._keys.pop(host, None)

    def of(self, host: str) -> HostKey:
        key = self._keys.get(host)
        if key is None:
            key = self._keys[host] = derive_key(self._secret, host, self.generation(host))
        return key

    def generation(self, host: str) -> int:
        """Of the host's key, as far as was said."""
        return self._generations.get(host, 1)

    @property
    def anyone(self) -> HostKey:
        """For what any host may take."""
        return self.of(NO_HOST)

    @property
    def gateways(self) -> HostKey:
        """For what gateways say to each other."""
        return self.of(_GATEWAYS)

    @property
    def tags(self) -> bytes:
        """With which gateways name conversations and their prefixes."""
        return hmac.digest(self._secret, b"mlx-gateway/tags", "sha256")

    def of_worker(self, worker: str) -> HostKey:
        return self.of(host_of(worker))
