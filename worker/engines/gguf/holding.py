"""What a GGUF model holds of the machine's memory, told to the other workers of its host."""

from __future__ import annotations

import psutil

from shared.config import Settings
from worker.device.claim import claim
from worker.device.neighbours import Neighbours
from worker.device.sharing import Holding

_USABLE_SHARE = 0.9  # of the machine's memory, for all workers of a host


class HeldMemory:
    """Nothing is told where the state folder is not one that workers have in common."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._neighbours: Neighbours | None = None

    @property
    def limit_bytes(self) -> int:
        return self._settings.memory_bytes or int(psutil.virtual_memory().total * _USABLE_SHARE)

    def claim(self, weight_bytes: int) -> None:
        """Raises `ModelUnavailableError`, with the numbers, for what does not fit."""
        if self._settings.state_dir.is_absolute():
            self._neighbours = Neighbours(self._settings.state_dir / "device")
        claim(self._neighbours, weight_bytes, self.limit_bytes)

    def free_bytes(self, weight_bytes: int) -> int:
        """What the weights and the other workers leave."""
        others = self._neighbours.others() if self._neighbours is not None else []
        return max(0, self.limit_bytes - weight_bytes - sum(each.base_bytes for each in others))

    def publish(self, held_bytes: int) -> None:
        if self._neighbours is not None:
            self._neighbours.publish(Holding(base_bytes=held_bytes))

    def close(self) -> None:
        if self._neighbours is not None:
            self._neighbours.close()
            self._neighbours = None
