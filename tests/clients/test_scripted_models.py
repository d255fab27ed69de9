"""What models of every kind say when they call a tool reaches the clients byte by byte: through the real engine, HTTP
and the clients' own packages, at checkpoints that say what such a model would."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from tests.clients.claude_code import ClaudeCode, install_claude_code
from tests.models.call_templates import template_of
from tests.models.scripted_checkpoint import build_scripted, cue
from tests.support.call_writers import write_answer
from tests.support.up import up
from worker.formats.families import FAMILIES, Family
from worker.formats.harmony import CALL, CHANNEL, CONSTRAIN, END, MESSAGE, RETURN, START

DONE = "That is what the tool said; finished."
# Indentation, the ends of several families' values, a word that is JSON, an integer of 64 bits.
CODE = (
    "    if x is None:\n\treturn '</parameter> </arg_value> </param>'\n\n"
    '    ids = [9007199254740993, -9223372036854775808]  # "null" für 你好 👋\n'
)
FILES = ("first.py", "second.py")


@dataclass(frozen=True)
class Kind:
    """A model people run: its family of calls, and what it says before a call."""

    name: str
    family: Family | None
    thought: str = ""

    def says(self, calls: list[tuple[str, dict[str, Any]]]) -> str:
        if self.family is None:
            arguments = json.dumps(calls[0][1], ensure_ascii=False)
            head = f" to=functions.{calls[0][0]}{CHANNEL}commentary {CONSTRAIN}json{MESSAGE}"
            # (Every control token can be said once: the header of the other calls stands in the prompt, see _HEADERS.)
            return arguments if calls[0][0] in _HEADERS else head + arguments
        return self.thought + write_answer(self.family, calls if self.family.start else calls[:1])


KINDS = (
    Kind("qwen3-coder", FAMILIES["qwen3_coder"]),
    Kind("qwen3.5", FAMILIES["qwen3_coder"], "<think>\nThe file first.\n</think>\n\n"),
    Kind("glm", FAMILIES["glm47"], "<think>So.</think>\n"),
    Kind("minimax", FAMILIES["minimax_m2"]),
    Kind("deepseek-v3.1", FAMILIES["deepseek_v31"]),
    Kind("kimi-k2", FAMILIES["kimi_k2"]),
    Kind("mistral", FAMILIES["mistral"]),
    Kind("gpt-oss", None),
    Kind("llama", FAMILIES["llama"]),
)
# One in every run, the others by `make test-all`.
kinds = [
    pytest.param(kind, id=kind.name, marks=pytest.mark.slow if kind.name != "qwen3-coder" else ()) for kind in KINDS
]

# Tools of the kinds that Codex and OpenCode send, with what a model calls them with.
SHELL = {
    "type": "object",
    "properties": {
        "command": {"type": "array", "items": {"type": "string"}},
        "workdir": {"type": "string"},
        "timeout_ms": {"type": "integer"},
        "justification": {"type": ["string", "null"]},
    },
    "required": ["command"],
    "additionalProperties": False,
}
SHELL_CALL = {
    "command": ["bash", "-lc", "printf '%s\\n' \"</parameter>\" </dev/null"],
    "workdir": " spaced ",
    "timeout_ms": 9007199254740993,
    "justification": None,
}
EDIT = {
    "type": "object",
    "properties": {
        "filePath": {"type": "string"},
        "oldString": {"type": "string"},
        "newString": {"type": "string"},
        "replaceAll": {"type": "boolean"},
    },
    "required": ["filePath", "oldString", "newString"],
    "additionalProperties": False,
}
EDIT_CALL = {"filePath": "/src/a.py", "oldString": "null", "newString": CODE, "replaceAll": False}
OPENAI_CASES = {"shell": (SHELL, SHELL_CALL), "edit": (EDIT, EDIT_CALL)}

_HARMONY = (START, END, MESSAGE, CHANNEL, CONSTRAIN, CALL, RETURN)
_HARMONY_TEMPLATE = """\
{%- if tools -%}{{ '<|start|>developer<|message|># Tools\\n' }}
{%- for tool in tools -%}{{ tool | tojson }}{%- endfor -%}{{ '<|end|>' }}{%- endif -%}
{%- for m in messages -%}
{%- if m.role == 'tool' -%}
{{ '<|start|>functions.tool to=assistant<|channel|>commentary<|message|>' ~ m.content ~ '<|end|>' }}
{%- elif m.tool_calls -%}{{ '<|start|>assistant to=functions.' ~ m.tool_calls[0].function.name }}
{{- '<|channel|>commentary json<|message|>' ~ m.tool_calls[0].function.arguments | tojson ~ '<|call|>' }}
{%- else -%}{{ '<|start|>' ~ m.role ~ '<|message|>' ~ m.content ~ '<|end|>' }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|start|>assistant' }}{%- endif -%}"""
_HEADERS = {
    "Write": f" to=functions.Write{CHANNEL}commentary json{MESSAGE}",
    "edit": f" to=functions.edit{CHANNEL}commentary json{MESSAGE}",
    "": f"{CHANNEL}final{MESSAGE}",
}
# The text is chosen by what was asked: the end after a result, and else the call of the first tool that is known.
_CHOICE = """\
{%- if add_generation_prompt -%}
{%- set names = (tools or []) | map(attribute='function.name') | list -%}
{%- if not names or messages | selectattr('role', 'equalto', 'tool') | list -%}{{ 'DONE' }}
{%- elif 'shell' in names -%}{{ 'SHELL' }}{%- elif 'edit' in names -%}{{ 'EDIT' }}{%- else -%}{{ 'WRITE' }}{%- endif -%}
{%- endif -%}"""


def build(kind: Kind, out: Path, work: Path) -> Path:
    """A checkpoint of this kind that writes two files into `work` when it has the tool for it (one, where the format
    has one call in an answer)."""
    writes = [("Write", {"file_path": str(work / FILES[0]), "content": CODE})]
    writes.append(("Write", {"file_path": str(work / FILES[1]), "content": "null"}))
    texts = {"done": DONE, "Write": kind.says(writes)}
    texts |= {name: kind.says([(name, call)]) for name, (_, call) in OPENAI_CASES.items()}
    choice = _CHOICE
    for name in texts:
        header = _HEADERS.get(name.replace("done", ""), "") if kind.family is None else ""
        choice = choice.replace(f"'{name.upper()}'", f"'{header}{cue(name)}'")
    template = _HARMONY_TEMPLATE if kind.family is None else template_of(kind.family)
    control = _HARMONY if kind.family is None else ()
    return build_scripted(
        out, texts, template + choice, control=control, end=RETURN if kind.family is None else "<|im_end|>"
    )


@dataclass(frozen=True)
class Served:
    """A stack that serves the kind; `work` is the folder that it writes to."""

    kind: Kind
    url: str
    work: Path


@pytest.fixture(scope="module")
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    kind: Kind = request.param
    folder = tmp_path_factory.mktemp("scripted")
    work = folder / "work"
    work.mkdir()
    with up(folder, "--engine", "mlx", "--model", str(build(kind, folder / kind.name, work))) as running:
        yield Served(kind, running.wait_until_ready(), work)


each_kind = pytest.mark.parametrize("served", kinds, indirect=True)


@each_kind
@pytest.mark.parametrize("case", OPENAI_CASES)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_an_openai_clients_tool_is_called_with_what_the_model_wrote(served: Served, case: str, stream: bool) -> None:
    schema, expected = OPENAI_CASES[case]
    tools: Any = [{"type": "function", "function": {"name": case, "description": "Does it", "parameters": schema}}]
    messages: Any = [{"role": "user", "content": "Do it."}]
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="any", max_retries=0, timeout=60) as client:
        name, arguments, call_id = called(client, served.kind.name, messages, tools, stream=stream)
        assert name == case
        assert json.loads(arguments) == expected
        if case == "shell":
            assert "9007199254740993" in arguments
        call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        answered = [*messages, {"role": "assistant", "tool_calls": [call]}]
        answered.append({"role": "tool", "tool_call_id": call_id, "content": "ok"})
        end = client.chat.completions.create(model=served.kind.name, messages=answered, tools=tools)
    assert end.choices[0].message.content == DONE
    assert end.choices[0].finish_reason == "stop"


