"""Images over HTTP to a model whose eyes mlx-vlm loads, with the extra `vision`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shared.redis_server import RedisServer
from tests.support.images import image_part
from tests.support.processes import running, wait_until
from tests.support.served import served

pytest.importorskip("mlx_vlm", reason="the extra vision is not installed: pip install 'mlx-gateway[vision]'")

MODEL = "eyes"
NOTE = "What is in this picture, and which colours has it? Say it in a few words. "


def anthropic(seed: int) -> dict[str, Any]:
    source = {"type": "base64", "media_type": "image/png", "data": image_part(seed).data}
    return {"role": "user", "content": [{"type": "text", "text": NOTE}, {"type": "image", "source": source}]}


def openai(seed: int) -> dict[str, Any]:
    url = {"url": f"data:image/png;base64,{image_part(seed).data}"}
    return {"role": "user", "content": [{"type": "text", "text": NOTE}, {"type": "image_url", "image_url": url}]}


@pytest.mark.slow
def test_images_of_both_dialects_are_seen_counted_and_found_again(tmp_path: Path) -> None:
    from tests.models.vision_checkpoint import build_vision_checkpoint

    model = build_vision_checkpoint("qwen2_5_vl", tmp_path / "model")
    command = ("-m", "worker", "--model", str(model), "--name", MODEL, "--host", "host")
    with RedisServer() as redis, served(redis.url, tmp_path) as gateway:
        environment = {**gateway.env, "MLX_CACHE_MIN_REUSE": "16"}
        with running(*command, log=tmp_path / "worker.log", env=environment) as worker:
            wait_until(lambda: MODEL in gateway.ready() or worker.process.poll() is not None, "the model is ready")
            assert worker.process.poll() is None, worker.output()

            def send(path: str, *messages: dict[str, Any]) -> dict[str, Any]:
                fields = {"model": MODEL, "max_tokens": 12, "temperature": 0.0, "messages": list(messages)}
                reply = gateway.post(path, fields)
                assert reply.status == 200, reply.body
                answer: dict[str, Any] = reply.json
                return answer

            counted = send("/v1/messages/count_tokens", anthropic(1))["input_tokens"]
            first = send("/v1/messages", anthropic(1))
            assert first["usage"]["cache_read_input_tokens"] + first["usage"]["input_tokens"] == counted
            again = send("/v1/chat/completions", openai(1))
            said = again["choices"][0]["message"]["content"]
            assert said == first["content"][0]["text"]
            assert again["usage"]["prompt_tokens_details"]["cached_tokens"] >= counted - 8
            other = send("/v1/messages", anthropic(2))
            assert other["usage"]["cache_read_input_tokens"] < counted - 15
            assert other["content"] != first["content"]
