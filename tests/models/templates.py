"""What becomes of chat templates of real models: one line per template of a folder.

    python -m tests.models.templates FOLDER [NAME …]

A template is a `.jinja` file; its tokenizer is made up of the test models' vocabulary and the control tokens that the
template names. Columns:

- mode: how a turn is rendered (`worker.prompt.facts`).
- equal: whether a prompt without reasoning is, to the letter, what the template writes for the whole conversation.
- law: whether each prompt of a tool conversation begins with the one before it, the generation header included where
  reasoning comes back after a prompt that asked for it, and else up to the header.
- turn: milliseconds for a next turn after a history of 20,000 tokens, the dearer of a user's and a tool's.
- thoughts: the family of markers around reasoning.
- calls: the family of calls that is read; then whether calls written by the template are read back as they were.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import logging
import re
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_lm.tokenizer_utils import BPEStreamingDetokenizer, TokenizerWrapper, _infer_tool_parser
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from gateway.canonical import canonicalise
from shared.messages import Message, Part, ReasoningPart, TextPart, ToolCallPart, ToolResultPart
from shared.request import GenerateRequest, ReasoningOptions, ToolDefinition
from tests.bench.report import Table
from worker.engines.tokens.call_trip import SAMPLES, failed_trips
from worker.engines.tokens.template_report import report_template
from worker.prompt import Prompt, PromptBuilder
from worker.prompt.sequences import common_length

VOCABULARY = Path(__file__).parent / "agent-full" / "tokenizer.json"
_OWN = ("<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
_OWN_THOUGHT = ("<think>", "</think>")
# How the families spell control tokens: with bars, full-width bars, in brackets, or as tags of these few names.
_CONTROL = re.compile(
    r"<\|[A-Za-z0-9_:./-]{1,40}\|?>|<[A-Za-z0-9_:]{1,40}\|>|<\|\"\|>|<\uff5c[^<>\uff5c]{1,40}\uff5c>"
    r"|\[/?[A-Z_]{2,30}\]|\]~!b\[|\]~b\]|\[e~\[|\[gMASK\]"
    r"|</?(?:s|bos|eos|start_of_turn|end_of_turn|think|seed:[a-z_]+|minimax:[a-z_]+|start_of_image|sop|eop)>"
)
_NO_TOKEN = re.compile(r"\[/?(?:ANY|OR|AND|NOT|TODO|JSON|IMPORTANT)\]")
# What ends an answer, the likelier first.
_ENDS = (
    *("<|eot_id|>", "<end_of_turn>", "<turn|>", "<\uff5cend\u2581of\u2581sentence\uff5c>", "<|END_OF_TURN_TOKEN|>"),
    *("<|end_of_text|>", "<|return|>", "[e~[", "<|end|>", "<|assistant_end|>", "<seed:eos>", "<|im_end|>", "</s>"),
    *("<|user|>", "<|endoftext|>"),
)
_BEGINS = ("<s>", "<bos>", "<|begin_of_text|>")


def control_tokens(template: str) -> list[str]:
    """The tokens that a template's source spells, in order."""
    found = dict.fromkeys(match[0] for match in _CONTROL.finditer(template))
    return [token for token in found if not _NO_TOKEN.fullmatch(token)]


