"""What a folder says of the Whisper model in it, read without MLX."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from shared.config import model_folders
from shared.errors import ModelUnavailableError
from worker.model_folder import find_model, parse_json

_WEIGHTS: Final = ("model*.safetensors", "weights*.safetensors", "weights.npz")
_MULTILINGUAL_VOCABULARY: Final = 51865  # OpenAI's with one more token than that of English alone


def check_source(source: str) -> None:
    """Raises `ModelUnavailableError` with the reason when `source` cannot be a Whisper model of this machine."""
    try:
        check_folder(find_model(source, *model_folders()))
    except (OSError, RuntimeError) as error:  # RuntimeError: a ~name that is nobody's
        raise ModelUnavailableError(f"{source} cannot be read: {error}") from error


def check_folder(folder: Path) -> dict[str, Any]:
    """Its config.json. Raises `ModelUnavailableError`."""
    if not (folder / "config.json").is_file():
        raise ModelUnavailableError(f"{folder} has no config.json, so it is not a model folder")
    config = parse_json(folder / "config.json")
    if config.get("model_type", "whisper") != "whisper":
        raise ModelUnavailableError(f"{folder} holds a {config['model_type']} model; transcription has Whisper alone")
    if not weight_files(folder):
        raise ModelUnavailableError(f"{folder} has no weights ({', '.join(_WEIGHTS)})")
    if not (folder / "tokenizer.json").is_file():
        raise ModelUnavailableError(
            f"{folder} has no tokenizer.json: put that of the openai/whisper model that it was made of there"
        )
    return config


def weight_files(folder: Path) -> list[Path]:
    """Those of the first form that is there."""
    return next((found for pattern in _WEIGHTS if (found := sorted(folder.glob(pattern)))), [])


def generation_config(folder: Path) -> dict[str, Any]:
    path = folder / "generation_config.json"
    return parse_json(path) if path.is_file() else {}


def is_multilingual(vocabulary: int, said: Mapping[str, Any]) -> bool:
    """`said` is the generation config."""
    told = said.get("is_multilingual")
    return told if isinstance(told, bool) else vocabulary >= _MULTILINGUAL_VOCABULARY
