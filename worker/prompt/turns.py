"""A template's renderings as bodies, which end with the last message, and the generation headers behind them.

Most templates write the header when they are asked to. Some always do; some write something else in its place when
they are not asked, and harmony's end the last answer otherwise. For these the header is found out once, and cut off.
"""

from __future__ import annotations

import datetime
import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from shared.errors import InvalidRequestError
from worker.prompt.encode import STAND_IN_ANSWER, STAND_IN_USER
from worker.prompt.growth import added
from worker.prompt.markers import Markers
from worker.prompt.template import Template, ToolDict
from worker.prompt.told_choice import VARIABLE

_KEPT_RENDERINGS = 6
_USER: dict[str, Any] = {"role": "user", "content": STAND_IN_USER}
_ANSWER: dict[str, Any] = {"role": "assistant", "content": STAND_IN_ANSWER}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What every rendering of one request shares. `day` is the date that the template may tell, `choice` the word for
    the tool choice with which generation headers are rendered."""

    tools: Sequence[ToolDict]
    switches: Mapping[str, Any]
    day: datetime.datetime | None = None
    choice: str = ""


NOTHING = Scene(tools=(), switches={})


class Turns:
    """Thread-safe. Every method raises `InvalidRequestError` when the template refuses the messages. `header` is that
    of a format whose header is known."""

    def __init__(self, template: Template, markers: Markers, header: str = "") -> None:
        self._template = template
        self._markers = markers
        self._known = header
        self._headers: dict[str, str] = {}
        self._last_header: tuple[Mapping[str, Any] | None, str] = (None, "")
        self._recent: deque[tuple[tuple[bool, Scene, list[Mapping[str, Any]]], str]] = deque(maxlen=_KEPT_RENDERINGS)
        self._cuts = bool(header) or self._must_cut()

    def whole(self, dicts: Sequence[Mapping[str, Any]], scene: Scene) -> str:
        """With the generation header."""
        return self._render(dicts, scene, header=True)

    def body(self, dicts: Sequence[Mapping[str, Any]], scene: Scene) -> str:
        """Without it."""
        if not self._cuts:
            return self._render(dicts, scene, header=False)
        scene = replace(scene, choice="") if scene.choice else scene
        return self.whole(dicts, scene).removesuffix(self._known or self._header(scene.switches))

    def header(self, dicts: Sequence[Mapping[str, Any]], scene: Scene, body: str) -> str:
        """What follows `body`, the rendering of these messages. Raises `NotLocalError` where it is none."""
        return added(body, self.whole(dicts, scene))

    def _render(self, dicts: Sequence[Mapping[str, Any]], scene: Scene, *, header: bool) -> str:
        """What one unit ends with the next one begins with, so the last few renderings are kept."""
        asked = (header, scene, list(dicts))
        for known, text in list(self._recent)[::-1]:
            if known == asked:
                return text
        if header:
            text = self._told(dicts, scene) if scene.choice else self._untold(dicts, scene, header=True)
        else:
            text = self._headless(dicts, scene, asked[2])
        self._recent.append((asked, text))
        return text

    def _headless(self, dicts: Sequence[Mapping[str, Any]], scene: Scene, asked: list[Mapping[str, Any]]) -> str:
        """Where one rendering gives both, that with the header is kept, too."""
        try:
            apart = self._template.render_apart(dicts, scene.tools, scene.switches, day=scene.day)
        except InvalidRequestError:  # perhaps only the header was refused
            apart = None
        if apart is None:
            return self._untold(dicts, scene, header=False)
        text, whole = apart
        if not scene.choice:
            self._recent.append(((True, scene, asked), whole))
        return text

    def _told(self, dicts: Sequence[Mapping[str, Any]], scene: Scene) -> str:
        told = {**scene.switches, VARIABLE: scene.choice}
        try:
            return self._untold(dicts, replace(scene, switches=told), header=True)
        except InvalidRequestError:  # perhaps it knows other choices
            return self._untold(dicts, scene, header=True)

    def _untold(self, dicts: Sequence[Mapping[str, Any]], scene: Scene, *, header: bool) -> str:
        return self._template.render(dicts, scene.tools, scene.switches, header=header, day=scene.day)

    def _must_cut(self) -> bool:
        bodies = []
        for dicts in ([_USER], [_USER, _ANSWER]):
            try:
                body, whole = (self._template.render(dicts, (), {}, header=header) for header in (False, True))
            except InvalidRequestError:
                return False
            if not whole.startswith(body):
                return True
            bodies.append(body == whole)
        return all(bodies) and bool(self._header({}))

    def _header(self, switches: Mapping[str, Any]) -> str:
        last, header = self._last_header
        if switches is last:
            return header
        key = json.dumps(switches, sort_keys=True, default=repr)
        if key not in self._headers:
            self._headers[key] = self._learn_header(Scene(tools=(), switches=switches))
        self._last_header = (switches, self._headers[key])
        return self._headers[key]

    def _learn_header(self, scene: Scene) -> str:
        """What follows an answer less what a user's message after it begins with, too."""
        try:
            answered, asked = self.whole([_USER, _ANSWER], scene), self.whole([_USER, _ANSWER, _USER], scene)
        except InvalidRequestError:
            return ""
        behind = answered.rpartition(STAND_IN_ANSWER)[2]
        between = asked.rpartition(STAND_IN_ANSWER)[2].rpartition(STAND_IN_USER)[0]
        return behind[self._markers.common(behind, between) :]
