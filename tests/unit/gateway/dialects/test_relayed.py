"""Answers that another server of Anthropic's API gives, as the client reads them."""

from __future__ import annotations

import json

from gateway.dialects.anthropic.errors import render_error
from gateway.dialects.anthropic.relayed import RelayedReply
from gateway.dialects.anthropic.render import MessageReply
from gateway.dialects.base import RenderContext
from shared.errors import OverloadedError
from shared.events import Failed, Finished, Progress, Relayed, Started, TextDelta, Usage, assemble
from shared.exact import dump_bytes

CONTEXT = RenderContext(request_id="r", model="cloud", created_s=1)
OURS = MessageReply(estimated_tokens=7)
REPLY = RelayedReply(ours=OURS)
END = Finished(reason="stop", usage=Usage())


def test_nothing_but_pings_is_said_before_the_server_speaks() -> None:
    stream = REPLY.stream(CONTEXT)
    said = [stream.feed(Progress(phase="queued")), stream.start(), stream.keepalive(11.0)]
    assert said == [b"", b"", b'event: ping\ndata: {"type":"ping"}\n\n']
    assert [stream.feed(event) for event in (Started(usage=Usage()), Relayed(data=b"a\n\n"), END)] == [
        b"",
        b"a\n\n",
        b"",
    ]


def test_who_does_not_relay_is_rendered_as_any_other() -> None:
    events = (Progress(phase="queued"), Started(usage=Usage(input_tokens=3)), TextDelta(text="so"), END)
    stream, plain = REPLY.stream(CONTEXT), OURS.stream(CONTEXT)
    assert b"".join(map(stream.feed, events)) == b"".join(map(plain.feed, events[1:]))
    whole = assemble(events)
    assert REPLY.render([whole], CONTEXT) == OURS.render([whole], CONTEXT)


def test_an_error_that_the_stream_has_told_is_not_told_twice() -> None:
    for is_told, count in ((True, 0), (False, 1)):
        stream = REPLY.stream(CONTEXT)
        stream.feed(Started(usage=Usage()))
        stream.feed(Relayed(data=b"a\n\n"))
        error = OverloadedError("busy", **({"is_told": True} if is_told else {}))
        assert stream.feed(Failed.of(error)).count(b"event: error") == count


def test_a_whole_answer_and_an_error_are_the_servers_own_bytes() -> None:
    body = b'{ "type": "message", "n": 1e400 }'
    whole = assemble([Started(usage=Usage()), Relayed(data=body), END])
    assert dump_bytes(REPLY.render([whole], CONTEXT)) == body
    refused = b'{"type":"error", "error": {"type": "rate_limit_error", "message": "slow down"}}'
    error = OverloadedError("slow down", relayed={"status": 429, "body": refused, "headers": {"retry-after": "9"}})
    rendered = render_error(error, request_id="r")
    assert (rendered.status, rendered.headers, dump_bytes(rendered.body)) == (429, {"retry-after": "9"}, refused)
    assert json.loads(dump_bytes(rendered.body))["error"]["message"] == "slow down"
