"""`gguf_config.json`: what a person sets of llama.cpp's servers, for all models and for one.

{"slots": 4, "models": {"NAME": {"slots": 2}}}
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from shared.options import GGUF, value_faults

FILE: Final = "gguf_config.json"


def gguf_faults(data: Any, *, of_model: str | None = None) -> Iterator[str]:
    """One line for each value that cannot be meant; of one model and of all, or of every model."""
    models = data.get("models", {}) if isinstance(data, dict) else None
    if not isinstance(models, dict) or not all(isinstance(each, dict) for each in models.values()):
        yield f'{FILE}: expected an object, such as {{"slots": 4, "models": {{"NAME": {{"slots": 2}}}}}}'
        return
    yield from value_faults(FILE, GGUF, {key: value for key, value in data.items() if key != "models"})
    for model, options in models.items():
        if of_model in (None, model):
            yield from value_faults(f"{FILE}: model {model!r}", GGUF, options)
