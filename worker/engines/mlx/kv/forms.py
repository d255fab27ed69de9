"""What the arrays of a model's cache are like, as a pass of its own makes them, and whether those of a file are alike.

A file's checksums prove that it came as it was written, its key whose prefix it is. Neither proves that the model can
go on from what it holds: another host may have written anything there. So each of its arrays is compared, by name, type
and shape, with what this model keeps, before any is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from worker.cache_files.file_format import DamagedFileError, FileInfo, Shape
from worker.engines.mlx.kv.cache import Layout
from worker.engines.mlx.kv.classes import CacheClass, Kind, class_of
from worker.engines.mlx.kv.segment_file import Described, described, described_tokens

_SIDES = ("keys", "values")
_AXIS = 2  # of tokens
_MOST_TEXT = 300  # of what another host may have written, in a log
_MISFITS = (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)


@dataclass(frozen=True, slots=True)
class ArrayForm:
    """An array of one sequence's cache. What its axis of tokens has here says nothing."""

    dtype: Any
    shape: tuple[int, ...]

    @classmethod
    def of(cls, array: mx.array) -> ArrayForm:
        return cls(array.dtype, tuple(array.shape))

    def holding(self, tokens: int) -> ArrayForm:
        return ArrayForm(self.dtype, (*self.shape[:_AXIS], tokens, *self.shape[_AXIS + 1 :]))

    @property
    def described(self) -> Described:
        return described(self.dtype, self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafForm:
    """One leaf. `arrays` are its keys and values, or those of its state, by their paths there; `scalars` is what else
    is in its state, `name` its class, empty where it stands in no file."""

    kind: Kind
    window: int
    known: CacheClass
    name: str = ""
    arrays: Mapping[str, ArrayForm] = field(default_factory=dict)
    scalars: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, kind: Kind, window: int, leaf: Any) -> LeafForm:
        """Of a leaf that holds some tokens."""
        known = class_of(leaf)
        if kind != "state":
            arrays = dict(zip(_SIDES, map(ArrayForm.of, known.held(leaf)), strict=True))
            return cls(kind=kind, window=window, known=known, arrays=arrays)
        if not known.is_stored:
            return cls(kind=kind, window=window, known=known)
        state = dict(tree_flatten(leaf.state))
        arrays = {path: ArrayForm.of(each) for path, each in state.items() if isinstance(each, mx.array)}
        scalars = {path: each for path, each in state.items() if path not in arrays}
        return cls(kind=kind, window=window, known=known, name=type(leaf).__name__, arrays=arrays, scalars=scalars)

    def check(self, found: Mapping[str, Described], state: Any, info: FileInfo) -> None:
        """`found` are a file's arrays of this leaf, `state` what else it says of its state, None for nothing. Raises
        `DamagedFileError`, and what comes of content of another form."""
        if self.kind == "state":
            self._check_state(found, state, info)
        elif state is not None:
            raise DamagedFileError("a state where the model keeps tokens")
        elif self.kind == "tokens":
            self._check_tokens(found, info)
        else:
            self._check_window(found, info)

    def _check_tokens(self, found: Mapping[str, Described], info: FileInfo) -> None:
        expected: dict[str, Described] = {}
        for side, form in self.arrays.items():
            held = form.holding(info.end - info.start)
            is_packed = f"{side}.scales" in found
            expected.update(described_tokens(side, held.dtype, held.shape, is_packed=is_packed))
        _compare(found, expected)

    def _check_window(self, found: Mapping[str, Described], info: FileInfo) -> None:
        """The last tokens of the file, those of a window at the most; all of these at a checkpoint."""
        most = min(self.window, info.end - info.start)
        held = found["keys"][1][_AXIS] if found else 0
        if held > most or (info.is_checkpoint and held < most):
            raise DamagedFileError(f"{held} tokens of a window, of {most}")
        if found:
            _compare(found, {side: form.holding(held).described for side, form in self.arrays.items()})

    def _check_state(self, found: Mapping[str, Described], state: Any, info: FileInfo) -> None:
        if state is None:
            if found or info.is_checkpoint:
                raise DamagedFileError("no whole state where one is said to be")
            return
        if not self.name or state["class"] != self.name:
            raise DamagedFileError(f"a state of the class {state['class']!r} instead of {self.name!r}")
        tokens = {found[f"state.{path}"][1][_AXIS] for path in self.known.growing}
        if len(tokens) > 1:
            raise DamagedFileError(f"keys and values of {tokens} tokens")
        held = {
            path: form.holding(*tokens) if path in self.known.growing else form for path, form in self.arrays.items()
        }
        _compare(found, {f"state.{path}": form.described for path, form in held.items()})
        self._check_scalars(state["scalars"], next(iter(tokens), 0), info.end)

    def _check_scalars(self, scalars: Mapping[str, Any], tokens: int, depth: int) -> None:
        """Types, too: 1.0 and true are as good as 1 to Python, and nothing to mlx."""
        fixed = {path: each for path, each in self.scalars.items() if path not in self.known.counting}
        said = {path: each for path, each in scalars.items() if path not in self.known.counting}
        types = [(path, type(each)) for path, each in sorted(scalars.items())]
        is_alike = fixed == said and types == [(path, type(each)) for path, each in sorted(self.scalars.items())]
        if not is_alike or not self.known.can_stand_at(scalars, tokens, depth):
            raise DamagedFileError(f"a state that says of itself {dict(scalars)}")


