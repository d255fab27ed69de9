"""What an installation brings along, read from the lock file that `make` installs from."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK_TEXT = (ROOT / "uv.lock").read_text()
LOCK: dict[str, Any] = tomllib.loads(LOCK_TEXT)
PACKAGES = {package["name"]: package for package in LOCK["package"]}
MODEL_STACK = {"mlx", "mlx-lm", "mlx-metal", "mlx-cpu", "transformers", "torch", "numpy", "llguidance", "jinja2"}


def _closure(*wanted: str, extra: str = "") -> set[str]:
    """Everything that comes with these packages on any platform (markers are ignored)."""
    found: set[tuple[str, str]] = set()
    names = {(name, "") for name in wanted} | {(name, extra) for name in wanted if extra}
    while names:
        found |= names
        needs = [need for name, which in names for need in _needs(PACKAGES[name], which)]
        following = {(need["name"], which) for need in needs for which in ("", *need.get("extra", ()))}
        names = following - found
    return {name for name, _ in found}


def _needs(package: dict[str, Any], extra: str) -> list[dict[str, Any]]:
    needs: list[dict[str, Any]] = package.get("optional-dependencies", {}).get(extra, []) if extra else []
    return needs or package.get("dependencies", [])


def _name(requirement: str) -> str:
    return re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0]


def test_a_gateway_alone_brings_no_model_stack() -> None:
    assert _closure("mlx-gateway") & MODEL_STACK == set()


def test_the_mlx_extra_brings_mlx_for_macos_and_its_cpu_build_for_linux() -> None:
    wanted = PROJECT["project"]["optional-dependencies"]["mlx"]
    assert "mlx>=0.32; sys_platform == 'darwin'" in wanted
    assert "mlx[cpu]>=0.32; sys_platform == 'linux'" in wanted
    assert {"mlx", "mlx-lm", "mlx-cpu", "mlx-metal"} <= _closure("mlx-gateway", extra="mlx")


def test_the_lock_is_up_to_date_with_the_project() -> None:
    """`uv lock` writes it anew."""
    project = PROJECT["project"]
    wanted = [*project["dependencies"], *(r for rs in project["optional-dependencies"].values() for r in rs)]
    locked = PACKAGES["mlx-gateway"]["metadata"]
    assert sorted(map(_name, wanted)) == sorted(need["name"] for need in locked["requires-dist"])
    specifiers = {need["name"]: set(need.get("specifier", "").split(",")) for need in locked["requires-dist"]}
    for requirement in wanted:
        specifier = re.sub(r"^[\w.-]+(\[.*?\])?", "", requirement.partition(";")[0]).strip()
        assert specifiers[_name(requirement)] == set(specifier.split(","))
    groups = {name: sorted(map(_name, needs)) for name, needs in PROJECT["dependency-groups"].items()}
    assert groups == {name: sorted(n["name"] for n in needs) for name, needs in locked["requires-dev"].items()}


def test_the_lock_names_no_place_but_the_public_index() -> None:
    hosts = {urlsplit(url).hostname for url in re.findall(r'"(\w+://[^"]*)"', LOCK_TEXT)}
    assert hosts == {"pypi.org", "files.pythonhosted.org"}


def test_every_package_of_ours_is_in_the_wheel() -> None:
    assert set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) == {"gateway", "worker", "shared"}
    assert (ROOT / "worker" / "demo_model" / "model.safetensors").is_file()
    assert (ROOT / "shared" / "guard.py").is_file()


def test_what_we_use_below_its_interface_is_pinned_to_the_versions_that_we_know() -> None:
    """Their private parts are listed and tested where they are used."""
    project = PROJECT["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["mlx"]]
    bounded = {_name(requirement) for requirement in wanted if "<" in requirement.partition(";")[0]}
    assert {"redis", "rq", "mlx-lm"} <= bounded


def test_an_installation_says_under_which_license_it_is() -> None:
    assert PROJECT["project"]["license"] == "MIT"
    assert PROJECT["project"]["license-files"] == ["LICENSE"]
    assert (ROOT / "LICENSE").read_text().startswith("MIT License\n")
    assert "LICENSE" in (ROOT / "deploy" / "Dockerfile").read_text()


def test_make_installs_the_same_with_uv_and_without() -> None:
    text = (ROOT / "Makefile").read_text()
    with_uv = {frozenset(re.findall(r"--extra (\w+)", line)) for line in re.findall(r"\$\(UV\) sync .*", text)}
    without = {frozenset(found.split(",")) for found in re.findall(r"--editable '\.\[([\w,]+)\]'", text)}
    assert with_uv == without == {frozenset(("mlx", "gguf"))}
