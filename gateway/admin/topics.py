"""What there is to look at, one topic for each screen: the same over `GET /api/NAME` and as events."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from gateway.admin.about import render_about
from gateway.admin.cache import render_cache
from gateway.admin.disk import Pulls
from gateway.admin.feeds import SLOW_S, Topic
from gateway.admin.models import render_models
from gateway.admin.overview import Clock, activity, render_overview
from gateway.admin.people import render_hosts, render_keys
from gateway.admin.pieces import Kept
from gateway.admin.requests import RequestLog
from gateway.admin.routing import render_files, render_table
from gateway.admin.settings_files import SettingsEditor
from gateway.admin.speed import SpeedTests
from gateway.door.folder import DoorFolder
from gateway.parts import Parts
from shared.keys import word


class Sights:
    """What a gateway's consoles see."""

    def __init__(
        self, parts: Parts, log: RequestLog, editor: SettingsEditor, pulls: Pulls, kept: Kept, speed: SpeedTests
    ) -> None:
        self._parts = parts
        self._log = log
        self._editor = editor
        self._pulls = pulls
        self._kept = kept
        self._speed = speed
        self._door = DoorFolder(parts.settings)

    def topics(self) -> Sequence[Topic]:
        fleet, parts = self._fleet, self._parts
        return (
            Topic(name="overview", stamp=lambda: (fleet(), self._doing(), self._is_connected), render=self._overview),
            Topic(name="requests", stamp=lambda: self._log.stamp, render=self._log.render),
            Topic(name="models", stamp=fleet, render=_at_once(lambda: render_models(fleet())), every_s=SLOW_S),
            Topic(name="pulls", stamp=self._pulls.stamp, render=self._fetched, every_s=SLOW_S),
            Topic(name="speed", stamp=self._speed.stamp, render=self._speed.render),
            Topic(name="routing", stamp=self._routing_stamp, render=self._routing, every_s=SLOW_S),
            Topic(name="cache", stamp=lambda: (fleet(), self._log.stamp), render=self._cache, every_s=SLOW_S),
            Topic(name="cache_tree", stamp=self._kept.stamp, render=self._kept.render, every_s=SLOW_S),
            Topic(name="keys", stamp=self._keys_stamp, render=self._keys, every_s=SLOW_S, is_private=True),
            Topic(name="hosts", stamp=self._hosts_stamp, render=self._hosts, every_s=SLOW_S, is_private=True),
            Topic(name="about", stamp=parts.policies.cache, render=_at_once(self._about), every_s=SLOW_S),
        )

    def _fleet(self) -> Any:
        return self._parts.fleet.snapshot

    def _doing(self) -> object:
        return activity(self._parts.hub.dispatches)

    @property
    def _is_connected(self) -> bool:
        return self._parts.fleet.is_connected and self._parts.hub.is_connected

    async def _overview(self) -> Mapping[str, Any]:
        return render_overview(
            self._fleet(),
            list(self._parts.hub.dispatches.values()),
            clock=Clock.now(),
            is_connected=self._is_connected,
            quarantined=len(self._parts.suspects.quarantined),
        )

    async def _cache(self) -> Mapping[str, Any]:
        return render_cache(self._fleet(), await self._log.rows())

    def _about(self) -> Mapping[str, Any]:
        parts = self._parts
        return render_about(parts.gateway, parts.settings, parts.policies.cache())

    async def _fetched(self) -> Mapping[str, Any]:
        return await asyncio.to_thread(self._pulls.render)

    def _routing_stamp(self) -> object:
        return self._editor.stamp(), self._parts.policies.faults(), self._parts.names.dead()

    async def _routing(self) -> Mapping[str, Any]:
        table = render_table(self._parts.policies, self._parts.names.dead())
        return table | await asyncio.to_thread(render_files, self._parts.settings, self._editor)

    def _keys_stamp(self) -> object:
        """Use changes, too, but not what a row needs each second."""
        return self._parts.keys.records(), self._parts.keys.fault, self._log.stamp

    async def _keys(self) -> Mapping[str, Any]:
        return await asyncio.to_thread(render_keys, self._parts.settings, self._parts.keys)

    def _hosts_stamp(self) -> object:
        return self._living(), self._door.stamp()

    def _living(self) -> frozenset[str]:
        return frozenset(word(host.host) for host in self._fleet().hosts)

    async def _hosts(self) -> Mapping[str, Any]:
        return await asyncio.to_thread(render_hosts, self._parts.settings, self._living())


def _at_once(render: Callable[[], Mapping[str, Any]]) -> Callable[[], Awaitable[Mapping[str, Any]]]:
    async def rendered() -> Mapping[str, Any]:
        return render()

    return rendered