@dataclass(frozen=True, slots=True)
class CacheForm:
    """Of all leaves, in the layout's order."""

    leaves: tuple[LeafForm, ...]

    @classmethod
    def of(cls, layout: Layout, flat: Sequence[Any]) -> CacheForm:
        """`flat` are the leaves of a cache that holds some tokens."""
        rows = zip(layout.kinds, layout.windows, flat, strict=True)
        return cls(tuple(LeafForm.of(kind, window, leaf) for kind, window, leaf in rows))

    def check(self, shape: Shape) -> None:
        """Raises `DamagedFileError` where the model could not go on from such a file."""
        try:
            self._check(shape)
        except _MISFITS as error:
            raise DamagedFileError(f"content does not fit the model: {type(error).__name__}: {error}") from error

    def _check(self, shape: Shape) -> None:
        states = json.loads(shape.states)
        arrays = _by_leaf(shape.tensors)
        known = set(map(str, range(len(self.leaves))))
        if strange := sorted({*states, *arrays} - known):
            raise DamagedFileError(f"the model has {len(self.leaves)} layers, and none that is {strange[0][:8]!r}")
        for index, leaf in enumerate(self.leaves):
            try:
                leaf.check(arrays.get(str(index), {}), states.get(str(index)), shape.info)
            except DamagedFileError as error:
                raise DamagedFileError(f"layer {index} does not fit the model: {error}"[:_MOST_TEXT]) from error


def _by_leaf(tensors: Mapping[str, Described]) -> dict[str, dict[str, Described]]:
    found: dict[str, dict[str, Described]] = {}
    for name, entry in tensors.items():
        index, _, rest = name.partition(".")
        found.setdefault(index, {})[rest] = entry
    return found


def _compare(found: Mapping[str, Described], expected: Mapping[str, Described]) -> None:
    if found != expected:
        raise DamagedFileError("; ".join(_differences(found, expected)))


def _differences(found: Mapping[str, Described], expected: Mapping[str, Described]) -> Iterator[str]:
    for name in sorted({*found, *expected}):
        if found.get(name) != expected.get(name):
            yield f"{name} is {_said(found.get(name))} instead of {_said(expected.get(name))}"


def _said(entry: Described | None) -> str:
    return "not there" if entry is None else f"{entry[0]}{list(entry[1])} in {entry[2]} bytes"
