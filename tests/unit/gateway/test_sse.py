from __future__ import annotations

from gateway.dialects.sse import DONE, encode_data, encode_event


def test_an_event_is_its_name_and_one_line_of_json() -> None:
    assert encode_event("ping", {"text": "a\nb"}) == b'event: ping\ndata: {"text":"a\\nb"}\n\n'


def test_unnamed_events_and_the_last_one() -> None:
    assert encode_data({"n": 1}) + DONE == b'data: {"n":1}\n\ndata: [DONE]\n\n'
