"""How each family of models marks its reasoning: the one table for answers, prompts, grammars and what is said at load.

Reasoning stands between two markers, and some families put the answer that follows into markers of its own. Nothing
here reads or writes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Reasoning:
    """`start` and `end` stand around reasoning. Where the template shows no form of its own, `frame` stands inside them
    and `gap` between the end and the answer.

    `answer_start` and `answer_end` stand around the answer (empty: nothing does): behind reasoning only, or with
    `wraps_always` without it, too. `is_phrase`: the markers are words, which mean reasoning only where an answer begins
    with them. `signs`: one of them has to stand in a template, too, where others use the same markers for something
    else (MiniMax M2 puts tool results between those of Granite's answers), or the template puts an answer between them.
    `between` are markers that may stand between the parts of an answer, and mean nothing there.
    """

    name: str
    start: str
    end: str
    frame: str = ""
    gap: str = ""
    answer_start: str = ""
    answer_end: str = ""
    wraps_always: bool = False
    is_phrase: bool = False
    signs: tuple[str, ...] = ()
    between: tuple[str, ...] = ()

    @property
    def closing(self) -> str:
        """The end, and what always stands between it and whatever comes next."""
        return self.end + self.gap.strip()

    def is_shown(self, source: str, vocabulary: Collection[str], lead: str) -> bool:
        """Whether a chat template begins reasoning so; its other markers may be known from the vocabulary alone. `lead`
        is what it writes before an answer."""
        others = filter(None, (self.end, self.answer_start))
        is_named = self.start in source and all(other in source or other in vocabulary for other in others)
        return is_named and (not self.signs or any(sign in source for sign in self.signs) or self._leads(lead))

    def _leads(self, lead: str) -> bool:
        return bool(self.answer_start) and lead.rstrip().endswith(self.answer_start)

    def is_spelled(self, vocabulary: Collection[str]) -> bool:
        """Whether all of its markers are tokens, and mean nothing else elsewhere."""
        return not self.signs and all(
            marker in vocabulary for marker in (self.start, self.end, self.answer_start) if marker
        )


_PLAIN = Reasoning(name="think", start="<think>", end="</think>", frame="\n", gap="\n\n")
NO_REASONING = Reasoning(name="", start="", end="")
# Of a model that nothing is known of: many that were trained on others' answers reason so, without a word of it in
# their template. Only what begins an answer counts then.
UNSHOWN = replace(_PLAIN, is_phrase=True)

# Where a template shows several, the first counts; what has the markers of another and more comes before it.
_TABLE = (
    Reasoning(name="seed_oss", start="<seed:think>", end="</seed:think>", gap="\n"),
    Reasoning(name="apertus", start="<|inner_prefix|>", end="<|inner_suffix|>"),
    Reasoning(
        name="cohere",
        start="<|START_THINKING|>",
        end="<|END_THINKING|>",
        answer_start="<|START_RESPONSE|>",
        answer_end="<|END_RESPONSE|>",
        wraps_always=True,
    ),
    Reasoning(name="mistral", start="[THINK]", end="[/THINK]"),
    Reasoning(name="gemma4", start="<|channel>thought", end="<channel|>", frame="\n"),
    Reasoning(
        name="solar",
        start="<|think|>",
        end="<|end|>",
        gap="<|begin|>assistant",
        answer_start="<|content|>",
        answer_end="<|end|>",
        wraps_always=True,
        between=("<|begin|>assistant", "<|calls|>", "<|flush|>"),
    ),
    Reasoning(name="hunyuan3", start="<think:opensource>", end="</think:opensource>", frame="\n", gap="\n"),
    Reasoning(name="kimi_vl", start="◁think▷", end="◁/think▷"),
    Reasoning(name="kimi_k3", start="<|open|>think<|sep|>", end="<|close|>think<|sep|>"),
    Reasoning(name="longcat", start="<longcat_think>", end="</longcat_think>", frame="\n", gap="\n"),
    Reasoning(name="minicpm", start="<|thought_start|>", end="<|thought_end|>", frame="\n", gap="\n"),
    Reasoning(name="exaone_deep", start="<thought>", end="</thought>", frame="\n", gap="\n\n"),
    Reasoning(
        name="apriel",
        start="Here are my reasoning steps:",
        end="[BEGIN FINAL RESPONSE]",
        frame="\n",
        gap="\n",
        answer_end="[END FINAL RESPONSE]",
        is_phrase=True,
    ),
    Reasoning(
        name="granite32",
        start="Here is my thought process:",
        end="Here is my response:",
        frame="\n",
        gap="\n",
        is_phrase=True,
    ),
    Reasoning(
        name="think_response",  # Granite 3.3, ERNIE 4.5
        start="<think>",
        end="</think>",
        gap="\n",
        answer_start="<response>",
        answer_end="</response>",
        signs=("<response></response>", *(f"</think>{gap}<response>" for gap in ("", "\n", "\n\n", "\\n", "\\n\\n"))),
    ),
    Reasoning(
        name="think_answer",  # Hunyuan
        start="<think>",
        end="</think>",
        frame="\n",
        gap="\n",
        answer_start="<answer>",
        answer_end="</answer>",
        wraps_always=True,
    ),
    _PLAIN,
)

REASONING_FAMILIES: Mapping[str, Reasoning] = {family.name: family for family in _TABLE}


# What ends reasoning in any family, but for words and for what ends other things, too.
ENDS = tuple(dict.fromkeys(family.end for family in _TABLE if not family.is_phrase and family.end != family.answer_end))


def shown_reasoning(
    source: str, vocabulary: Collection[str], known: tuple[str, str] | None = None, lead: str = ""
) -> Reasoning | None:
    """The family whose reasoning the `source` of a chat template shows (`lead` is what it writes before an answer),
    else that of the markers which somebody else has found (`known`), else the vocabulary's. None where nothing shows
    any."""
    special = (family for family in _TABLE if family is not _PLAIN and family.is_shown(source, vocabulary, lead))
    if (family := next(special, None)) is not None:
        return family
    if known is not None:
        alike = (family for family in reversed(_TABLE) if (family.start, family.end) == known)
        return next(alike, None) or Reasoning(name="unnamed", start=known[0], end=known[1], frame="\n", gap="\n\n")
    if _PLAIN.is_shown(source, vocabulary, lead):
        return _PLAIN
    return next((family for family in _TABLE if family.is_spelled(vocabulary)), None)
