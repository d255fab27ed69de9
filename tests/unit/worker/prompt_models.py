"""Tokenizers with chat templates of the common families, for tests of prompts and answers."""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mlx_lm.tokenizer_utils import BPEStreamingDetokenizer, TokenizerWrapper, load
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

MODEL = Path(__file__).parents[2] / "models" / "agent-full"
TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Family:
    """`special` are the template's control tokens, `end` the one that ends an answer. `thought` is how the model
    marks reasoning, `spelled` what the vocabulary's own markers of it are called in this family; `can_stop` says
    whether the template can keep it from reasoning."""

    parser: str | None
    special: tuple[str, ...]
    end: str
    thought: tuple[str, str] | None = None
    spelled: tuple[str, str] = ("<think>", "</think>")
    can_stop: bool = True

    @property
    def reasons(self) -> bool:
        return self.thought is not None


FAMILIES = {
    "demo": Family("json_tools", (), "<|im_end|>", ("<think>\n", "\n</think>\n\n")),
    "qwen3": Family("json_tools", (), "<|im_end|>", ("<think>\n", "\n</think>\n\n")),
    "qwen3_coder": Family("qwen3_coder", (), "<|im_end|>"),
    "mistral": Family(
        "mistral",
        (
            *("<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
            *("[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
        ),
        "</s>",
    ),
    "gemma": Family(None, ("<s>", "<start_of_turn>", "<end_of_turn>"), "<end_of_turn>"),
    "glm": Family(
        "glm47",
        ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
        "<|user|>",
        ("\n<think>", "</think>\n"),
    ),
    "llama3": Family(
        None, ("<s>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>"), "<|eot_id|>"
    ),
    "deepseek": Family(
        None,
        (
            *("<s>", "</s>", "<|User|>", "<|Assistant|>", "<|calls_begin|>", "<|call_begin|>", "<|sep|>"),
            *("<|call_end|>", "<|calls_end|>", "<|outputs_begin|>", "<|output_begin|>", "<|output_end|>"),
            "<|outputs_end|>",
        ),
        "</s>",
    ),
    "kimi": Family(
        "kimi_k2",
        (
            *("<|im_system|>", "<|im_user|>", "<|im_assistant|>", "<|im_tool|>", "<|im_middle|>"),
            *("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_begin|>"),
            *("<|tool_call_end|>", "<|tool_call_argument_begin|>"),
        ),
        "<|im_end|>",
    ),
    "channel": Family(
        "gemma4",
        ("<s>", "<|turn>", "<turn|>", "<|think|>", "<|tool>", "<tool|>", "<|tool_call>", "<tool_call|>", '<|"|>'),
        "<turn|>",
        ("<|channel>thought\n", "<channel|>"),
        ("<|channel>", "<channel|>"),
    ),
    "xtml": Family(
        "kimi_k3",
        ("<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"),
        "<|end_of_msg|>",
        ("", "<|close|>think<|sep|><|open|>response<|sep|>"),
        ("<|unused_1|>", "<|unused_2|>"),
    ),
    "harmony": Family(
        None,
        ("<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>", "<|call|>", "<|return|>"),
        "<|return|>",
        spelled=("<|unused_1|>", "<|unused_2|>"),
    ),
    "steps": Family("json_tools", (), "<|im_end|>", ("<think>\n", "\n</think>\n\n")),
    "continued": Family(
        "gemma4",
        (
            *("<s>", "<|turn>", "<turn|>", "<|think|>", "<|tool>", "<tool|>", "<|tool_call>", "<tool_call|>"),
            *("<|tool_response>", "<tool_response|>", '<|"|>'),
        ),
        "<|tool_response>",
        ("<|channel>thought\n", "\n<channel|>"),
        ("<|channel>", "<channel|>"),
    ),
    "command": Family(
        None,
        (
            *("<s>", "<|START_OF_TURN|>", "<|END_OF_TURN|>", "<|SYSTEM|>", "<|USER|>", "<|CHATBOT|>", "<|RESULT|>"),
            *("<|START_THINKING|>", "<|END_THINKING|>", "<|START_ACTION|>", "<|END_ACTION|>", "<|START_RESPONSE|>"),
            *("<|END_RESPONSE|>", "<|END_RESULT|>"),
        ),
        "<|END_OF_TURN|>",
        spelled=("<|unused_1|>", "<|unused_2|>"),
    ),
    "first_only": Family(
        None,
        (
            *("<s>", "</s>", "<|User|>", "<|Assistant|>", "<|calls_begin|>", "<|call_begin|>", "<|sep|>"),
            *("<|call_end|>", "<|calls_end|>", "<|outputs_begin|>", "<|output_begin|>", "<|output_end|>"),
            "<|outputs_end|>",
        ),
        "</s>",
        ("<think>\n", "\n</think>\n\n"),
        can_stop=False,
    ),
    "strict": Family("json_tools", ("<s>", "</s>"), "<|im_end|>", spelled=("<|unused_1|>", "<|unused_2|>")),
    "numbered": Family(None, (), "<|im_end|>"),
}
# Templates that cannot be rendered in pieces; not among the families because no prompt can be a prefix of the next.
ODD = {"counted": Family(None, (), "<|im_end|>"), "remembering": Family(None, (), "<|im_end|>")}


@cache
def tokenizer_of(name: str) -> TokenizerWrapper:
    family = (FAMILIES | ODD)[name]
    if name == "demo":
        return load(MODEL)
    vocabulary = (MODEL / "tokenizer.json").read_text()
    for own, spelled in zip(("<think>", "</think>"), family.spelled, strict=True):
        vocabulary = vocabulary.replace(json.dumps(own), json.dumps(spelled))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(vocabulary), eos_token="<|im_end|>")
    tokenizer.add_tokens([AddedToken(text, special=True, normalized=False) for text in family.special])
    tokenizer.chat_template = (TEMPLATES / f"{name}.jinja").read_text()
    module = None if family.parser is None else importlib.import_module(f"mlx_lm.tool_parsers.{family.parser}")
    return TokenizerWrapper(
        tokenizer,
        BPEStreamingDetokenizer,
        eos_token_ids=[tokenizer.convert_tokens_to_ids(family.end)],
        tool_parser=module and module.parse_tool_call,
        tool_call_start=module and module.tool_call_start,
        tool_call_end=module and module.tool_call_end,
    )
