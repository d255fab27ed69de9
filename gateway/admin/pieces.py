"""The tree of kept prefixes, worker by worker, and what is dropped of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from gateway.admin.merging import known
from gateway.dispatch.pieces import PieceLook
from shared.errors import OverloadedError, RouteNotFoundError
from shared.pieces import Piece, Pieces
from shared.registry import WorkerLease

EVERY_S: Final = 3.0
_LOOK_S: Final = 1.0
_DROP_S: Final = 10.0


class Kept:
    """What one gateway's consoles see of it."""

    def __init__(self, look: PieceLook) -> None:
        self._look = look
        self._seen: dict[str, tuple[Pieces, float]] = {}  # with the Unix time at which it was told

    @staticmethod
    def stamp() -> object:
        return int(time.monotonic() / EVERY_S)

    async def render(self) -> Mapping[str, Any]:
        """Those that do not answer in time keep what they told last, with the time of that."""
        workers = self._look.workers()
        await self._note({each.worker for each in workers}, {})
        return {"workers": {each.worker: self._worker(each) for each in workers}}

    async def drop_pieces(self, worker: str, keys: Sequence[bytes]) -> str:
        """Raises `RouteNotFoundError` for a worker that is not there, and `OverloadedError` where it does not answer in
        time."""
        if worker not in {each.worker for each in self._look.workers()}:
            raise RouteNotFoundError(f"no worker {worker[:100]!r} is here that can drop what it keeps")
        return await self._drop({worker: keys})

    async def drop_session(self, session: str) -> str:
        """What this session alone came through, on all workers. Raises as `drop_pieces`."""
        await self._note({each.worker for each in self._look.workers()}, {})
        doomed = {worker: own_of(session, told.pieces) for worker, (told, _) in self._seen.items()}
        doomed = {worker: keys for worker, keys in doomed.items() if keys}
        if not doomed:
            raise RouteNotFoundError(f"nothing is kept of the session {session[:100]!r} alone")
        return await self._drop(doomed)

    async def _drop(self, doomed: Mapping[str, Sequence[bytes]]) -> str:
        answers = await self._note(doomed.keys(), doomed)
        if late := sorted(doomed.keys() - answers.keys()):
            raise OverloadedError(f"{', '.join(late)} is at work and has not answered yet: it drops it soon")
        if not sum(each.dropped for each in answers.values()):
            return "nothing was dropped: it is in use now, or gone already"
        return "dropped"

    async def _note(self, workers: Iterable[str], doomed: Mapping[str, Sequence[bytes]]) -> Mapping[str, Pieces]:
        there = {each.worker for each in self._look.workers()}
        answers = await self._look.look(list(workers), drop=doomed, wait_s=_DROP_S if doomed else _LOOK_S)
        now_s = time.time()
        self._seen = {worker: seen for worker, seen in self._seen.items() if worker in there}
        self._seen |= {worker: (told, now_s) for worker, told in answers.items()}
        return answers

    def _worker(self, lease: WorkerLease) -> dict[str, Any]:
        """`late_s` is when it told what is shown, where that was not now."""
        told, at_s = self._seen.get(lease.worker, (Pieces(number="", is_known=False), 0.0))
        is_late = bool(at_s) and time.time() - at_s > EVERY_S
        return known(
            model=lease.model,
            host=lease.host,
            known=told.is_known,
            more=told.more or None,
            late_s=round(at_s) if is_late else None,
            pieces={each.key.hex(): _piece(each) for each in told.pieces},
        )


def own_of(session: str, pieces: Sequence[Piece]) -> list[bytes]:
    """Of the pieces that no other session came through, those at the top: whoever comes through a piece came through
    all above it."""
    own = {each.key: each for each in pieces if each.sessions == (session,)}
    return [key for key, each in own.items() if each.above not in own]


def _piece(piece: Piece) -> dict[str, Any]:
    return known(
        above=piece.above.hex() or None,
        start=piece.start,
        end=piece.end,
        memory_bytes=piece.memory_bytes,
        stored_bytes=piece.stored_bytes,
        uses=piece.uses,
        sessions=list(piece.sessions),
        in_use=piece.is_in_use or None,
    )
