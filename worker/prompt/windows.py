"""The small conversation in which a unit is rendered: the few messages before it, answers with stand-ins for words.

What users and tools said stays, for templates look at it (`/no_think`). An answer's reasoning is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from worker.prompt.conversation import Conversation
from worker.prompt.encode import STAND_IN_ANSWER, STAND_IN_OTHER, STAND_IN_USER
from worker.prompt.past import has_own_words
from worker.prompt.unit import Unit

_DUMMY_USER: dict[str, Any] = {"role": "user", "content": STAND_IN_USER}
_DUMMY_ANSWER: dict[str, Any] = {"role": "assistant", "content": "."}


def begins(conversation: Conversation, index: int, most: int) -> int:
    """Where the window before the unit at `index` begins: back to the last user message with words of the user's own,
    or `most` units."""
    units, start = conversation.units, index
    while start > 0 and index - start < most:
        start -= 1
        if has_own_words(units[start]):
            break
    return start - 1 if units[start].kind == "tool" and start > 0 else start


def window(conversation: Conversation, start: int, index: int, *, call_text: bool, calls: int) -> list[dict[str, Any]]:
    """A conversation that begins with the unit at `start`, or the user message with own words before it, and ends just
    before the one at `index`. `call_text` says whether the template shows text beside a call before it; so many
    `calls` as that come first, in one answer."""
    units = conversation.units
    dicts = _exchange(conversation.past.first_calls(calls))
    if units[start].kind != "user" or not has_own_words(units[start]):
        dicts.extend(anchor(conversation, start))
    for position in range(start, index):
        dicts.extend(stand_ins(units[position], is_last=position == index - 1, call_text=call_text))
    return dicts


def _exchange(calls: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    if not calls:
        return []
    made = [_emptied(call) for call in calls]
    result = {"role": "tool", "tool_call_id": made[0]["id"], "name": made[0]["function"]["name"], "content": "."}
    return [_DUMMY_USER, {"role": "assistant", "content": "", "tool_calls": made}, result, _DUMMY_ANSWER]


def _emptied(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {**call, "function": {**function, "arguments": "{}" if isinstance(function["arguments"], str) else {}}}


def stand_ins(unit: Unit, *, is_last: bool, call_text: bool) -> list[dict[str, Any]]:
    """A unit's messages; the answer that is the last says a text of our own."""
    dicts = [_stand_in(message) for message in unit.dicts]
    last = dicts[-1]
    if is_last and last["role"] == "assistant" and (call_text or "tool_calls" not in last):
        last["content"] = STAND_IN_ANSWER
    return dicts


def marked(dicts: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    """The messages with a text of our own in the last one, and that text."""
    last = dicts[-1]
    if last.get("content") == STAND_IN_ANSWER:
        return list(dicts), STAND_IN_ANSWER
    return [*dicts[:-1], {**last, "content": STAND_IN_OTHER}], STAND_IN_OTHER


def _stand_in(message: Mapping[str, Any]) -> dict[str, Any]:
    if message["role"] != "assistant":
        return dict(message)
    if "tool_calls" in message:
        return {"role": "assistant", "content": "", "tool_calls": message["tool_calls"]}
    return {"role": "assistant", "content": "."}


def anchor(conversation: Conversation, start: int) -> Sequence[dict[str, Any]]:
    """What a window that does not begin with the user's own words is preceded by."""
    speaker = conversation.past.speaker(start)
    if conversation.units[start].kind != "user":
        return (_DUMMY_USER,) if speaker is None else speaker.dicts
    return () if speaker is None else (*speaker.dicts, _DUMMY_ANSWER)
