"""Cache files that lie: whole, with right checksums and under right names, but with arrays that no model made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from worker.cache_files.file_format import FileWriter, MappedFile, Shape

_DTYPE_BYTES = {"U8": 1, "F16": 2, "BF16": 2, "F32": 4, "U32": 4, "I64": 8}
Described = tuple[str, tuple[int, ...], int]


def of_zeros(dtype: str, shape: tuple[int, ...]) -> Described:
    """As a file describes such an array."""
    count = 1
    for size in shape:
        count *= size
    return dtype, shape, count * _DTYPE_BYTES[dtype]


def forge(path: Path, lie: Callable[[Shape], Shape]) -> None:
    """Write the file again as one of the shape that `lie` makes of its own, of zeros."""
    writer = FileWriter(lie(MappedFile(path).shape), path)
    writer.begin()
    for _, _, nbytes in lie(MappedFile(path).shape).tensors.values():
        if nbytes:
            writer.add(bytes(nbytes))
    writer.end()
