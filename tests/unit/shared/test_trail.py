"""Where the prefixes that a trail names lie in a prompt's tokens."""

from __future__ import annotations

import os

import pytest

from shared.errors import WireError
from shared.notes import Note, read_note
from shared.trail import PIECE_BYTES, TAG_BYTES, Trail, decode_trail


def some(count: int) -> tuple[bytes, ...]:
    return tuple(os.urandom(TAG_BYTES) for _ in range(count))


TRAIL = Trail(
    tools_first=some(4),
    system_first=some(4),
    messages=some(3),
    tools_bytes=2 * PIECE_BYTES,
    head_bytes=4 * PIECE_BYTES,
    text_bytes=99_999,
)


def test_a_trail_travels_as_bytes() -> None:
    assert decode_trail(TRAIL.encode()) == TRAIL
    assert decode_trail(b"") == decode_trail(b"\xff of another version") == Trail()
    for broken in (TRAIL.encode()[:-1], TRAIL.encode()[:5], bytes([1, 200, 200]) + TRAIL.encode()[3:]):
        with pytest.raises(WireError):
            decode_trail(broken)


def test_ends_of_messages_are_where_the_prompt_says() -> None:
    places = dict(TRAIL.places(head_tokens=1000, tools_tokens=600, ends={0: 1000, 2: 1500, 9: 9}))
    assert (places[TRAIL.messages[0]], places[TRAIL.messages[2]]) == (1000, 1500)
    assert TRAIL.messages[1] not in places, "nobody knows where it ends"


def test_pieces_of_a_head_are_placed_by_their_bytes_in_the_order_of_the_template_and_rather_too_early() -> None:
    tools_first = [dict(TRAIL.places(head_tokens=1000, tools_tokens=600, ends={}))[tag] for tag in TRAIL.tools_first]
    assert tools_first == [285, 570, 790, 980]
    system_first = [dict(TRAIL.places(head_tokens=1000, tools_tokens=None, ends={}))[tag] for tag in TRAIL.system_first]
    assert system_first == [237, 475, 712, 950]


def test_a_note_is_read_as_it_was_written_and_what_is_none_says_nothing() -> None:
    note = Note(lane="interactive", prefill_s=1.5, score=1796026000.25, flow="abc")
    assert read_note(note.text()) == note
    assert read_note("!" + note.text()).is_claimed
    assert read_note(Note(lane="batch").text()) == Note(lane="batch")
    for text in ("", "17", "a b c d", "a 1 2"):
        assert read_note(text) == Note()
