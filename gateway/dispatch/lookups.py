"""Which of a request's tags are looked up, and what its conversation is called.

The last messages, since a conversation grows at its end, then ever fewer of those before, and fixed places in the head,
so that whoever shares a part of it asks for the same tags: some forty, however long the conversation is.
"""

from __future__ import annotations

from shared.request import Chain, Conversation, GenerateRequest, Link, PackedRequest

_LAST = 16
_PIECES = frozenset((0, 1, 2, 3, 5, 7, 10, 15, 22, 31, 44, 63))


def lookups_of(request: GenerateRequest) -> list[Link]:
    """Tags and how long the text up to there is, the deepest first; none where nothing is known of the request."""
    return _lookups(request.packed.chain) if isinstance(request, PackedRequest) else []


def conversation_of(request: GenerateRequest) -> Conversation:
    return request.packed.conversation if isinstance(request, PackedRequest) else Conversation()


def text_bytes_of(request: GenerateRequest) -> int:
    """0 while unknown."""
    return request.packed.chain.text_bytes if isinstance(request, PackedRequest) else 0


def _lookups(chain: Chain) -> list[Link]:
    messages = chain.messages
    places = {*range(max(0, len(messages) - _LAST), len(messages)), 0}
    step = _LAST
    while len(messages) - step > 0:
        places.add(len(messages) - step)
        step *= 2
    found = [messages[place] for place in places if place < len(messages)]
    for pieces in (chain.tools_first, chain.system_first):
        found += [link for number, link in enumerate(pieces) if number in _PIECES]
    return sorted(dict.fromkeys(found), key=lambda link: -link.text_bytes)
