"""Who asks for what is being answered already: the same request again is attached to the first, not computed twice."""

from __future__ import annotations

from dataclasses import replace

from gateway.dispatch.dispatch import Dispatch
from shared.messages import TextPart
from shared.request import GenerateRequest, PackedRequest

_Key = tuple[str, str, str, int, str | bytes]


def may_share(request: GenerateRequest, *, is_repeated: bool) -> bool:
    """Whether two who ask this want the same answer. Where chance decides, two answers may be what is wanted, unless
    the client says that it asks again (`is_repeated`)."""
    sampling = request.sampling
    return is_repeated or sampling.temperature == 0 or sampling.seed is not None


class Attachables:
    """The requests under way on this gateway, found by what they ask for."""

    def __init__(self) -> None:
        self._running: dict[_Key, list[tuple[GenerateRequest, Dispatch]]] = {}
        self._keys: dict[Dispatch, _Key] = {}

    def find(self, request: GenerateRequest) -> Dispatch | None:
        """A request under way that is the same in all but its id, and whose answer can still be had from its
        beginning."""
        nameless = replace(request, id="")
        for other, dispatch in self._running.get(_key(request), ()):
            if dispatch.may_be_joined and other == nameless:
                return dispatch
        return None

    def add(self, dispatch: Dispatch) -> None:
        """An answer of the engine. What is done beside it costs no more than to find another who asks."""
        if dispatch.kind.lane:
            return
        self._keys[dispatch] = key = _key(dispatch.request)
        self._running.setdefault(key, []).append((replace(dispatch.request, id=""), dispatch))

    def remove(self, dispatch: Dispatch) -> None:
        key = self._keys.pop(dispatch, None)
        if key is None:
            return
        left = [entry for entry in self._running[key] if entry[1] is not dispatch]
        if left:
            self._running[key] = left
        else:
            del self._running[key]


def _key(request: GenerateRequest) -> _Key:
    """Enough to tell most requests apart without looking at their conversations."""
    if isinstance(request, PackedRequest):
        return request.model, request.tenant, request.session, 0, request.packed.digest
    parts = request.messages[-1].parts if request.messages else ()
    last = parts[-1] if parts else None
    text = last.text if isinstance(last, TextPart) else ""
    return request.model, request.tenant, request.session, len(request.messages), text
