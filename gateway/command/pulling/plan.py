"""What is fetched of a repository, and whether this machine has room for it: pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, Literal

from gateway.command.ends import failed, not_there
from shared.cache_size import CacheSize

_GB: Final = 1e9
_SHARE: Final = 0.75  # of the memory that a Mac's GPU may use, as macOS has it
_BESIDE: Final = 1.1  # what a model takes beside its weights: buffers, and a short conversation
_ROOMY: Final = 0.8  # of what may be used: the rest is for long conversations
_LEFT_BYTES: Final = 2e9  # of a disk, which the system needs
_PART: Final = re.compile(r"-\d{5}-of-\d{5}(?=\.gguf$)")
_LABEL: Final = re.compile(
    r"(?:^|[-_.])((?:UD-)?(?:IQ|TQ|Q)\d+[A-Z0-9_]*|BF16|F16|F32|MXFP4\w*)(?=[-.]|$)", re.IGNORECASE
)
_NEEDED: Final = re.compile(r"\.(json|safetensors|jinja|txt|model|tiktoken)$")
_PROJECTOR: Final = "mmproj"

Kind = Literal["mlx", "gguf"]
Fit = Literal["fits", "tight", "no"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """`label` names the quantisation of a GGUF file; `others` are those that were not chosen, smallest first."""

    kind: Kind
    files: tuple[HubFile, ...]
    label: str = ""
    others: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    @property
    def needed_bytes(self) -> float:
        """Of memory, about, to run it."""
        return self.size_bytes * _BESIDE


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    memory_bytes: int
    disk_bytes: int  # free

    @property
    def usable_bytes(self) -> float:
        return self.memory_bytes * _SHARE


def fit_of(size_bytes: float, machine: Machine) -> Fit:
    """Whether a model of this size runs there: with room for long conversations, for short ones, or not at all."""
    needed_bytes = size_bytes * _BESIDE
    if needed_bytes > machine.usable_bytes:
        return "no"
    return "fits" if needed_bytes <= machine.usable_bytes * _ROOMY else "tight"


def fit_with(size_bytes: float, cache: CacheSize, tokens: int, machine: Machine) -> Fit:
    """The same with a sequence of so many tokens in its cache: `tight` where only a shorter one has room."""
    left_bytes = _left_bytes(size_bytes, machine)
    if left_bytes < 0:
        return "no"
    return "fits" if cache.predict(tokens) <= left_bytes else "tight"


def most_tokens(size_bytes: float, cache: CacheSize, machine: Machine) -> int:
    """The longest sequence that has room beside the weights."""
    return max(0, cache.fitting_tokens(max(0, _left_bytes(size_bytes, machine))))


def _left_bytes(size_bytes: float, machine: Machine) -> int:
    return int(machine.usable_bytes - size_bytes * _BESIDE)


def choose(model: str, files: Sequence[HubFile], machine: Machine, wanted: str = "") -> Choice:
    """`wanted` is a quantisation. Raises `ConfigError` where there is nothing to run, or nothing that fits."""
    groups = _gguf_groups(files)
    if groups:
        return _choose_gguf(model, groups, machine, wanted)
    if wanted:
        raise not_there(f"{model} holds no GGUF files, so there is no quantisation to choose")
    needed = tuple(file for file in files if _NEEDED.search(file.name) and "/" not in file.name)
    names = {file.name for file in needed}
    if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
        raise not_there(f"{model} holds neither GGUF files nor config.json with safetensors: nothing here could run it")
    return Choice(kind="mlx", files=needed)


def _gguf_groups(files: Iterable[HubFile]) -> list[Choice]:
    """Each model of the repository with all of its parts, smallest first."""
    ggufs = [file for file in files if file.name.endswith(".gguf") and _PROJECTOR not in file.name.lower()]
    ggufs.sort(key=lambda file: file.name)
    found = []
    for whole, parts in groupby(ggufs, lambda file: _PART.sub("", file.name)):
        label = _LABEL.search(whole.removesuffix(".gguf"))
        found.append(Choice(kind="gguf", files=tuple(parts), label=label[1].upper() if label else whole))
    return sorted(found, key=lambda choice: choice.size_bytes)


def _choose_gguf(model: str, groups: Sequence[Choice], machine: Machine, wanted: str) -> Choice:
    """The largest that fits: it is the nearest to the model as it was trained."""
    there = ", ".join(f"{each.label} ({each.size_bytes / _GB:.1f} GB)" for each in groups)
    if wanted:
        named = [each for each in groups if each.label == wanted.upper()]
        if not named:
            raise not_there(f"{model} has no {wanted}; there are: {there}")
        chosen = named[-1]
    else:
        fitting = [each for each in groups if each.needed_bytes <= machine.usable_bytes]
        if not fitting:
            usable = machine.usable_bytes / _GB
            raise failed(f"nothing of {model} fits the {usable:.1f} GB that a model may use here; there are: {there}")
        chosen = fitting[-1]
    others = tuple(each.label for each in groups if each is not chosen)
    return Choice(kind="gguf", files=chosen.files, label=chosen.label, others=others)


def told(model: str, choice: Choice, machine: Machine) -> list[str]:
    """What a person reads before anything is fetched."""
    what = f"{choice.kind} {choice.label}".strip()
    lines = [f"{model}: {what}, {len(choice.files)} files, {choice.size_bytes / _GB:.2f} GB"]
    fits = choice.needed_bytes <= machine.usable_bytes
    usable = f"{machine.usable_bytes / _GB:.1f} GB may be used here{'' if fits else ': IT DOES NOT FIT'}"
    lines.append(f"about {choice.needed_bytes / _GB:.1f} GB of memory to run; {usable}")
    if choice.others:
        lines.append(f"also there (--quantization): {', '.join(choice.others)}")
    return lines


def check_disk(choice: Choice, machine: Machine, fetched_bytes: int = 0) -> None:
    """Raises `ConfigError` where what is left to fetch has no room."""
    missing = choice.size_bytes - fetched_bytes + _LEFT_BYTES - machine.disk_bytes
    if missing > 0:
        raise failed(f"the disk lacks {missing / _GB:.1f} GB for it ({machine.disk_bytes / _GB:.1f} GB are free)")
