"""Who answers by what a request is: `rules` of `claude_routing.json`.

    {"rules": [{"classes": ["side"], "model": "small"}, {"images": true, "model": "eyes"},
               {"asked": ["opus"], "least_prompt_bytes": 400000, "model": "long"}]}

The first rule that fits counts. One that does not say for which names it is (`asked`: tiers, aliases, models) is for
those of a vendor's own that leave the choice to us: who asks for a model by its name gets that model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.models.resolve import VendorNames
from shared import wire
from shared.options import MOST_WHOLE, Option, raise_first, unknown_names, value_faults
from shared.request import PRIORITIES, GenerateRequest, PackedRequest

_FILE: Final = "claude_routing.json"
RULE: Final[Mapping[str, Option]] = {
    "model": Option(is_needed=True),
    "asked": Option(kind="texts", is_needed=True),
    "classes": Option(kind="texts", is_needed=True),
    "tools": Option(kind="flag"),
    "images": Option(kind="flag"),
    "least_prompt_bytes": Option(kind="whole"),
    "most_prompt_bytes": Option(kind="whole"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """Of a request. `prompt_bytes` are those of its text and tools; an image counts as some of them."""

    name: str
    priority: str
    has_tools: bool
    has_images: bool
    prompt_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What is empty or None fits any request. `number` counts from 1."""

    number: int
    model: str
    asked: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    tools: bool | None = None
    images: bool | None = None
    least_prompt_bytes: int = 0
    most_prompt_bytes: int | None = None

    def fits(self, traits: Traits, vendors: Sequence[VendorNames]) -> bool:
        return (
            self._is_for(traits.name, vendors)
            and (not self.classes or traits.priority in self.classes)
            and self.tools in (None, traits.has_tools)
            and self.images in (None, traits.has_images)
            and self.least_prompt_bytes <= traits.prompt_bytes
            and (self.most_prompt_bytes is None or traits.prompt_bytes <= self.most_prompt_bytes)
        )

    def _is_for(self, name: str, vendors: Sequence[VendorNames]) -> bool:
        if not self.asked:
            return any(vendor.owns(name) for vendor in vendors)
        tiers = [each.lower() for each in self.asked]
        return name in self.asked or any(vendor.tier_of(name, tiers) for vendor in vendors)


def traits_of(request: GenerateRequest) -> Traits:
    """`request.model` is the client's name for it."""
    packed = request.packed if isinstance(request, PackedRequest) else wire.pack(request).packed
    return Traits(
        name=request.model,
        priority=request.priority,
        has_tools=bool(packed.tools),
        has_images=packed.chain.images > 0,
        prompt_bytes=packed.chain.text_bytes,
    )


def parse_rules(data: Any) -> tuple[Rule, ...]:
    """Raises `ConfigError`."""
    raise_first(rules_faults(data))
    entries = data.get("rules", ()) if isinstance(data, dict) else ()
    return tuple(_rule(number, entry) for number, entry in enumerate(entries, 1))


def _rule(number: int, entry: Mapping[str, Any]) -> Rule:
    lists = {name: tuple(entry[name]) for name in ("asked", "classes") if name in entry}
    return Rule(number=number, **{**entry, **lists})


def rules_faults(data: Any) -> Iterator[str]:
    """One line for each."""
    entries = data.get("rules", []) if isinstance(data, dict) else []
    if not isinstance(entries, list):
        yield f'{_FILE}: expected "rules": [{{"classes": ["side"], "model": "small"}}, …]'
        return
    for number, entry in enumerate(entries, 1):
        yield from _faults(f"{_FILE}: rule {number}", entry)


def _faults(where: str, entry: Any) -> Iterator[str]:
    if not isinstance(entry, dict) or "model" not in entry:
        yield f"{where} needs a `model`"
        return
    found = [*unknown_names(where, RULE, entry), *value_faults(where, RULE, entry)]
    yield from found
    if found:
        return
    for name in entry.get("classes", ()):
        if name not in PRIORITIES:
            yield f"{where}: there is no class {name!r}; there are {', '.join(PRIORITIES)}"
    if not any(_narrows(name, value) for name, value in entry.items()):
        yield f"{where} says nothing of the request: a tier or an alias is what does that"
    least, most = entry.get("least_prompt_bytes", 0), entry.get("most_prompt_bytes", MOST_WHOLE)
    if least > most:
        yield f"{where} fits nothing: no prompt has at least {least} bytes and at most {most}"


def _narrows(name: str, value: Any) -> bool:
    """Whether some request does not fit."""
    if name in ("classes", "least_prompt_bytes"):
        return bool(value)
    return name not in ("model", "asked")