def tokenizer_for(template: str) -> TokenizerWrapper:
    """As mlx-lm would load it from a checkpoint with this template."""
    vocabulary = VOCABULARY.read_text()
    for number, own in enumerate((*_OWN, *_OWN_THOUGHT)):
        if own not in template:
            vocabulary = vocabulary.replace(json.dumps(own), json.dumps(f"<|unused_{number}|>"))
    inner = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(vocabulary))
    control = control_tokens(template)
    inner.add_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    inner.bos_token = next((token for token in _BEGINS if token in control), "<|endoftext|>")
    inner.eos_token = next(token for token in _ENDS if token in control or token == "<|endoftext|>")
    inner.chat_template = template
    name = _infer_tool_parser(inner)
    module: Any = importlib.import_module(f"mlx_lm.tool_parsers.{name}") if name else None
    return TokenizerWrapper(
        inner,
        BPEStreamingDetokenizer,
        eos_token_ids=[inner.eos_token_id],
        tool_parser=module and module.parse_tool_call,
        tool_call_start=module and module.tool_call_start,
        tool_call_end=module and module.tool_call_end,
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
    for before, after in itertools.pairwise(built):
        tokens = before.tokens if header else before.tokens[: before.boundaries[-1].offset]
        lost.append(len(tokens) - common_length(tokens, after.tokens))
    return lost


def broken_law(builder: PromptBuilder) -> str:
    """Where the law of prefixes does not hold; empty where it does."""
    for reasoning, thinking in itertools.product((False, True), (None, True, False)):
        lost = lost_tokens(
            prompts(builder, reasoning=reasoning, thinking=thinking), header=reasoning and thinking is True
        )
        if any(lost):
            return f"loses {lost} tokens, reasoning {'sent' if reasoning else 'not sent'}, thinking {thinking}"
    return ""


def own_losses(builder: PromptBuilder) -> list[int]:
    """How many tokens of each prompt the next would lose if the template alone wrote them, without reasoning."""
    messages, ends = conversation(reasoning=False)
    return lost_tokens([builder.build_whole(request_of(messages[:end], None)) for end in ends], header=True)


def difference(tokenizer: TokenizerWrapper, builder: PromptBuilder) -> str:
    """What the last prompt of a conversation without reasoning holds where the template alone writes something else;
    empty where there is no such place."""
    messages, ends = conversation(reasoning=False)
    request = request_of(messages[: ends[-1]], None)
    ours, own = (tokenizer.decode(prompt.tokens) for prompt in (builder.build(request), builder.build_whole(request)))
    at = common_length(ours, own)
    if ours == own:
        return ""
    shown = f"{ours[max(0, at - 20) : at + 30]!r} for {own[max(0, at - 20) : at + 30]!r}"
    return f"{shown}; alone, the template loses {own_losses(builder)} tokens"


HISTORY_TOKENS = 20_000
_TURNS = 5


def turn_ms(builder: PromptBuilder) -> float:
    """The dearer of a user's turn and a tool's, medians."""
    return max(statistics.median(_timed_ms(builder, kind) for _ in range(_TURNS)) for kind in ("user", "tool"))


_stamps = itertools.count()


def _timed_ms(builder: PromptBuilder, kind: str) -> float:
    history = _history(builder)
    number = 10_000 + next(_stamps)
    history += [said("assistant", text(f"Step {number}."), call(number, "Bash", command=f"step {number}"))]
    history += [result(number, f"line {number}\n" * 20)]
    if kind == "user":
        builder.build(request_of(history, True))
        history += [said("assistant", text(f"Done {number}.")), said("user", text(f"Next {number}."))]
    request = request_of(history, True)
    started_s = time.perf_counter()
    builder.build(request)
    return (time.perf_counter() - started_s) * 1000


def _history(builder: PromptBuilder) -> list[Message]:
    """A tool conversation of that length, which the builder has seen."""
    messages = [said("system", text("You are a careful agent.")), said("user", text("Go."))]
    for number in itertools.count():
        messages += [
            said("assistant", text(f"Step {number}."), call(number, "Bash", command=f"step {number}")),
            result(number, f"line {number:04d} of the output\n" * 25),
        ]
        if number % 10 == 0 and len(builder.build(request_of(messages, True)).tokens) > HISTORY_TOKENS:
            return messages
    raise AssertionError


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What the table says of one template. `broken`, `unequal` and each `trips` are empty where all is well."""

    name: str
    mode: str
    lacks: tuple[str, ...]
    unequal: str
    broken: str
    turn_ms: float
    thoughts: str
    family: str
    trips: dict[str, str]


def examine(path: Path, *, timed: bool = True) -> Row:
    tokenizer = tokenizer_for(path.read_text())
    builder = PromptBuilder(tokenizer, context_tokens=1 << 20)
    facts = builder.facts
    trips = failed_trips(tokenizer, builder)
    said = report_template(tokenizer, builder)
    return Row(
        name=path.stem,
        mode=facts.mode,
        lacks=facts.lacks,
        unequal=difference(tokenizer, builder),
        broken=broken_law(builder),
        turn_ms=turn_ms(builder) if timed else 0.0,
        thoughts=said.get("reasoning", ""),
        family=said["calls"],
        trips={name: trips.get(name, "") for name in SAMPLES},
    )


def examined(folder: Path, names: Sequence[str] = ()) -> Iterator[Row]:
    """Every template of the folder whose name holds one of `names`."""
    for path in sorted(folder.glob("*.jinja")):
        if not names or any(name in path.stem for name in names):
            yield examine(path)


def build_table(rows: Sequence[Row]) -> Table:
    head = ("template", "mode", "lacks", "equal", "law", "turn", "thoughts", "calls", *SAMPLES)
    table = Table(title="Chat templates", head=head)
    for row in rows:
        table.add(
            row.name,
            row.mode,
            ", ".join(row.lacks) or "-",
            "no" if row.unequal else "yes",
            "BROKEN" if row.broken else "kept",
            f"{row.turn_ms:.0f} ms",
            row.thoughts or "-",
            row.family,
            *("no" if problem else "yes" for problem in row.trips.values()),
        )
        trouble = {"equal": row.unequal, "law": row.broken, **row.trips}
        table.notes += [f"{row.name}: {what}: {problem}" for what, problem in trouble.items() if problem]
    return table


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.models.templates", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help="parts of the names of those to look at")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    print(build_table(list(examined(arguments.folder, arguments.names))).render())


if __name__ == "__main__":
    main()
