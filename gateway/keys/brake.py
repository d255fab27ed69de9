"""A brake on guessing keys: who offers many wrong ones waits between the next, for seconds.

What counts are different keys: a client that goes on with one that was changed guesses nothing. Addresses without a
wrong key of their own never wait, whatever others do.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

FREE_KEYS: Final = 10  # wrong ones of an address before it waits
FREE_IN_ALL: Final = 100  # of all addresses that are remembered, before each waits after its first
FIRST_WAIT_S: Final = 1.0
MOST_WAIT_S: Final = 8.0
FORGOTTEN_S: Final = 900.0  # after the last wrong key of an address
MOST_ADDRESSES: Final = 4096
_MOST_DIGESTS: Final = 32  # of an address: its latest
_NETWORK: Final = (
    64  # bits of an IPv6 address that tell whose it is: the rest is its holder's to choose (RFC 4291, 2.5.1)
)


@dataclass(slots=True)
class _Guesser:
    """`digests` are of the wrong keys seen last, `wrong` says how many different ones there were."""

    digests: OrderedDict[str, None] = field(default_factory=OrderedDict)
    wrong: int = 0
    waits: int = 0
    free_at_s: float = 0.0
    seen_at_s: float = 0.0

    def note(self, digest: str) -> bool:
        """Whether it is a new one."""
        is_new = digest not in self.digests
        self.digests[digest] = None
        self.digests.move_to_end(digest)
        if len(self.digests) > _MOST_DIGESTS:
            self.digests.popitem(last=False)
        self.wrong += is_new
        return is_new


class Brake:
    """Belongs to one event loop; `clock` in seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._guessers: OrderedDict[str, _Guesser] = OrderedDict()  # who was wrong longest ago first
        self._wrong = 0  # of all of them

    def wait_s(self, address: str) -> float:
        """For how long no key of this address is looked at; 0 for one that is free."""
        self._forget()
        found = self._guessers.get(_network(address))
        return max(0.0, found.free_at_s - self._clock()) if found is not None else 0.0

    def note(self, address: str, digests: Sequence[str]) -> float:
        """These keys were wrong. How long the address waits for that now."""
        self._forget()
        name, now_s = _network(address), self._clock()
        guesser = self._guessers.setdefault(name, _Guesser())
        self._guessers.move_to_end(name)
        guesser.seen_at_s = now_s
        new = sum([guesser.note(digest) for digest in digests])
        self._wrong += new
        if len(self._guessers) > MOST_ADDRESSES:
            self._drop()
        free = FREE_KEYS if self._wrong <= FREE_IN_ALL else 0
        if not new or guesser.wrong <= free:
            return 0.0
        wait_s = min(MOST_WAIT_S, FIRST_WAIT_S * (1 << guesser.waits))
        guesser.waits = min(guesser.waits + 1, 16)
        guesser.free_at_s = now_s + wait_s
        return wait_s

    def _forget(self) -> None:
        while self._guessers and next(iter(self._guessers.values())).seen_at_s + FORGOTTEN_S <= self._clock():
            self._drop()

    def _drop(self) -> None:
        """Who was wrong longest ago."""
        _, guesser = self._guessers.popitem(last=False)
        self._wrong -= guesser.wrong


def _network(address: str) -> str:
    """Of an IPv6 address its network, of one that stands for IPv4 that."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    return str(found.ipv4_mapped or ipaddress.ip_network((int(found), _NETWORK), strict=False))
