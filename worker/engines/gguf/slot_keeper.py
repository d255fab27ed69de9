"""Gives requests their slots: what another conversation computed there is saved before, and what a file has of this
one is read."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from shared.http_client import AskError, ask_json
from worker.engines.gguf.server import LlamaServer
from worker.engines.gguf.slot_files import LEAST_TOKENS, SlotFiles
from worker.engines.gguf.slots import Slot, Slots

log = logging.getLogger(__name__)

_FILE_S = 60.0
_ABOVE_VOCABULARY = 1 << 31


class SlotKeeper:
    """On the loop."""

    def __init__(self, server: LlamaServer, slots: Slots, files: SlotFiles) -> None:
        self._server = server
        self._slots = slots
        self._files = files
        self._starts = server.starts

    async def take(self, tokens: Sequence[int], tenant: str) -> tuple[Slot, bool]:
        """(an idle slot, whether what it holds may be used)."""
        if self._starts != self._server.starts:
            self._starts = self._server.starts
            self._slots.forget()
        slot, common = self._slots.take(tokens, tenant)
        saved = self._files.find(tokens, tenant, beyond=common) if self._files.is_on else None
        if len(slot.tokens) - common >= LEAST_TOKENS:
            await self._save(slot)
        if saved is not None and await self._act(slot, "restore", saved.name):
            slot.tokens, slot.tenant = list(saved.tokens), tenant
            return slot, True
        if saved is not None:
            self._files.drop(saved.name)
        return slot, slot.tenant == tenant or not slot.tokens

    def give_back(self, slot: Slot, tokens: Sequence[int], tenant: str) -> None:
        self._slots.give_back(slot, tokens, tenant)

    async def save_all(self) -> None:
        """Of a server that is about to end."""
        if self._starts == self._server.starts and self._server.is_ready:
            for slot in self._slots:
                if len(slot.tokens) >= LEAST_TOKENS and not slot.is_busy:
                    await self._save(slot)

    async def _save(self, slot: Slot) -> None:
        if not self._files.is_on or self._files.has(slot.tokens, slot.tenant):
            return
        if max(slot.tokens, default=0) >= _ABOVE_VOCABULARY:  # an image is in it, which the server does not save
            return
        name = self._files.name_of(slot.tokens, slot.tenant)
        if await self._act(slot, "save", name):
            self._files.add(name, slot.tokens, slot.tenant)

    async def _act(self, slot: Slot, action: str, name: str) -> bool:
        path = f"/slots/{slot.number}?action={action}"
        data: Any
        try:
            status, data = await ask_json(self._server.address, path, {"filename": name}, silence_s=_FILE_S)
        except AskError as error:
            status, data = 0, str(error)
        if status != 200:
            log.warning("slot %d: %s of %s failed: %.200s", slot.number, action, name, data)
        return status == 200
