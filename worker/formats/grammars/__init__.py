"""Grammars of tool calls for the families of `worker.formats.families`: only text that is read as a call of an offered
tool with arguments that fit its schema."""

from collections.abc import Mapping

from worker.formats.families import FAMILIES, Braces, Family, Headed, Objects, Python, Tagged
from worker.formats.grammars.base import CallForm, UnwritableError
from worker.formats.grammars.braces import BraceForm
from worker.formats.grammars.headers import HarmonyForm, HeadedForm, MistralForm, ObjectsForm
from worker.formats.grammars.lark import SPACE, Rules
from worker.formats.grammars.pythonic import PythonicForm
from worker.formats.grammars.tagged import TaggedForm


def call_form(family: Family) -> CallForm | None:
    """None where the family's calls cannot be enforced."""
    match family.shape:
        case Tagged() as shape:
            return TaggedForm(family, shape)
        case Objects() as shape:
            return ObjectsForm(shape)
        case Headed(begin=""):
            return MistralForm()
        case Headed(everyone=everyone) if everyone:
            return None
        case Headed() as shape:
            return HeadedForm(shape, family.start)
        case Braces(quote=quote):
            return BraceForm(quote=quote, without=(family.end, family.start))
        case Python(lines=lines):
            return PythonicForm(lines)
        case _:
            return None


# By the family's name.
CALL_FORMS: Mapping[str, CallForm] = {
    family.name: form for family in FAMILIES.values() if (form := call_form(family)) is not None
}

# Whose calls are messages.
HARMONY: CallForm = HarmonyForm()

__all__ = ["CALL_FORMS", "HARMONY", "SPACE", "CallForm", "Rules", "UnwritableError", "call_form"]
