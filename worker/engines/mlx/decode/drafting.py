"""Guesses of what a model will say next, and whether guessing pays. Pure: no tensors, no clock.

A draft is verified by the model in one pass over all its tokens, which costs less than one pass for each; what the
model would not have said itself is dropped. So a draft can never change an answer, only the time it takes.
"""

from __future__ import annotations

import statistics
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

MOST_DRAFTED = 16

_SHORT, _LONG = 3, 8  # tokens that must agree
_LONGEST_MATCH = 32
_MOST_TRIED = 12  # places per length
_MOST_CHANGED = 32  # tokens, until a text that was repeated counts as another one
_SHIFTS = (0, 1, -1, 2, -2, 3, -3)  # what may have been put in or left out
_TABLE_BITS = 16
_INDEXED_PER_CALL = 4096  # one or two milliseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What may come next. `matched` tokens before it agreed with the place it was taken from."""

    tokens: tuple[int, ...]
    matched: int


class _Places:
    """Where the same `length` tokens stood before, latest first: the hash chains of LZ77 compressors
    (RFC 1951, section 4). A place is the index of the token that follows. Hashes may collide."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._mask = (1 << _TABLE_BITS) - 1
        self._latest = array("i", [-1]) * (1 << _TABLE_BITS)
        self._earlier = array("i")

    def add(self, tokens: Sequence[int], end: int) -> None:
        """Take in the places up to and without `end`."""
        length, mask, latest, earlier = self._length, self._mask, self._latest, self._earlier
        while len(earlier) < min(length, end):
            earlier.append(-1)
        if end <= length:
            return
        start = len(earlier) - length  # of the tokens before the first new place
        grams = zip(*(tokens[start + offset : end - length + offset] for offset in range(length)), strict=True)
        for place, gram in enumerate(grams, start + length):
            slot = hash(gram) & mask
            earlier.append(latest[slot])
            latest[slot] = place

    def of_last(self, tokens: Sequence[int]) -> Iterator[int]:
        """Places that the last tokens may have stood before."""
        place = self._latest[hash(tuple(tokens[-self._length :])) & self._mask]
        while place >= 0:
            yield place
            place = self._earlier[place]


class Lookup:
    """Prompt-lookup drafting (https://github.com/apoorvumang/prompt-lookup-decoding): text that is being repeated
    goes on as it did the last time. The longest agreement wins, then the latest. Behind a change in a repeated text
    the rest of it is expected, before any of it agrees again."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = list(tokens)
        self._places = (_Places(_LONG), _Places(_SHORT))
        self._indexed = 0
        self._source = (0, 0)  # the place of the last long agreement, and how long the text was then

    def __len__(self) -> int:
        return len(self._tokens)

    @property
    def tokens(self) -> Sequence[int]:
        """Everything so far. Not to be changed."""
        return self._tokens

    def extend(self, tokens: Sequence[int]) -> None:
        """These came next."""
        self._tokens.extend(tokens)

    def draft(self, most: int) -> Draft | None:
        """At most `most` tokens that may come next. None when there is nothing to go by, and during the first calls on
        a long text: it is read piece by piece, so that no call takes long."""
        tokens = self._tokens
        end = min(len(tokens), self._indexed + _INDEXED_PER_CALL)
        for places in self._places:
            places.add(tokens, end)
        self._indexed = end
        if end < len(tokens) or most <= 0:
            return None
        best, matched = self._best()
        if matched >= _LONG:
            self._source = (best, len(tokens))
        elif matched < _SHORT:
            best, matched = self._near()
        if not best:
            return None
        distance = len(tokens) - best
        drafted: list[int] = []
        for offset in range(most):  # beyond the end of the text the draft repeats itself
            drafted.append(tokens[best + offset] if offset < distance else drafted[offset - distance])
        return Draft(tokens=tuple(drafted), matched=matched)

    def _best(self) -> tuple[int, int]:
        """The place with the longest agreement, and how long that is."""
        best = matched = 0
        for places in self._places:
            for _, place in zip(range(_MOST_TRIED), places.of_last(self._tokens), strict=False):
                agreed = self._agreement(place)
                if agreed > matched:
                    best, matched = place, agreed
                if agreed == _LONGEST_MATCH:
                    break
            if matched >= _LONG:
                break
        return best, matched

    def _near(self) -> tuple[int, int]:
        """Where the text goes on if it is still the one that was last repeated, with a few tokens changed."""
        source, length = self._source
        changed = len(self._tokens) - length
        if not source or changed > _MOST_CHANGED:
            return 0, 0
        aligned = source + changed
        for shift in _SHIFTS:
            place = aligned + shift
            if 0 < place < len(self._tokens) and (agreed := self._agreement(place)):
                return place, agreed
        return aligned, 0

    def _agreement(self, place: int) -> int:
        tokens = self._tokens
        last, agreed, most = len(tokens) - 1, 0, min(_LONGEST_MATCH, place)
        while agreed < most and tokens[place - 1 - agreed] == tokens[last - agreed]:
            agreed += 1
        return agreed


_SIZES = (1, 2, 3, 4, 6, 8, 12, MOST_DRAFTED)
_FIRST_SIZE = 4
_CLASSES = (3, 5, 9, 17)  # lengths of agreement that are told apart
_LEAST_GAIN = 1.05
_REMEMBERED = 7  # passes whose seconds count, per size
_LEAST_PLAIN = 3
_PLAIN_EVERY = 128  # passes: how fast it goes without drafts must not be forgotten
_FADE = 0.97  # per token verified
_FIRST_SHARE, _FIRST_WEIGHT = 0.7, 2.0
_FIRST_PATIENCE, _MOST_PATIENCE = 16, 1024


@dataclass(slots=True)
class _Chance:
    """How often a drafted token is right, by recent experience, and how long to leave it when that does not pay."""

    right: float = _FIRST_SHARE * _FIRST_WEIGHT
    tried: float = _FIRST_WEIGHT
    skipped: int = 0
    patience: int = _FIRST_PATIENCE

    def observe(self, drafted: int, accepted: int) -> None:
        for token in range(min(drafted, accepted + 1)):
            self.right = self.right * _FADE + (token < accepted)
            self.tried = self.tried * _FADE + 1

    def tokens(self, drafted: int) -> float:
        """Expected from one pass, with the one that the model always adds."""
        share = min(self.right / self.tried, 0.999)
        return float((1 - share ** (drafted + 1)) / (1 - share))


class PassSeconds:
    """Seconds of a pass by the number of tokens drafted, 0 meaning none: the median of the last few of each size."""

    def __init__(self) -> None:
        self._seen: dict[int, deque[float]] = {}

    def observe(self, drafted: int, seconds: float) -> None:
        self._seen.setdefault(drafted, deque(maxlen=_REMEMBERED)).append(seconds)

    def seen(self, drafted: int) -> int:
        return len(self._seen.get(drafted, ()))

    @property
    def largest(self) -> int:
        return max(self._seen, default=0)

    def predict(self, drafted: int) -> float:
        """From the sizes seen, on a straight line between two of them; beyond the largest as between it and 0."""
        if drafted in self._seen:
            return statistics.median(self._seen[drafted])
        below = max(size for size in self._seen if size < drafted)
        above = min((size for size in self._seen if size > drafted), default=0)
        low = self.predict(below)
        if above:
            return low + (self.predict(above) - low) * (drafted - below) / (above - below)
        slope = max(0.0, low - self.predict(0)) / below if below else 0.0
        return low + slope * (drafted - below)


@dataclass(slots=True)
class Payoff:
    """Decides by what was measured how many tokens of a draft are worth verifying, if any.

    Drafts are told apart by how long an agreement they rest on. Where drafting does not pay it is tried again after
    16 chances, and after twice as many each time that it still does not.
    """

    seconds: PassSeconds = field(default_factory=PassSeconds)
    passes: int = 0
    drafted: int = 0
    accepted: int = 0
    _chances: list[_Chance] = field(default_factory=lambda: [_Chance() for _ in range(len(_CLASSES) + 1)])
    _since_plain: int = 0

    def choose(self, matched: int, available: int) -> tuple[int, float]:
        """How many of `available` drafted tokens to verify, and the tokens per second that may be expected of it.
        (0, …) when a pass without them is better."""
        if self.seconds.seen(0) < _LEAST_PLAIN or self._since_plain >= _PLAIN_EVERY:
            return 0, 0.0
        chance = self._chance(matched)
        known = max(_FIRST_SIZE, 2 * self.seconds.largest)
        sizes = [size for size in _SIZES if size <= min(available, known)]
        if not sizes:
            return 0, 0.0
        rates = {size: chance.tokens(size) / self.seconds.predict(size) for size in sizes}
        best = max(sizes, key=lambda size: rates[size])
        if rates[best] * self.seconds.predict(0) >= _LEAST_GAIN:
            return best, rates[best]
        if chance.skipped >= chance.patience:
            return min(sizes[-1], _FIRST_SIZE), rates[best]
        return 0, 0.0

    def skip(self, matched: int) -> None:
        """A chance to draft was not taken."""
        self._chance(matched).skipped += 1

    def observe_plain(self, seconds: float) -> None:
        """A pass without drafts gave one token."""
        self.seconds.observe(0, seconds)
        self._since_plain = 0

    def observe(self, *, matched: int, drafted: int, accepted: int, seconds: float) -> None:
        """A pass verified `drafted` tokens, of which the first `accepted` were right."""
        self.passes += 1
        self.drafted += drafted
        self.accepted += accepted
        self._since_plain += 1
        chance = self._chance(matched)
        chance.observe(drafted, accepted)
        self.seconds.observe(drafted, seconds)
        chance.skipped = 0
        pays = self.seconds.seen(0) > 0 and (accepted + 1) * self.seconds.predict(0) >= _LEAST_GAIN * seconds
        chance.patience = _FIRST_PATIENCE if pays else min(2 * chance.patience, _MOST_PATIENCE)

    def _chance(self, matched: int) -> _Chance:
        return self._chances[sum(matched >= length for length in _CLASSES)]
