"""A stand-in for mistral.rs's server (`mistralrs serve`), made from its public sources and documentation. What it does
not prove: that mistral.rs still answers so. Its own server is a Rust program: the wheel on PyPI holds none.

Like it, it listens on every interface where nobody says otherwise, lists `default` before its models, answers
`/health` with a text, says that it listens before anybody may count on it, and writes whole requests into the file of
`--log`. With MISTRALRS_HELD in its environment `/health` says 503 until there is a file of that name.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.upstream_stand_ins import OpenAiStandIn, end_chunk, serving, text_chunk


class MistralRsStandIn(OpenAiStandIn):
    """Its answers are the words that it was started with, and its process."""

    def __init__(self, *, model: str = "qwen3", status: str = "loaded", held: Path | None = None) -> None:
        words = json.dumps({"pid": os.getpid(), "argv": sys.argv[1:]})
        super().__init__([text_chunk(words), end_chunk(prompt_tokens=9, completion_tokens=3), "data: [DONE]"])
        self.model, self.status, self.held = model, status, held

    def answer(self, handler: Any, path: str, body: Any) -> None:
        if path == "/health":
            is_ready = self.held is None or self.held.exists()
            handler.send("OK" if is_ready else "starting", 200 if is_ready else 503)
        elif path == "/v1/models":
            one = {"object": "model", "created": 1, "owned_by": "local"}
            entries = [{"id": "default", **one}, {"id": self.model, "status": self.status, **one}]
            handler.send({"object": "list", "data": entries})
        elif path == "/v1/system/info":
            handler.send({"os": "stand-in", "devices": []})
        else:
            super().answer(handler, path, body)


def install(folder: Path) -> str:
    """A program `mistralrs` in the folder."""
    program = folder / "mistralrs"
    root = Path(__file__).parents[2]
    program.write_text(f'#!/bin/sh\ncd "{root}" && exec "{sys.executable}" -m tests.support.mistralrs_stand_in "$@"\n')
    program.chmod(0o755)
    return str(program)


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mistralrs", allow_abbrev=False)
    serve = parser.add_subparsers(required=True).add_parser("serve", allow_abbrev=False)
    serve.add_argument("-m", "--model-id", required=True)
    serve.add_argument("-p", "--port", type=int, default=1234)
    serve.add_argument("--host", default="0.0.0.0")
    serve.add_argument("--no-ui", action="store_true")
    serve.add_argument("-l", "--log", default="")
    return parser.parse_args(words)


def main() -> None:
    options = _parse(sys.argv[1:])
    held = os.environ.get("MISTRALRS_HELD", "")
    stand_in = MistralRsStandIn(model=options.model_id, held=Path(held) if held else None)
    print("INFO mistralrs: Model loaded.", flush=True)
    with serving(stand_in, options.port) as url:
        print(f"INFO mistralrs: Server listening on {url}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
