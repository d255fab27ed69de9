"""llama.cpp's own server from the xllamacpp wheel, with llama-server's names of flags. A process of its own.

    python -m worker.engines.gguf.wheel_server -m X.gguf --port N [FLAG]...

The key is read from LLAMA_API_KEY, as llama-server does. What xllamacpp sets otherwise than llama-server is set here:
it neither shows a web page nor changes its settings over HTTP, and never drops what stands at a prompt's beginning.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from typing import Any

from shared.config import plain_environment


def parse_flags(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="wheel_server", allow_abbrev=False)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--alias", "-a", default="")
    parser.add_argument("-c", "--ctx-size", type=int, default=0)
    parser.add_argument("-np", "--parallel", type=int, default=1)
    parser.add_argument("-b", "--batch-size", type=int)
    parser.add_argument("-ub", "--ubatch-size", type=int)
    parser.add_argument("-t", "--threads", type=int)
    parser.add_argument("-ngl", "--n-gpu-layers", "--gpu-layers", default="")
    parser.add_argument("-md", "--model-draft", default="")
    parser.add_argument("-mm", "--mmproj", default="")
    parser.add_argument("--slots", action="store_true")
    parser.add_argument("--metrics", action="store_true")
    parser.add_argument("--swa-full", action="store_true")
    parser.add_argument("--mlock", action="store_true")
    parser.add_argument("--embedding", "--embeddings", action="store_true")
    parser.add_argument("--slot-save-path", default="")
    parser.add_argument("--sse-ping-interval", type=int)
    parser.add_argument("--cors-origins", default="")
    parser.add_argument("--chat-template", default="")
    return parser.parse_args(arguments)


# Our flag -> the field of xllamacpp's parameters, for those that are one value.
_FIELDS = {
    "ctx_size": "n_ctx",
    "parallel": "n_parallel",
    "batch_size": "n_batch",
    "ubatch_size": "n_ubatch",
    "swa_full": "swa_full",
    "slots": "endpoint_slots",
    "embedding": "embedding",
    "metrics": "endpoint_metrics",
    "slot_save_path": "slot_save_path",
    "sse_ping_interval": "sse_ping_interval",
    "cors_origins": "cors_origins",
    "chat_template": "chat_template",
    "port": "port",
}


def build_parameters(options: argparse.Namespace) -> Any:
    import xllamacpp  # the package of an extra

    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.hostnames = [options.host]
    params.model_alias = {options.alias} if options.alias else set()
    for flag, field in _FIELDS.items():
        if (value := getattr(options, flag)) not in (None, ""):
            setattr(params, field, value)
    if options.n_gpu_layers.lstrip("-").isdecimal():
        params.n_gpu_layers = int(options.n_gpu_layers)
    if options.threads:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    if options.mmproj:
        params.mmproj.path = options.mmproj
    if options.model_draft:
        params.speculative.draft.mparams.path = options.model_draft
    params.endpoint_props = params.ui = params.ctx_shift = params.fit_params = False
    params.offline = params.cache_prompt = params.use_jinja = True
    params.cache_ram_mib = 0
    if key := plain_environment().get("LLAMA_API_KEY"):
        params.api_keys = [key]
    return params


def main() -> None:
    import xllamacpp

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    server = xllamacpp.Server(build_parameters(parse_flags()))
    stop.wait()
    sys.stderr.write(f"{server.listening_address} ends\n")
    os._exit(0)  # its own end waits for connections that nobody uses any more


if __name__ == "__main__":
    main()
