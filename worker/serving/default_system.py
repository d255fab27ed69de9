"""The system text that a conversation has where its client gave none: a profile's."""

from __future__ import annotations

from dataclasses import replace

from shared.messages import Message, TextPart
from shared.work import Work


def with_default_system(work: Work) -> Work:
    request = work.request
    has_own = any(message.role == "system" for message in request.messages[:1])
    if not request.default_system or has_own or not request.messages:
        return work
    head = Message(role="system", parts=(TextPart(text=request.default_system),))
    return replace(work, request=replace(request, messages=(head, *request.messages)))
