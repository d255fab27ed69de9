"""Prompts built unit by unit, along a tree of what was built before.

A conversation that grew finds its history in the tree and renders and tokenises only what is new. A unit's tokens
depend on nothing but the units before it, so a prompt is a prefix of the next one also when the tree has forgotten it
and starts anew.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

from shared.errors import InvalidRequestError
from worker.prompt.conversation import Conversation
from worker.prompt.encode import Encoder
from worker.prompt.facts import Mode
from worker.prompt.growth import NotLocalError
from worker.prompt.head import Head, Heads
from worker.prompt.image_pieces import ImageSpan, Patch, find_spans, with_images
from worker.prompt.memory import AnswerMemory, Said, Spelling
from worker.prompt.parts import parts
from worker.prompt.pieces import Piece, PieceRenderer, ending
from worker.prompt.prefill import Prefill
from worker.prompt.thoughts import without_ending
from worker.prompt.traits import Traits
from worker.prompt.tree import Node, Tree, chained
from worker.prompt.turns import Scene, Turns
from worker.prompt.unit import Unit
from worker.prompt.values import Boundary, Prompt
from worker.prompt.verify import pieces_follow


class ContradictedError(Exception):
    """A whole rendering differs from the pieces: the template is not what it seemed when it was tried."""


class UnitBuilder:
    """Thread-safe. `build` raises `NotLocalError` for a conversation whose pieces do not fit together, and
    `ContradictedError` for one whose whole rendering is another."""

    def __init__(
        self,
        turns: Turns,
        traits: Traits,
        renderer: PieceRenderer,
        encoder: Encoder,
        heads: Heads,
        end_tokens: Collection[int],
        patch: Patch | None = None,
    ) -> None:
        self._patch = patch
        self._turns = turns
        self._traits = traits
        self._renderer = renderer
        self._encoder = encoder
        self._heads = heads
        self._memory = AnswerMemory()
        self._tree = Tree()
        self._end_tokens = frozenset(end_tokens)

    @property
    def mode(self) -> Mode:
        return "counted window" if self._renderer.counted else "window"

    def build(self, head: Head, conversation: Conversation, prefill: Prefill | None) -> Prompt:
        nodes = self._walk(head, conversation)
        last = nodes[-1]
        tokens: list[int] = []
        spans: list[ImageSpan] = []
        for node in nodes:
            spans.extend(span.moved(len(tokens)) for span in node.spans)
            tokens.extend(node.tokens)
        header, header_text = last.header, last.header_text
        if conversation.units[-1].kind == "assistant" or head.choice:
            header_text = self._last_header(head, conversation, last)
            header = self._encoder.encode(header_text)
        tokens.extend(header)
        opened = self._heads.opens_reasoning(header_text or ending(last.text, last.text, conversation.units[-1]))
        if prefill is not None:
            tokens.extend(self._encoder.encode(prefill.text(opened=opened)))
        return Prompt(
            tokens=tokens,
            boundaries=_boundaries(nodes),
            in_reasoning=opened and prefill is None,
            continues=prefill is not None,
            spans=tuple(spans),
            recorder=partial(self._record, last, chained(last.digest, header)) if prefill is None else None,
        )

    def _last_header(self, head: Head, conversation: Conversation, last: Node) -> str:
        """The header behind the last unit where its node's is not the one: behind an answer, or told a choice."""
        index = len(conversation.units) - 1
        if conversation.units[-1].kind == "assistant":
            return self._renderer.after_answer(conversation, index, head.last_scene)
        try:
            return self._piece(head.last_scene, conversation, index).header
        except NotLocalError:  # it tells the choice elsewhere
            return last.header_text

    def learn(self, spelling: Spelling) -> None:
        """How an answer of an earlier process was spelt."""
        self._memory.learn(spelling)

    def _record(self, parent: Node, digest: bytes, said: Said, tokens: Sequence[int]) -> Spelling:
        spelling = self._memory.remember(digest, said, tokens)
        # The same words may have been generated before in other tokens.
        for node in list(parent.children.values()):
            if node.unit is not None and node.unit.kind == "assistant" and said.is_like(node.unit.messages[0]):
                self._tree.drop(node)
        return spelling

    def _walk(self, head: Head, conversation: Conversation) -> list[Node]:
        """The node of every unit."""
        nodes: list[Node] = []
        known = 0
        parent = self._tree.root(head.digest)
        for index, unit in enumerate(conversation.units):
            key = (conversation.system_text, unit.key) if index == 0 else unit.key
            node = self._tree.child(parent, key)
            if node is None and unit.kind == "assistant":
                tokens = self._answer_tokens(conversation, index, parent, head.scene)
                node = self._tree.add(Node(parent=parent, key=key, unit=unit, tokens=tokens))
            elif node is None:
                piece = self._piece(head.scene, conversation, index)
                node = self._node(parent, key, unit, piece)
                if index == 0:
                    node.head = self._heads.boundaries(head, conversation, self._renderer, node.tokens)
                node = self._tree.add(node)
            else:
                known += 1
            nodes.append(node)
            parent = node
        # Compared when it is new, and each time it has doubled: the cost per turn stays the same.
        if len(nodes) > 1 and known.bit_length() < len(nodes).bit_length():
            self._verify(head, conversation, nodes)
        return nodes

    def _piece(self, scene: Scene, conversation: Conversation, index: int) -> Piece:
        if index == 0:
            return self._renderer.first(conversation, scene)
        return self._renderer.next(conversation, index, scene)

    def _node(self, parent: Node, key: Any, unit: Unit, piece: Piece) -> Node:
        images = unit.images
        text = with_images(piece.text, images, self._patch)
        if text is None:
            raise NotLocalError
        tokens = self._encoder.encode(text)
        return Node(
            parent=parent,
            key=key,
            unit=unit,
            tokens=tokens,
            text=piece.text,
            header=self._encoder.encode(piece.header),
            header_text=piece.header,
            spans=find_spans(tokens, images, self._patch),
        )

    def _answer_tokens(self, conversation: Conversation, index: int, parent: Node, scene: Scene) -> Sequence[int]:
        """An answer with its header: as it was generated if that is known, else rendered anew."""
        recalled = self._memory.recall(chained(parent.digest, parent.header), conversation.units[index].messages[0])
        if recalled is not None:
            written = self._written_close(conversation.units[index].dicts[0])
            return (*parent.header, *without_ending(recalled, written))
        text = self._renderer.answer(conversation, index, scene, parent.header_text)
        if parent.header_text and text.startswith(parent.header_text):
            return (*parent.header, *self._encoder.encode(text[len(parent.header_text) :]))
        return self._encoder.encode(text)

    def _written_close(self, answer: Mapping[str, Any]) -> Sequence[int]:
        """What a model writes itself at an answer's end before the token that ends it."""
        close = self._encoder.encode(self._renderer.close_of(answer))
        return close[: next((i for i, token in enumerate(close) if token in self._end_tokens), 0)]

    def _verify(self, head: Head, conversation: Conversation, nodes: Sequence[Node]) -> None:
        """Raises `ContradictedError` when the pieces are not found in the conversation's whole rendering, or in those
        of a long one's parts."""
        late = (self._traits.late_tools and head.scene.tools) or (self._traits.late_system and conversation.system)
        if late or conversation.units[-1].kind == "assistant":
            return
        for part in parts(conversation):
            scene = self._renderer.later(head.scene) if part.start else head.scene
            if part.start and self._renderer.counted:
                return
            try:
                whole = self._turns.whole([self._renderer.bare(item) for item in part.dicts], scene)
            except InvalidRequestError:
                return  # a rule about the whole conversation, which pieces need not follow
            if not pieces_follow(whole, self._texts(nodes[part.start : part.end], is_first=not part.start)):
                raise ContradictedError

    def _texts(self, nodes: Sequence[Node], *, is_first: bool) -> list[str]:
        """Of pieces that stand in one rendering; the first of a part that does not begin with the head is unknown."""
        texts = [node.text for node in nodes if node.text]
        if not is_first:
            texts[0] = ""
        if not self._renderer.is_steady:
            texts = [texts[0], *texts[1:][-1:]]
        texts[-1] += nodes[-1].header_text
        return texts


def _boundaries(nodes: Sequence[Node]) -> tuple[Boundary, ...]:
    out: list[Boundary] = list(nodes[0].head)
    for node in nodes[:-1]:
        if node.end > (out[-1].offset if out else 0):
            out.append(Boundary("message", _last_message(node), node.end))
    if out and out[-1].offset >= nodes[-1].end:
        out.pop()
    out.append(Boundary("prompt", _last_message(nodes[-1]), nodes[-1].end))
    return tuple(out)


def _last_message(node: Node) -> int:
    assert node.unit is not None
    return max(0, node.unit.end - 1)
