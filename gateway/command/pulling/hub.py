"""Asks the Hugging Face hub, by its own package, which is imported only when a person wants something of it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.command.ends import failed, not_there
from gateway.command.pulling.plan import HubFile
from shared.errors import ConfigError
from shared.extras import install_line

MOST_FOUND = 40
_CONFIG = "config.json"
_MOST_CONFIG_BYTES = 1 << 20
_KINDS = ("gguf", "mlx", "safetensors")  # by the hub's tags, the most telling first


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """`kind` is of its files, as the hub tags them; `changed` a day."""

    model: str
    kind: str
    downloads: int
    changed: str


def _package() -> Any:
    try:
        import huggingface_hub.errors  # a second of imports that no other command needs
    except ImportError as error:
        raise failed(f"the package huggingface_hub is missing; install it: {install_line('mlx')}") from error
    return huggingface_hub


@contextmanager
def _telling(failure: str, hint: str = "") -> Iterator[None]:
    """Whatever else goes wrong is told as `failure`, with the package's reason and a hint for the person."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # of whatever the package speaks HTTP with
        raise failed(f"{failure}: {_first_line(error)}{hint}") from error


@contextmanager
def _asking(model: str) -> Iterator[None]:
    errors = _package().errors
    with _telling(f"{model} could not be fetched", "; the same command goes on with it"):
        try:
            yield
        except errors.GatedRepoError as error:
            raise failed(f"{model} wants its terms accepted on its page, and then a token in HF_TOKEN") from error
        except errors.RepositoryNotFoundError as error:
            missing = f"the hub has no model {model!r}, or it is private and needs a token in HF_TOKEN"
            raise not_there(missing) from error
        except errors.HFValidationError as error:
            raise not_there(f"{model!r} is no id of the hub (MAKER/MODEL)") from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def files_of(model: str) -> list[HubFile]:
    """Raises `ConfigError`."""
    with _asking(model):
        info = _package().HfApi().model_info(model, files_metadata=True)
    return [HubFile(name=each.rfilename, size_bytes=int(each.size or 0)) for each in info.siblings or ()]


def config_of(model: str, files: list[HubFile]) -> Any:
    """Its config.json, of which nothing stays here; None where it has none. Raises `ConfigError`."""
    if not any(file.name == _CONFIG and file.size_bytes <= _MOST_CONFIG_BYTES for file in files):
        return None
    with _asking(model), tempfile.TemporaryDirectory() as folder:
        path = _package().hf_hub_download(model, _CONFIG, cache_dir=folder)
        try:
            return json.loads(Path(path).read_bytes())
        except ValueError:
            return None


def search(words: str, most: int = MOST_FOUND) -> list[Found]:
    """Models of the hub whose names have these words, the most fetched first. Raises `ConfigError`."""
    with _telling("the hub could not be searched"):
        models = list(_package().HfApi().list_models(search=words, sort="downloads", limit=most))
    return [
        Found(
            model=each.id,
            kind=next((kind for kind in _KINDS if kind in (each.tags or ())), "other"),
            downloads=int(each.downloads or 0),
            changed=each.last_modified.date().isoformat() if each.last_modified else "",
        )
        for each in models
    ]


def fetch(model: str, files: list[HubFile], say: Callable[[str], None]) -> Path:
    """Into the hub's cache, one file after another: a file that is there is not fetched again, and one whose connection
    breaks is gone on from while the command runs (the package keeps no parts of files beyond that). The folder that
    they lie in. Raises `ConfigError`."""
    path = Path()
    for number, file in enumerate(files, 1):
        say(f"[{number}/{len(files)}] {file.name} ({file.size_bytes / 1e6:.1f} MB)")
        with _asking(model):
            path = Path(_package().hf_hub_download(model, file.name))
    return path.parent


def fetched_bytes(model: str, files: list[HubFile]) -> int:
    """Of whole files that lie here."""
    there = [_package().try_to_load_from_cache(model, file.name) for file in files]
    return sum(file.size_bytes for file, path in zip(files, there, strict=True) if isinstance(path, str))
