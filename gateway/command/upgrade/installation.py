"""How this mlx-gateway was installed, and what upgrades such an installation."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
import shutil
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from gateway.command.ends import failed
from shared.extras import installed_extras

PACKAGE: Final = "mlx-gateway"
Way = Literal["uv", "pipx", "brew", "pip", "source"]
_RELEASE: Final = re.compile(r"\bmlx[-_]gateway(?:-|==)(\d[\w.+!]*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """`prefix` is its environment, `python` its interpreter; `source` the checkout that it runs from, empty for none;
    `pinned` the release that whoever installed it with uv has asked for, empty for none."""

    way: Way
    prefix: Path
    python: str
    extras: tuple[str, ...] = ()
    source: str = ""
    pinned: str = ""

    @property
    def wanted(self) -> str:
        """What a package manager is asked for: the package, with the extras that are there."""
        return f"{PACKAGE}[{','.join(self.extras)}]" if self.extras else PACKAGE


def find_installation(prefix: Path = Path(sys.prefix), python: str = sys.executable) -> Installation:
    """Of the process that asks."""
    source = _source()
    return Installation(
        way="source" if source else way_of(prefix),
        prefix=prefix,
        python=python,
        extras=installed_extras(),
        source=source,
        pinned=_pinned(prefix),
    )


def way_of(prefix: Path) -> Way:
    """By what its installer left in the environment, or by where that lies."""
    if (prefix / "uv-receipt.toml").exists():
        return "uv"
    if (prefix / "pipx_metadata.json").exists():
        return "pipx"
    return "brew" if "Cellar" in prefix.parts else "pip"


def _source() -> str:
    """A folder of sources that is run as it lies there: an editable installation, or none at all."""
    try:
        told: Any = json.loads(importlib.metadata.distribution(PACKAGE).read_text("direct_url.json") or "{}")
    except importlib.metadata.PackageNotFoundError:
        told = {"dir_info": {"editable": True}}
    here = Path(__file__).resolve().parents[3]
    is_editable = bool(told.get("dir_info", {}).get("editable"))
    return str(here) if is_editable or (here / "pyproject.toml").exists() else ""


def _pinned(prefix: Path) -> str:
    """uv keeps what was asked for when the tool was installed."""
    try:
        receipt = tomllib.loads((prefix / "uv-receipt.toml").read_text())
    except (OSError, tomllib.TOMLDecodeError):
        return ""
    asked = receipt.get("tool", {}).get("requirements", [])
    return next((str(each.get("specifier", "")) for each in asked if each.get("name") == PACKAGE), "")


def upgrade_words(
    installation: Installation, links: str = "", which: Callable[[str], str | None] = shutil.which
) -> list[str]:
    """The command that upgrades it; `links` is one more place to look for releases. Raises `ConfigError` (failed) where
    there is none."""
    match installation.way:
        case "source":
            raise failed(f"this runs from the sources in {installation.source}: `git pull` there upgrades it")
        case "brew":
            return ["brew", "upgrade", PACKAGE]
        case "uv":
            return ["uv", "tool", "upgrade", PACKAGE, *(["--find-links", links] if links else [])]
        case "pipx":
            return ["pipx", "upgrade", PACKAGE, *([f"--pip-args=--find-links {links}"] if links else [])]
        case "pip":
            return [*_pip(installation, which), "--upgrade", installation.wanted, *_links(links)]


def look_words(
    installation: Installation, links: str = "", which: Callable[[str], str | None] = shutil.which
) -> list[str]:
    """The command that names the newest release and changes nothing; none where a package manager cannot tell."""
    if installation.way in ("source", "brew"):
        return []
    if installation.way == "pipx":
        pip = ["pipx", "runpip", PACKAGE, "install"]
    elif installation.way == "uv":
        pip = ["uv", "pip", "install", "--python", installation.python]
    else:
        pip = _pip(installation, which)
    return [*pip, "--dry-run", "--upgrade", installation.wanted, *_links(links)]


def _pip(installation: Installation, which: Callable[[str], str | None]) -> list[str]:
    if importlib.util.find_spec("pip") is not None:
        return [installation.python, "-m", "pip", "install", "--disable-pip-version-check"]
    if which("uv") is None:
        raise failed(f"{installation.prefix} has no pip, and uv is not on the PATH: install either, or install it anew")
    return ["uv", "pip", "install", "--python", installation.python]


def _links(links: str) -> Sequence[str]:
    return ["--find-links", links] if links else []


def release_in(said: str, but: str) -> str:
    """The release that would be installed, by what a package manager `said`; empty for none `but` what there is."""
    found = [release for release in _RELEASE.findall(_installs(said)) if release != but]
    return found[-1] if found else ""


def _installs(said: str) -> str:
    """The lines that tell what would be installed: pip's `Would install …`, uv's ` + name==release`."""
    lines = [line.strip() for line in said.splitlines()]
    return "\n".join(line for line in lines if line.startswith(("Would install", "+ ", "~ ")))
