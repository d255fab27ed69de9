"""What a prompt begins with: tools, switches, tenant and system text, and how many of its tokens that is."""

from __future__ import annotations

import datetime
import functools
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from shared import exact
from shared.errors import InvalidRequestError
from shared.request import GenerateRequest
from worker.prompt.conversation import Conversation, build_tools
from worker.prompt.encode import Encoder, Shield
from worker.prompt.pieces import PieceRenderer
from worker.prompt.sequences import common_length
from worker.prompt.thoughts import Thoughts
from worker.prompt.tool_show import ToolShow
from worker.prompt.traits import Traits, tools_as_text
from worker.prompt.turns import Scene
from worker.prompt.values import Boundary

_HEADS = 64
_LEAST_TOOLS_TOKENS = 64  # fewer are computed sooner than kept


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Head:
    """`digest` identifies tools, switches, tenant and day, whose prompts are its own. `tools_text` describes the tools
    where the template cannot. `warnings` say what the model sees otherwise than it was sent. `choice` is what the
    template is told of the tool choice, behind the last message."""

    scene: Scene
    tools_text: str
    digest: bytes
    warnings: tuple[str, ...] = ()
    choice: str = ""

    @property
    def last_scene(self) -> Scene:
        """That of the header which the answer follows."""
        return replace(self.scene, choice=self.choice) if self.choice else self.scene

    def on(self, day: datetime.datetime) -> Head:
        digest = hashlib.blake2b(day.isoformat().encode(), key=self.digest, digest_size=32).digest()
        return replace(self, scene=replace(self.scene, day=day), digest=digest)


class _Key:
    """A request's tools and switches, hashed once. (Not the request: a kept key would hold its whole conversation.)"""

    __slots__ = ("digest", "switches", "tools")

    def __init__(self, request: GenerateRequest, switches: Mapping[str, Any]) -> None:
        self.tools = request.tools
        self.switches = switches
        tools = [[tool.name, tool.description, tool.parameters] for tool in request.tools if not tool.deferred]
        try:
            content = exact.dump_bytes([request.tenant, switches, tools])
        except TypeError as error:
            message = f"a tool's parameters are no JSON, or nested too deeply: {error}"
            raise InvalidRequestError(message, param="tools") from error
        self.digest = hashlib.blake2b(content, digest_size=32).digest()

    def __hash__(self) -> int:
        return hash(self.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and other.digest == self.digest


class Heads:
    """Thread-safe."""

    def __init__(
        self, traits: Traits, show: ToolShow, shield: Shield, encoder: Encoder, thoughts: Thoughts | None
    ) -> None:
        self._traits = traits
        self._show = show
        self._shield = shield
        self._encoder = encoder
        self._thoughts = thoughts
        self._head = functools.lru_cache(maxsize=_HEADS)(self._new_head)
        self._tokens: OrderedDict[tuple[bytes, str | None], Sequence[int]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, request: GenerateRequest, switches: Mapping[str, Any]) -> Head:
        """Raises `InvalidRequestError` for tools that cannot be shown."""
        try:
            return self._head(_Key(request, switches))
        except RecursionError as error:
            raise InvalidRequestError("a tool's parameters are nested too deeply", param="tools") from error

    def _new_head(self, key: _Key) -> Head:
        tools = build_tools(key.tools, self._shield)
        if tools and not self._traits.tools:
            scene = Scene(tools=(), switches=key.switches)
            return Head(scene=scene, tools_text=tools_as_text(tools), digest=key.digest)
        fitted, changed = self._show.fitted(tools, key.switches)
        warnings = tuple(
            f"the model sees a simplified schema of `{name}`: its template takes no other" for name in changed
        )
        scene = Scene(tools=fitted, switches=key.switches)
        return Head(scene=scene, tools_text="", digest=key.digest, warnings=warnings)

    def tokens(self, head: Head, conversation: Conversation, renderer: PieceRenderer) -> Sequence[int]:
        """Tokens that every conversation with this head and system text begins with."""
        system = conversation.system_text
        if not system and not head.scene.tools:
            return ()
        return self._kept((head.digest, system), lambda: renderer.head_variants(conversation, head.scene))

    def tools_tokens(self, head: Head, conversation: Conversation, renderer: PieceRenderer) -> Sequence[int]:
        """Tokens that every conversation with these tools begins with, whatever its system text is. Nearly none where
        the template writes the system text first."""
        if not head.scene.tools or not conversation.system:
            return ()
        return self._kept((head.digest, None), lambda: renderer.tools_variants(head.scene))

    def _kept(self, key: tuple[bytes, str | None], variants: Callable[[], Sequence[str]]) -> Sequence[int]:
        with self._lock:
            known = self._tokens.get(key)
            if known is not None:
                self._tokens.move_to_end(key)
                return known
        one, other = variants()
        tokens = self._encoder.shared(one, other)
        with self._lock:
            self._tokens[key] = tokens
            if len(self._tokens) > _HEADS:
                self._tokens.popitem(last=False)
        return tokens

    def boundaries(
        self, head: Head, conversation: Conversation, renderer: PieceRenderer, tokens: Sequence[int]
    ) -> tuple[Boundary, ...]:
        """Where the tools and the head end in a prompt that begins with `tokens`, where there is anything of them."""
        end = common_length(self.tokens(head, conversation, renderer), tokens)
        tools = common_length(self.tools_tokens(head, conversation, renderer), tokens)
        out = [Boundary("tools", 0, tools)] if _LEAST_TOOLS_TOKENS <= tools < end else []
        return (*out, Boundary("system", 0, end)) if end else ()

    def opens_reasoning(self, header: str) -> bool:
        return self._thoughts is not None and self._thoughts.opens(header)
