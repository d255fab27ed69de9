"""Conversations and their prefixes have names that only gateways can make, and that grow as conversations do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gateway.dispatch.lookups import conversation_of, lookups_of, text_bytes_of
from gateway.intake.chain import build_chain
from gateway.intake.tags import Tagger
from shared import wire
from shared.messages import ImagePart, Message, TextPart
from shared.request import GenerateRequest, ToolDefinition
from shared.trail import PIECE_BYTES, decode_trail

KEY = b"k" * 32
SYSTEM = Message(role="system", parts=(TextPart(text="rules " * 2000),))
TOOLS = tuple(ToolDefinition(name=f"t{number}", description="what it does " * 60) for number in range(8))


def say(role: Any, text: str) -> Message:
    return Message(role=role, parts=(TextPart(text=text),))


def tagged(*messages: Message, key: bytes = KEY, **fields: Any) -> GenerateRequest:
    request = GenerateRequest(id="r", model=fields.pop("model", "m"), messages=messages, **fields)
    packed = wire.pack(request)
    packed = replace(packed, packed=replace(packed.packed, chain=build_chain(request, packed.packed)))
    return Tagger(key).tagged(packed)


def tags(request: GenerateRequest) -> tuple[bytes, ...]:
    return decode_trail(request.trail).messages


def test_a_conversation_that_grew_has_all_the_tags_that_it_had() -> None:
    turn = (SYSTEM, say("user", "a"))
    grown = (*turn, say("assistant", "b"), say("user", "c"))
    before, after = tags(tagged(*turn, tools=TOOLS)), tags(tagged(*grown, tools=TOOLS))
    assert after[:2] == before
    assert len(set(after)) == 4


def test_what_differs_anywhere_before_has_another_tag() -> None:
    one = tags(tagged(say("user", "a"), say("assistant", "b"), tools=TOOLS))
    assert tags(tagged(say("user", "A"), say("assistant", "b"), tools=TOOLS))[1] != one[1]
    assert tags(tagged(say("user", "a"), say("assistant", "b"), tools=TOOLS[:7]))[0] != one[0]
    assert tags(tagged(say("user", "a"), say("assistant", "b"), tools=TOOLS, tenant="t"))[0] != one[0]
    assert tags(tagged(say("user", "a"), say("assistant", "b"), tools=TOOLS, model="n"))[0] != one[0]
    assert tags(tagged(say("user", "a"), say("assistant", "b"), tools=TOOLS, key=b"x" * 32))[0] != one[0]


def test_heads_that_differ_late_share_the_tags_of_their_pieces() -> None:
    here, there = (Message(role="system", parts=(TextPart(text="rules " * 2000 + end),)) for end in ("here", "there"))
    one, other = (decode_trail(tagged(head, say("user", "a"), tools=TOOLS).trail) for head in (here, there))
    assert one.messages[0] != other.messages[0]
    assert len(one.tools_first) == one.head_bytes // PIECE_BYTES
    assert one.tools_first[:-1] == other.tools_first[:-1]
    assert one.system_first[:2] == other.system_first[:2], "which comes first there is the template's affair"


def test_a_conversation_is_a_session_or_a_cache_key_with_what_the_user_said_first() -> None:
    def name(first: str, **fields: Any) -> str:
        return conversation_of(tagged(SYSTEM, say("user", first), say("assistant", "b"), **fields)).key

    assert name("a", session="s") == name("other", session="s") != name("a", session="t")
    assert name("a", cache_key="k") != name("b", cache_key="k"), "many conversations may share a key"
    assert name("a", cache_key="k") == name("a", cache_key="k", user="somebody")
    assert name("a", user="somebody") == "", "a person is no conversation"
    assert conversation_of(tagged(say("user", "a"), user="u")).user
    assert name("a", session="s") != name("a", session="s", tenant="t")


def test_what_the_client_calls_its_user_stays_at_the_gateway() -> None:
    request = tagged(say("user", "a"), user="somebody", cache_key="k")
    assert (request.user, request.cache_key) == ("", "")


def test_few_tags_are_looked_up_however_long_a_conversation_is() -> None:
    request = tagged(SYSTEM, *(say("user" if n % 2 else "assistant", str(n)) for n in range(400)), tools=TOOLS)
    links = lookups_of(request)
    assert len(links) < 50
    assert [link.text_bytes for link in links] == sorted((link.text_bytes for link in links), reverse=True)
    assert links[0].digest == tags(request)[-1]
    assert tags(request)[0] in {link.digest for link in links}, "the whole head"


def test_an_image_counts_as_much_whatever_its_size() -> None:
    def size(data: str) -> int:
        return text_bytes_of(tagged(Message(role="user", parts=(ImagePart(media_type="image/png", data=data),))))

    assert size("x" * 5_000) == pytest.approx(size("x" * 5_000_000), abs=8)
    assert size("x" * 5_000) < 5_000


def test_a_raw_prompt_has_pieces() -> None:
    trail = decode_trail(tagged(prompt="word " * 2000).trail)
    assert len(trail.system_first) == 2
    assert trail.places(head_tokens=2000, tools_tokens=None, ends={})[0][1] < 2000 * PIECE_BYTES / 10_000
