"""Whether a template can be rendered in pieces: their texts must be found, in order, in a whole rendering."""

from __future__ import annotations

from collections.abc import Sequence

from shared.errors import InvalidRequestError
from shared.messages import Message, Part, TextPart, ToolCallPart, ToolResultPart
from worker.prompt.conversation import Conversation, Converter
from worker.prompt.encode import Shield
from worker.prompt.growth import NotLocalError
from worker.prompt.pieces import Piece, PieceRenderer
from worker.prompt.template import ToolDict
from worker.prompt.tool_schemas import complete
from worker.prompt.traits import Traits
from worker.prompt.turns import Scene, Turns
from worker.prompt.unit import Unit

_TOOLS = (
    ToolDict({"type": "function", "function": {"name": "zztool", "description": "", "parameters": complete({})}}),
)

_CALLS = 98  # before the probe: in the midst of it numbers get a digit more


def pieces_follow(whole: str, pieces: Sequence[str]) -> bool:
    """Whether `whole`, a rendering with its generation header, begins with the first piece, holds the others in order
    and ends with the last, which includes the header."""
    if not pieces or not whole.startswith(pieces[0]):
        return False
    at = len(pieces[0])
    for piece in pieces[1:-1]:
        found = whole.find(piece, at)
        if found < 0:
            return False
        at = found + len(piece)
    if len(pieces) == 1:
        return at == len(whole)
    return whole.endswith(pieces[-1]) and len(whole) - len(pieces[-1]) >= at


def is_local(turns: Turns, renderer: PieceRenderer, traits: Traits) -> bool:
    """Tries it on a conversation with everything in it but reasoning, which templates drop from whole renderings.
    Finds out on the way whether the renderer needs the tools after the head, and whether a longer conversation holds
    every piece as it was when it was the last."""
    bare, equipped = Scene(tools=(), switches={}), Scene(tools=_TOOLS, switches={})
    scenes = [bare]
    if traits.tools and not traits.late_tools:
        scenes.append(equipped)
    try:
        if not all(_fits(turns, renderer, traits, scene) for scene in scenes):
            return False
        alike = len({str(_later_pieces(renderer, traits, scene)) for scene in scenes}) == 1
        renderer.tools_in_head = alike
        renderer.numbered = renderer.counted and all(_is_numbered(renderer, traits, scene) for scene in scenes)
    except (NotLocalError, InvalidRequestError):
        return False
    return True


def _later_pieces(
    renderer: PieceRenderer, traits: Traits, scene: Scene, conversation: Conversation | None = None, first: int = 1
) -> list[Piece | str]:
    conversation = conversation or _probe(traits)
    return [
        (renderer.answer if unit.kind == "assistant" else renderer.next)(conversation, index, scene)
        for index, unit in enumerate(conversation.units)
        if index >= first
    ]


def _is_numbered(renderer: PieceRenderer, traits: Traits, scene: Scene) -> bool:
    """Whether what stands behind many calls is as told from what stands behind few."""
    rounds = [
        message
        for number in range(_CALLS)
        for message in (_said("assistant", _call(900 + number)), _result(900 + number))
    ]
    conversation = Converter(traits, Shield(()), {}).convert(
        [
            _said("user", TextPart(text="zzuser0")),
            *rounds,
            _said("assistant", TextPart(text="zzanswer0")),
            *_MESSAGES[1:],
        ]
    )
    found = []
    for renderer.numbered in (True, False):
        found.append(_later_pieces(renderer, traits, scene, conversation, len(conversation.units) - len(_MESSAGES)))
    return found[0] == found[1]


def _fits(turns: Turns, renderer: PieceRenderer, traits: Traits, scene: Scene) -> bool:
    """Whether the first piece begins every prompt of the conversation and each other piece ends its own, with the
    words of its unit in it."""
    conversation = _probe(traits)
    head = renderer.first(conversation, scene)
    dicts, pieces = list(conversation.system), []
    for index, unit in enumerate(conversation.units):
        dicts += [renderer.bare(message) for message in unit.dicts]
        if unit.kind == "assistant":
            continue
        piece = renderer.next(conversation, index, scene) if index else head
        pieces.append(piece.text)
        whole = turns.whole(dicts, scene)
        if not whole.startswith(head.text) or not whole.endswith(piece.text + piece.header):
            return False
        if not all(word in piece.text for word in _words(unit)):
            return False
    pieces[-1] += piece.header
    renderer.is_steady = pieces_follow(whole, pieces)
    return True


def _words(unit: Unit) -> list[str]:
    said = (item["content"] for item in unit.dicts if item["role"] != "assistant")
    return [word for text in said for word in text.split()]


def _probe(traits: Traits) -> Conversation:
    nothing = Shield(())
    messages = _MESSAGES[1:] if traits.late_system else _MESSAGES
    return Converter(traits, nothing, {}).convert(messages)


def _said(role: str, *parts: Part) -> Message:
    return Message(role=role, parts=parts)  # type: ignore[arg-type]


def _call(number: int) -> ToolCallPart:
    return ToolCallPart(id=f"call{number:05d}", name="zztool", arguments=f'{{"zzkey": "zzvalue{number}"}}')


def _result(number: int) -> Message:
    part = ToolResultPart(call_id=f"call{number:05d}", parts=(TextPart(text=f"zzresult{number}"),))
    return _said("tool", part)


_MESSAGES = (
    _said("system", TextPart(text="zzsystem")),
    _said("user", TextPart(text="zzuser1")),
    _said("assistant", TextPart(text="zzanswer1")),
    _said("user", TextPart(text="zzuser2")),
    _said("assistant", TextPart(text="zzanswer2"), _call(0)),
    _result(0),
    _said("assistant", _call(1)),
    _result(1),
    _said("assistant", TextPart(text="zzanswer3")),
    _said("user", TextPart(text="zzuser3")),
    _said("assistant", TextPart(text="zzanswer4"), _call(2), _call(3)),
    _result(2),
    _result(3),
    _said("user", TextPart(text="zzuser4")),
)
