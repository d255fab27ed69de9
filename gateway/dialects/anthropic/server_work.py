"""What only the vendor's own servers do: searching the web, judging tool calls. We say that it is not done here, in
the vendor's words, so that clients need not guess.

Source: the official SDKs' types; what Claude Code 2.1 does with each answer was read from and tried with the client.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.dialects import fields
from gateway.dialects.anthropic.tools import Tools
from shared.messages import Message, TextPart

_WEB_SEARCH: Final = "web_search_"
# How Claude Code words the request of its WebSearch tool.
_SEARCH_WORDS: Final = "Perform a web search for the query: "
_MAX_QUERY: Final = 1000  # characters
_MAX_SAFEGUARDS: Final = 16
_SEARCH_ID: Final = "srvtoolu_local_"


def unavailable_note(names: Sequence[str]) -> tuple[Message, ...]:
    """What the model is told, so that it does not make up what such a tool would have given."""
    if not names:
        return ()
    text = f"Not available on this server: {', '.join(names)}. Where they are needed, say so and make nothing up."
    return (Message(role="system", parts=(TextPart(text=text),)),)


def demanded_search(tools: Tools, choice: Any, messages: Sequence[Message]) -> str:
    """The query of a request that is about nothing but the vendor's web search; else empty."""
    names = {name for name, kind in tools.dropped.items() if kind.startswith(_WEB_SEARCH)}
    if not names:
        return ""
    text = _last_words(messages)
    is_forced = isinstance(choice, dict) and choice.get("type") == "tool" and choice.get("name") in names
    is_only = not tools.callable
    if is_forced or (is_only and (text.startswith(_SEARCH_WORDS) or _is_any(choice))):
        return text.removeprefix(_SEARCH_WORDS).strip()[:_MAX_QUERY] or "web search"
    return ""


def _is_any(choice: Any) -> bool:
    return isinstance(choice, dict) and choice.get("type") == "any"


def _last_words(messages: Sequence[Message]) -> str:
    last = next((message for message in reversed(messages) if message.role == "user"), None)
    texts = [part.text for part in last.parts if isinstance(part, TextPart)] if last else []
    return texts[-1] if texts else ""


def render_search(query: str, request_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The call of the search and its failure, as the vendor answers when its search is down. Clients show the code
    where they would show results."""
    call_id = f"{_SEARCH_ID}{request_id}"
    call = {"type": "server_tool_use", "id": call_id, "name": "web_search", "input": {"query": query}}
    error = {"type": "web_search_tool_result_error", "error_code": "unavailable"}
    return call, {"type": "web_search_tool_result", "tool_use_id": call_id, "content": error}


def is_our_search(block: Mapping[str, Any]) -> bool:
    """Whether a block of an answer came from `render_search`: the model never said it."""
    call_id = block.get("id") if block.get("type") == "server_tool_use" else block.get("tool_use_id")
    return isinstance(call_id, str) and call_id.startswith(_SEARCH_ID)


def asked_safeguards(value: Any) -> tuple[str, ...]:
    """The types of the checks that a client wants done on the answer's tool calls, each once."""
    if not isinstance(value, list):
        return ()
    kinds = [item.get("type") for item in value[:_MAX_SAFEGUARDS] if isinstance(item, dict)]
    return tuple(dict.fromkeys(fields.name(kind, "safeguards", "type") for kind in kinds if kind))


def render_safeguards(kinds: Sequence[str]) -> dict[str, Any]:
    """The part of an answer that says that nobody here did these checks. Claude Code then runs what it takes to be
    harmless, denies the rest in words for its model, and is spared the round trip that a refusal would cost it."""
    if not kinds:
        return {}
    return {"safeguard_results": [{"type": kind, "status": {"type": "unsupported"}} for kind in kinds]}
