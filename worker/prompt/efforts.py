"""Which words for reasoning effort a template takes, found out by trying; others become the nearest of them."""

from __future__ import annotations

from collections.abc import Sequence

from shared.errors import InvalidRequestError
from worker.prompt.template import Template

LADDER = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
VARIABLES = ("reasoning_effort", "thinking_effort")
# What models that are told an effort in words were trained on, unless their template names more.
_USUAL = ("low", "medium", "high")
_NONSENSE = "zzeffort"
_USER = [{"role": "user", "content": "."}]


class Efforts:
    """Of one template: by variable, the words that it takes, the least effort first. `is_strict`: others it refuses."""

    def __init__(self, template: Template) -> None:
        names = [name for name in VARIABLES if name in template.variables]
        self._known = {name: _find(template, name) for name in names}
        self._strict = frozenset(name for name in names if _rendered(template, name, _NONSENSE) is None)

    @property
    def variables(self) -> Sequence[str]:
        return tuple(self._known)

    @property
    def words(self) -> tuple[str, ...]:
        return next(iter(self._known.values()), ())

    def nearest(self, variable: str, wanted: str) -> str | None:
        """The word for an effort; a word of nobody's knowing as it is, and None where that would be refused."""
        known = self._known[variable]
        if wanted in known or not known:
            return wanted
        if wanted not in LADDER:
            return None if variable in self._strict else wanted
        if wanted != "none":
            # Who wants some reasoning is not given none; of two that are as near, the greater.
            known = tuple(word for word in known if word != "none") or known
        at = LADDER.index(wanted)
        return min(known, key=lambda word: (abs(LADDER.index(word) - at), -LADDER.index(word)))


def _find(template: Template, name: str) -> tuple[str, ...]:
    shown = {word: text for word in LADDER if (text := _rendered(template, name, word)) is not None}
    other = _rendered(template, name, _NONSENSE)
    if other is None:
        return tuple(shown)
    named = {word for word in shown if f"'{word}'" in template.source or f'"{word}"' in template.source}
    if _NONSENSE in other:  # it is written out, whatever it is
        named |= set(_USUAL)
    else:
        named |= {word for word, text in shown.items() if text != other}
    return tuple(word for word in shown if word in named)


def _rendered(template: Template, name: str, word: str) -> str | None:
    try:
        return template.render(_USER, (), {name: word}, header=True)
    except InvalidRequestError:
        return None
