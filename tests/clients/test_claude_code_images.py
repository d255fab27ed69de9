"""The real Claude Code shows an image, which it read with its own tool, to a model that sees.

The echo engine has the client read the image; the conversation then goes on with the model that reads images, made of
random weights. Its answers are noise which hardly ever ends, so that the client gives up at its own limit, after it has
asked for the rest a few times.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.redis_server import RedisServer
from tests.clients.claude_code import ClaudeCode, install_claude_code
from tests.support.images import image_part
from tests.support.models import CheckpointMaker
from tests.support.processes import running, wait_until
from tests.support.recorder import Exchange, Recorder, describe
from tests.support.served import Served, served

pytestmark = [pytest.mark.claude, pytest.mark.slow, pytest.mark.timeout(600)]

_TRIES = 3  # noise may say its end at once
LIMIT = {"CLAUDE_CODE_MAX_OUTPUT_TOKENS": "24"}


@pytest.fixture
def gateway(tmp_path: Path, random_checkpoint: CheckpointMaker) -> Iterator[Served]:
    with RedisServer() as redis, served(redis.url, tmp_path) as gateway, gateway.worker():
        model = str(random_checkpoint("vision"))
        command = ("-m", "tests.support.muse_spark", "--model", model, "--name", "eyes", "--host", "host")
        with running(*command, log=tmp_path / "eyes.log", env=gateway.env) as worker:
            wait_until(lambda: "eyes" in gateway.ready() or worker.process.poll() is not None, "the model is ready")
            assert worker.process.poll() is None, worker.output()
            yield gateway


def image_bytes(exchange: Exchange) -> list[str]:
    """The data of the images that the client sent, in tool results."""
    blocks = [block for message in exchange.body["messages"] for block in message["content"] if isinstance(block, dict)]
    results = [block["content"] for block in blocks if block["type"] == "tool_result"]
    inner = [item for content in results if isinstance(content, list) for item in content]
    return [item["source"]["data"] for item in inner if item["type"] == "image"]


def test_an_image_that_the_client_read_is_seen_and_not_computed_again(
    gateway: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    (work / "picture.png").write_bytes(base64.b64decode(image_part(1, width=400, height=300).data))
    with Recorder(f"http://127.0.0.1:{gateway.port}") as recorder:
        claude = ClaudeCode(executable=install_claude_code(), home=home, work=work, url=recorder.url, model="eyes")
        call = f"call Read {json.dumps({'file_path': str(work / 'picture.png')})}"
        claude.run(call, "--model", "echo", "--allowedTools", "Read")
        for _ in range(_TRIES):
            with recorder.recorded() as exchanges, contextlib.suppress(pytest.fail.Exception):
                claude.run("What does it show?", "--continue", **LIMIT)
            if len(exchanges) > 1:
                break
    with capsys.disabled():
        print(f"\nan image in the conversation\n{describe(exchanges)}")
    assert all(exchange.status == 200 for exchange in exchanges)
    assert [len(image_bytes(exchange)) for exchange in exchanges] == [1] * len(exchanges)
    assert len(exchanges) > 1, "the client asks for the rest of an answer that was cut"
    assert all(exchange.computed_tokens < 500 for exchange in exchanges[1:])
