"""The composition root: what happens when a part of the process breaks."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.app import create_app, running_tasks
from gateway.dispatch.streams import FrameHub
from shared.config import Settings
from shared.errors import ConfigError
from tests.support.gateway import until
from tests.support.names import NAMES
from tests.support.sealed import KEYRING


class BrokenHub(FrameHub):
    async def run(self) -> None:
        raise RuntimeError("a bug")


def test_a_background_task_that_ends_asks_for_the_process_to_be_replaced(
    redis_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        app = create_app(Settings(redis_url=redis_url, state_dir=tmp_path))
        exits: list[bool] = []
        app.request_exit = lambda: exits.append(True)
        client = app.parts.jobs._redis
        hub = BrokenHub(
            client,
            client,
            NAMES,
            KEYRING,
            "gw",
            on_gap=app.parts.metrics.gap,
            on_refused=app.parts.metrics.refused_frame,
        )
        async with running_tasks(replace(app.parts, hub=hub), app.fail):
            await until(lambda: exits, "the process is asked to end")
        assert exits == [True]
        assert app.has_failed
        await client.aclose()

    asyncio.run(main())
    (record,) = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert "frames" in record.getMessage()


def test_an_orderly_stop_is_no_failure(redis_url: str, tmp_path: Path) -> None:
    async def main() -> None:
        app = create_app(Settings(redis_url=redis_url, state_dir=tmp_path))
        async with app.router.lifespan_context(app):
            await until(lambda: app.parts.hub.is_connected, "everything runs")
        assert not app.has_failed

    asyncio.run(main())


def test_without_a_redis_url_there_is_no_gateway(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="REDIS_URL"):
        create_app(Settings(state_dir=tmp_path))
