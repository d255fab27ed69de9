"""Where what a model has computed outlives its process, and where it may come from other hosts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from shared.cache_size import CacheSize
from shared.config import Settings
from shared.grants import Grant
from shared.request import GenerateRequest
from worker.cache_files.peers import Offer, Peers, connecting
from worker.engines.mlx.kv.disk import DiskTier, open_disk
from worker.engines.mlx.kv.forms import CacheForm
from worker.engines.mlx.kv.peer_files import locate
from worker.prompt import Spelling

_FOLDER_DIGITS = 24
_STRETCH_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class Tier:
    """Files of this host, and those who fetch files of others; None where nothing is kept in files."""

    disk: DiskTier | None
    peers: Peers | None

    def locate(
        self, request: GenerateRequest, grant: Grant, fingerprint: bytes, learn: Callable[[Spelling], None]
    ) -> Offer | None:
        """See `Engine.locate`."""
        if self.peers is None:
            return None
        return locate(
            self.peers, grant, fingerprint=fingerprint, tenant=request.tenant, trail=request.trail, learn=learn
        )

    def take_over(self, grant: Grant, part: int, parts: int) -> None:
        """See `Successor.take_over`. What is fetched so is half of what is kept here at the most."""
        if self.peers is not None and self.disk is not None:
            self.peers.take_over(grant, most_bytes=self.disk.max_bytes // 2, part=part, parts=parts)

    def bytes_per_token(self, size: CacheSize) -> float:
        """In files: as measured, or until then as it would be; 0 where nothing is kept in files."""
        if self.disk is None:
            return 0.0
        return self.disk.bytes_per_token or size.predict(_STRETCH_TOKENS) / _STRETCH_TOKENS

    def rates(self) -> dict[str, float]:
        """Bytes per second by host."""
        return self.peers.rates() if self.peers is not None else {}

    @property
    def metrics(self) -> dict[str, float]:
        """What came, and why the rest did not."""
        return self.peers.metrics if self.peers is not None else {}

    def close(self) -> None:
        """Nothing is fetched any more; the disk is the store's to close."""
        if self.peers is not None:
            self.peers.close()


def open_tier(fingerprint: bytes, form: CacheForm, settings: Settings) -> Tier:
    """Of a model, whose caches are of this form: its folder is called the same on each host."""
    folder = settings.state_dir / "cache" / fingerprint.hex()[:_FOLDER_DIGITS]
    disk = open_disk(folder, settings.ssd_cache_bytes, form.check)
    return Tier(disk, Peers(folder, connecting(settings), form.check) if disk is not None else None)
