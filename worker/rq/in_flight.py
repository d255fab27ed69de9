"""The jobs that a worker runs now."""

from __future__ import annotations

from shared.places import Counts
from shared.request import PRIORITIES, Priority
from shared.work import LANES_BESIDE
from worker.rq.records import Slot
from worker.serving.ticket import Ticket


class InFlight:
    """A slot per job, oldest first, found by its job or by its ticket. The control loop changes it; `held` may be read
    from any thread."""

    def __init__(self) -> None:
        self._slots: dict[str, Slot] = {}
        self._jobs: dict[Ticket, str] = {}
        self._gone: list[str] = []

    def __len__(self) -> int:
        return len(self._slots)

    def add(self, slot: Slot) -> None:
        self._slots[slot.job_id] = slot
        self._jobs[slot.ticket] = slot.job_id

    def release(self, ticket: Ticket) -> Slot | None:
        """The slot that is no more; None where there was none."""
        job_id = self._jobs.pop(ticket, None)
        if job_id is None:
            return None
        self.note_gone(job_id)
        return self._slots.pop(job_id, None)

    def note_gone(self, job_id: str) -> None:
        """A job that was claimed is none of ours any more."""
        self._gone.append(job_id)

    def claimed(self) -> list[str]:
        """The jobs that are here, and those that have gone since this was asked last (from any thread)."""
        gone, self._gone = self._gone, []
        return [*gone, *(slot.job_id for slot in self.slots())]

    def of_ticket(self, ticket: Ticket) -> Slot | None:
        return self._slots.get(self._jobs.get(ticket, ""))

    def of_job(self, job_id: str) -> Slot | None:
        return self._slots.get(job_id)

    def slots(self) -> list[Slot]:
        return list(self._slots.values())

    def oldest_job(self) -> str | None:
        return next(iter(self._slots), None)

    def held(self) -> Counts:
        """What runs here or is prepared, by class (from any thread)."""
        slots = self.slots()
        return tuple(sum(slot.claimed.lane == priority for slot in slots) for priority in PRIORITIES)

    def held_beside(self) -> dict[str, int]:
        """What runs beside the engine's batch, by lane."""
        slots = self.slots()
        return {lane: sum(slot.claimed.lane == lane for slot in slots) for lane in LANES_BESIDE}

    def in_batch(self) -> dict[str, Priority]:
        """The jobs that hold a place in the batch, or are on their way there, oldest first, and their classes."""
        classes = {slot.job_id: slot.claimed.priority for slot in self._slots.values()}
        return {job: priority for job, priority in classes.items() if priority is not None}

    def on_the_way_s(self, s_per_byte: float) -> list[float]:
        """Predicted prefill of prompts that the engine does not have yet, by class (from any thread)."""
        found = [0.0] * len(PRIORITIES)
        for slot in self.slots():
            claimed = slot.claimed
            if claimed.priority is not None and not slot.is_in_engine:
                seconds = claimed.prefill_s or claimed.body_bytes * s_per_byte
                found[PRIORITIES.index(claimed.priority)] += seconds
        return found