def called(client: openai.OpenAI, model: str, messages: Any, tools: Any, *, stream: bool) -> tuple[str, str, str]:
    """Name, arguments and id of the one call."""
    if not stream:
        choice = client.chat.completions.create(model=model, messages=messages, tools=tools).choices[0]
        assert choice.finish_reason == "tool_calls"
        (call,) = choice.message.tool_calls or []
        assert call.type == "function"
        return call.function.name, call.function.arguments, call.id
    with client.chat.completions.stream(model=model, messages=messages, tools=tools) as events:
        final = events.get_final_completion().choices[0]
    assert final.finish_reason == "tool_calls"
    (parsed,) = final.message.tool_calls or []
    return parsed.function.name, parsed.function.arguments, parsed.id


@each_kind
def test_an_anthropic_clients_tool_gets_what_the_model_wrote(served: Served) -> None:
    with anthropic.Anthropic(base_url=served.url, api_key="any", max_retries=0, timeout=60) as client:
        tool: Any = {"name": "shell", "description": "Runs it", "input_schema": SHELL}
        with client.messages.stream(
            model=served.kind.name, max_tokens=2000, tools=[tool], messages=[{"role": "user", "content": "Do it."}]
        ) as stream:
            message = stream.get_final_message()
        whole = client.messages.create(
            model=served.kind.name, max_tokens=2000, tools=[tool], messages=[{"role": "user", "content": "Do it."}]
        )
    for answer in (message, whole):
        (block,) = [block for block in answer.content if block.type == "tool_use"]
        assert block.input == SHELL_CALL
        assert answer.stop_reason == "tool_use"


@pytest.mark.claude
@pytest.mark.slow
@pytest.mark.timeout(420)
@pytest.mark.parametrize("served", [pytest.param(kind, id=kind.name) for kind in KINDS], indirect=True)
def test_claude_code_writes_the_files_that_the_model_wrote(served: Served, tmp_path: Path) -> None:
    kind, work = served.kind, served.work
    home = tmp_path / "home"
    home.mkdir()
    claude = ClaudeCode(executable=install_claude_code(), home=home, work=work, url=served.url, model=kind.name)
    session = claude.run("Write the files.", "--allowedTools", "Write")
    assert session.result["subtype"] == "success"
    assert session.result["result"] == DONE
    written = session.blocks("assistant", "tool_use")
    assert [call["name"] for call in written] == ["Write"] * len(written)
    assert (work / FILES[0]).read_bytes() == CODE.encode()
    if len(written) > 1:
        assert (work / FILES[1]).read_bytes() == b"null"
    assert len(written) == (1 if kind.family is None or not kind.family.start else 2)
