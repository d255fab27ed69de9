"""Which of the files that somebody has lead along a prompt: by what their headers say, before anything else is read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from worker.cache_files.file_format import FileInfo
from worker.prefix_cache.node import key_of
from worker.prefix_cache.tokens import common_tokens, count_tokens, slice_tokens


def whole_prefixes(infos: Iterable[FileInfo]) -> dict[bytes, bytes]:
    """By key, all tokens from the first to the file's last; of files whose parents are there."""
    whole: dict[bytes, bytes] = {b"": b""}
    for info in sorted(infos, key=lambda info: (info.start, info.end)):
        above = whole.get(info.parent)
        if above is not None and count_tokens(above) >= info.start:
            whole[info.key] = slice_tokens(above, 0, info.start) + info.tokens
    del whole[b""]
    return whole


def misnamed(infos: Iterable[FileInfo]) -> list[FileInfo]:
    """Those whose key is not that of the tokens that lead to their end, or of which that cannot be said: a peer could
    have such a file take the name of another prefix."""
    whole: dict[tuple[bytes, bytes], bytes] = {}
    found = []
    for info in sorted(infos, key=lambda info: (info.start, info.end)):
        above = whole.get((info.seed, info.parent)) if info.parent else b""
        is_joined = above is not None and 0 <= info.start <= count_tokens(above) and bool(info.tokens)
        tokens = slice_tokens(above or b"", 0, info.start) + info.tokens
        if is_joined and key_of(info.seed, tokens) == info.key:
            whole[info.seed, info.key] = tokens
        else:
            found.append(info)
    return found


def leading_along(infos: Sequence[FileInfo], prompt: bytes, *, is_divisible: bool) -> tuple[list[FileInfo], int]:
    """The files, parents before children, with which one comes furthest along the prompt, and how far: to any depth
    where prefixes can be resumed anywhere, else to a checkpoint."""
    agreed: dict[bytes, int] = {b"": 0}
    by_key = {info.key: info for info in infos}
    best, furthest = b"", 0
    for info in sorted(infos, key=lambda info: (info.start, info.end)):
        if agreed.get(info.parent, -1) < info.start:
            continue
        rest = slice_tokens(prompt, info.start, info.end)
        common = agreed[info.key] = info.start + common_tokens(info.tokens, rest)
        can_resume = is_divisible or (common == info.end and info.is_checkpoint)
        if can_resume and common > furthest:
            best, furthest = info.key, common
    way = []
    while best:
        way.append(by_key[best])
        best = by_key[best].parent
    return way[::-1], furthest
