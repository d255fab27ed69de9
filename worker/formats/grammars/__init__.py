"""Grammars of tool calls for every format that mlx-lm can parse: only text that is read as a call of an offered tool
with arguments that fit its schema."""

from collections.abc import Mapping

from worker.formats.grammars.base import CallForm, UnwritableError
from worker.formats.grammars.braces import BraceForm
from worker.formats.grammars.headers import HarmonyForm, JsonForm, KimiK2Form, MistralForm
from worker.formats.grammars.lark import SPACE, Rules
from worker.formats.grammars.pythonic import PythonicForm
from worker.formats.grammars.tagged import GLM, KIMI_K3, LONGCAT, MINICPM5, MINIMAX_M2, MUSE_SPARK, QWEN3_CODER

# By the name of mlx-lm's parser.
CALL_FORMS: Mapping[str, CallForm] = {
    "function_gemma": BraceForm(quote="<escape>", without=("<end_function_call>", "<start_function_call>")),
    "gemma4": BraceForm(quote='<|"|>', without=("<tool_call|>", "<|tool_call>")),
    "glm47": GLM,
    "json_tools": JsonForm(),
    "kimi_k2": KimiK2Form(),
    "kimi_k3": KIMI_K3,
    "laguna": GLM,
    "longcat": LONGCAT,
    "minicpm5": MINICPM5,
    "minimax_m2": MINIMAX_M2,
    "mistral": MistralForm(),
    "muse_spark": MUSE_SPARK,
    "pythonic": PythonicForm(),
    "qwen3_coder": QWEN3_CODER,
}

# For which mlx-lm has no parser.
HARMONY: CallForm = HarmonyForm()

__all__ = ["CALL_FORMS", "HARMONY", "SPACE", "CallForm", "Rules", "UnwritableError"]
