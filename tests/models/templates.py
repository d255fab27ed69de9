"""What becomes of real chat templates here: one line per template of a folder.

    python -m tests.models.templates FOLDER [NAME …]

A template is a `.jinja` file. Its tokenizer is made up: the test models' vocabulary and the control tokens that the
template names. `law` says whether each of the prompts of a tool conversation begins with the one before it, `equal`
whether the last is what the template writes by itself when no answer held reasoning.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlx_lm.tokenizer_utils import BPEStreamingDetokenizer, TokenizerWrapper, _infer_tool_parser
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from gateway.canonical import canonicalise
from shared.messages import Message, Part, ReasoningPart, TextPart, ToolCallPart, ToolResultPart
from shared.request import GenerateRequest, ReasoningOptions, ToolDefinition
from worker.prompt import Prompt, PromptBuilder

VOCABULARY = Path(__file__).parent / "agent-full" / "tokenizer.json"
_OWN = ("<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
_OWN_THOUGHT = ("<think>", "</think>")
# How the families spell control tokens.
_CONTROL = re.compile(
    r"<\|[A-Za-z0-9_:./-]{1,40}\|?>|<[A-Za-z0-9_:]{1,40}\|>|<\|\"\|>|<｜[^<>｜]{1,40}｜>|\[/?[A-Z_]{2,30}\]|\]~!b\[|\]~b\]|\[e~\["
    r"|</?(?:s|bos|eos|start_of_turn|end_of_turn|think|seed:[a-z_]+|minimax:[a-z_]+|start_of_image|sop|eop)>|\[gMASK\]"
)
_NO_TOKEN = re.compile(r"\[/?(?:ANY|OR|AND|NOT|TODO|JSON|IMPORTANT)\]")


def control_tokens(template: str) -> list[str]:
    """The tokens that a template's source spells, in order."""
    found = dict.fromkeys(match[0] for match in _CONTROL.finditer(template))
    return [token for token in found if not _NO_TOKEN.fullmatch(token)]


def tokenizer_for(template: str) -> TokenizerWrapper:
    """As mlx-lm would load it from a checkpoint with this template."""
    vocabulary = VOCABULARY.read_text()
    control = control_tokens(template)
    for own in (*_OWN, *_OWN_THOUGHT):
        if own not in template:
            vocabulary = vocabulary.replace(json.dumps(own), json.dumps(f"<|unused_{abs(hash(own)) % 10**6}|>"))
    inner = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(vocabulary))
    inner.add_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    inner.bos_token = next((t for t in control if t in ("<s>", "<bos>", "<|begin_of_text|>")), "<|endoftext|>")
    end = next((t for t in _ENDS if t in control), "<|im_end|>" if "<|im_end|>" in template else "<|endoftext|>")
    inner.eos_token = end
    inner.chat_template = template
    name = _infer_tool_parser(inner)
    module: Any = importlib.import_module(f"mlx_lm.tool_parsers.{name}") if name else None
    return TokenizerWrapper(
        inner,
        BPEStreamingDetokenizer,
        eos_token_ids=[inner.convert_tokens_to_ids(end)],
        tool_parser=module and module.parse_tool_call,
        tool_call_start=module and module.tool_call_start,
        tool_call_end=module and module.tool_call_end,
    )


_ENDS = (
    *("<|eot_id|>", "<end_of_turn>", "<turn|>", "<｜end▁of▁sentence｜>", "<|END_OF_TURN_TOKEN|>", "<|end_of_text|>"),
    *("<|return|>", "[e~[", "<|end|>", "<|assistant_end|>", "<seed:eos>", "<|im_end|>", "</s>", "<|user|>"),
)

TOOLS = (
    ToolDefinition(
        name="Bash",
        description="Run a command",
        parameters={
            "type": "object",
            "properties": {"command": {"type": "string", "description": "What to run"}},
            "required": ["command"],
        },
    ),
    ToolDefinition(
        name="Edit",
        description="Change a file",
        parameters={
            "type": "object",
            "properties": {
                "path": {"type": "string", "description": "The file"},
                "edits": {
                    "type": "array",
                    "description": "Changes",
                    "items": {
                        "type": "object",
                        "properties": {"old": {"type": "string"}, "new": {"type": "string"}},
                    },
                },
                "all": {"type": "boolean", "description": "Everywhere"},
            },
            "required": ["path", "edits"],
        },
    ),
)


def said(role: str, *parts: Part) -> Message:
    return Message(role=role, parts=parts)  # type: ignore[arg-type]


def text(words: str) -> TextPart:
    return TextPart(text=words)


def call(number: int, name: str, **arguments: Any) -> ToolCallPart:
    return ToolCallPart(id=f"call{number:05d}", name=name, arguments=json.dumps(arguments))


def result(number: int, words: str) -> Message:
    return said("tool", ToolResultPart(call_id=f"call{number:05d}", parts=(text(words),)))


def conversation(*, reasoning: bool) -> tuple[list[Message], list[int]]:
    """One call, an edit, parallel calls, then user turns; and the six lengths at which an answer is asked for."""

    def thought(words: str) -> tuple[Part, ...]:
        return (ReasoningPart(text=words),) if reasoning else ()

    edits = [{"old": "a = 1\n", "new": "    a = 2\n"}]
    messages = [
        said("system", text("You are a careful agent.")),
        said("user", text("Fix the build.")),
        said("assistant", *thought("First look."), text("I look around."), call(0, "Bash", command="ls -la")),
        result(0, "a.py\nb.py"),
        said("assistant", *thought("Change it."), call(1, "Edit", path="a.py", edits=edits, all=True)),
        result(1, "done"),
        said("assistant", *thought("Twice."), call(2, "Bash", command="make"), call(3, "Bash", command="git diff")),
        result(2, "ok"),
        result(3, "-a = 1\n+a = 2"),
        said("assistant", *thought("All is well."), text("It builds.")),
        said("user", text("Thanks. And the tests?")),
        said("assistant", *thought("Nothing to run."), text("There are none.")),
        said("user", text("Then write one.")),
    ]
    return messages, [2, 4, 6, 9, 11, 13]


def request_of(messages: Sequence[Message], thinking: bool | None, **options: Any) -> GenerateRequest:
    options.setdefault("tools", TOOLS)
    request = GenerateRequest(
        id="r", model="m", messages=tuple(messages), reasoning=ReasoningOptions(enabled=thinking), **options
    )
    return canonicalise(request)


def prompts(builder: PromptBuilder, *, reasoning: bool, thinking: bool | None) -> list[Prompt]:
    messages, ends = conversation(reasoning=reasoning)
    return [builder.build(request_of(messages[:end], thinking)) for end in ends]


def lost_tokens(built: Sequence[Prompt], *, header: bool) -> list[int]:
    """How many tokens of each prompt the next does not begin with; the generation header counts where `header`."""
    lost = []
    for before, after in zip(built, built[1:], strict=False):
        tokens = before.tokens if header else before.tokens[: before.boundaries[-1].offset]
        common = next((i for i, (a, b) in enumerate(zip(tokens, after.tokens, strict=False)) if a != b), len(tokens))
        lost.append(len(tokens) - common)
    return lost
