"""What engines have in common that write no answers: embeddings, transcripts, speech."""

from __future__ import annotations

from shared.errors import UnsupportedWorkError
from shared.grants import Grant
from shared.request import GenerateRequest, Resume
from shared.work import KINDS, Generate
from worker.engines.base import EngineStats, Outbox, Prepared


class NoAnswers:
    """Of `worker.engines.base.Engine` all that is about answers."""

    def locate(self, request: GenerateRequest, grant: Grant) -> None:
        """It fetches nothing."""

    def prepare(self, request: GenerateRequest, resume: Resume | None = None) -> Prepared:
        raise UnsupportedWorkError.of(KINDS[Generate].name, request.model)

    def count(self, request: GenerateRequest) -> int | None:
        return None

    def start(self, outbox: Outbox) -> None:
        """It says nothing by itself."""

    def submit(self, prepared: Prepared) -> None:
        """Nothing is ever prepared."""

    def pause(self, key: str) -> None:
        """Nothing is ever submitted."""

    def cancel(self, key: str) -> None:
        """Nothing is ever submitted."""

    def stats(self) -> EngineStats:
        return EngineStats()
