"""What the prompt builder remembers of conversations stays within what it says it takes."""

from __future__ import annotations

import gc
import weakref

from shared.messages import DocumentPart, Message, TextPart, ToolResultPart
from shared.request import GenerateRequest
from worker.prompt.encode import Shield
from worker.prompt.head import Heads
from worker.prompt.tool_show import ToolShow
from worker.prompt.traits import Traits
from worker.prompt.tree import Node, Tree
from worker.prompt.unit import Unit


class Text(str):
    """A string whose life can be watched."""


def test_a_known_head_holds_no_conversation() -> None:
    heads = Heads(Traits(), ToolShow(None, has_system=True), Shield(()), None, None)  # type: ignore[arg-type]  # none is asked for anything
    text = Text("a long conversation")
    watched = weakref.ref(text)
    request = GenerateRequest(id="r", model="m", messages=(Message(role="user", parts=(TextPart(text=text),)),))
    head = heads.of(request, {})
    del request, text
    gc.collect()
    assert watched() is None
    assert heads.of(GenerateRequest(id="other", model="m", messages=()), {}) is head


def test_files_in_messages_count_against_the_budget_of_prompts_built_before() -> None:
    tree = Tree(budget_bytes=1_000_000)
    root = tree.root(b"head")
    document = DocumentPart(media_type="application/pdf", data="x" * 400_000)
    for number in range(5):
        parts = (document, TextPart(text=str(number)))
        if number % 2:
            parts = (ToolResultPart(call_id="c", parts=parts),)
        messages = (Message(role="user", parts=parts),)
        tree.add(Node(parent=root, key=messages, unit=Unit("user", messages, 1, list, messages), tokens=(1, 2, 3)))
    assert len(root.children) <= 2
    assert 400_000 < tree.size_bytes <= 1_000_000
