"""The small conversation in which a unit is rendered: the few messages before it, answers with stand-ins for words.

What users and tools said stays, for templates look at it (`/no_think`). An answer's reasoning is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from worker.prompt.conversation import Unit
from worker.prompt.encode import STAND_IN_ANSWER, STAND_IN_OTHER, STAND_IN_USER

_DUMMY_USER: dict[str, Any] = {"role": "user", "content": STAND_IN_USER}
_DUMMY_ANSWER: dict[str, Any] = {"role": "assistant", "content": "."}
_REMINDER_OPEN, _REMINDER_CLOSE = "<system-reminder>", "</system-reminder>"


def window(
    units: Sequence[Unit], index: int, most: int, *, call_text: bool, counted: bool = False
) -> list[dict[str, Any]]:
    """A conversation that ends just before `units[index]`: back to the last user message with words of the user's own,
    or `most` units and that message. `call_text` says whether the template shows text beside a call before it;
    `counted`: as many calls as went before come first, in one answer."""
    start = index
    while start > 0 and index - start < most:
        start -= 1
        if _has_own_words(units[start]):
            break
    if units[start].kind == "tool" and start > 0:
        start -= 1
    dicts: list[dict[str, Any]] = _calls_before(units[:start]) if counted else []
    if units[start].kind != "user" or not _has_own_words(units[start]):
        dicts.extend(_anchor(units, start))
    for position in range(start, index):
        dicts.extend(stand_ins(units[position], is_last=position == index - 1, call_text=call_text))
    return dicts


def _calls_before(units: Sequence[Unit]) -> list[dict[str, Any]]:
    """An exchange with as many calls as these units made."""
    answers = (item for unit in units if unit.kind != "user" for item in unit.dicts)
    made = [_emptied(call) for answer in answers for call in answer.get("tool_calls", ())]
    if not made:
        return []
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


def _anchor(units: Sequence[Unit], start: int) -> Sequence[dict[str, Any]]:
    """What a window that does not begin with the user's own words is preceded by."""
    user = next((unit.dicts for unit in reversed(units[:start]) if _has_own_words(unit)), None)
    if units[start].kind != "user":
        return user or (_DUMMY_USER,)
    return (*user, _DUMMY_ANSWER) if user else ()


def _has_own_words(unit: Unit) -> bool:
    """Whether it is a user message that says something besides reminders that the client put there."""
    if unit.kind != "user":
        return False
    if unit.has_images:
        return True
    text = str(unit.dicts[-1]["content"])
    while _REMINDER_OPEN in text:
        before, _, rest = text.partition(_REMINDER_OPEN)
        if before.strip():
            return True
        text = rest.partition(_REMINDER_CLOSE)[2]
    return bool(text.strip())
