"""How each family of models writes tool calls: the one table that readers, grammars and the writers of the tests share.

A call stands in a region between two markers. What stands between them has one of a few shapes, and a family is a
shape with its own tags. Nothing here reads or writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Tag:
    """A tag that names something: the name stands between `before` and `after`. `kind` is an attribute that says what
    the value is (empty: there is none); it follows the name."""

    before: str
    after: str
    kind: str = ""

    @property
    def opening(self) -> str:
        """What begins the tag however its name is quoted."""
        return self.before.removesuffix('"')

    def write(self, name: str, kind: str = "") -> str:
        if not self.kind:
            return f"{self.before}{name}{self.after}"
        return f'{self.before}{name}" {self.kind}="{kind}{self.after}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Tagged:
    """Markup with an element for every argument, its value as plain text.

    `call` begins a call, perhaps with the region's own start (None: the name is the text up to the first argument), and
    `call_end` ends it (empty: the region's end does). `key` begins an argument; between it and the value stands
    `value` where the family has a tag of its own for that. `frame` is the white space that the markup puts around a
    value. `many`: a region holds several calls. `unsaid` is what the text of a parameter is read as whose schema says
    nothing: `text` (or an object or array), or `any` JSON that it spells. `cdata`: a value may stand in such a section.
    `json` is an element that holds all arguments as one JSON object, and its end. `alone`: how a call without
    arguments is written, where that differs.
    """

    call: Tag | None
    call_end: str
    key: Tag
    value: str = ""
    value_end: str
    frame: Literal["", "\n"] = ""
    many: bool = False
    unsaid: Literal["text", "any"] = "text"
    cdata: bool = False
    json: tuple[str, str] | None = None
    alone: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objects:
    """JSON objects with a name and arguments; `listed`: in a list. `keyed`: the name is the object's only key. `id` is
    the key of a call's number where the family writes one. `fenced`: they stand in a code fence, whose end is that of
    the region."""

    name: str = "name"
    arguments: str = "arguments"
    listed: bool = False
    keyed: bool = False
    id: str = ""
    fenced: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Headed:
    """A name and then the arguments as one JSON object, between texts: `begin`, the name, `middle`, the JSON, `end`.

    `counted`: a number follows the name. `identified`: an id follows `begin`, and this the id. `listed`: a JSON list of
    objects may stand in their place. `prose`: the texts may stand in an answer's own words, where no JSON follows.
    `everyone`: every part of an answer is addressed as a call is, and its text to this name; the prompt may have
    written the first `begin`.
    """

    begin: str
    middle: str
    end: str
    counted: bool = False
    identified: str = ""
    listed: bool = False
    prose: bool = False
    everyone: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Braces:
    """`call:NAME{key:value,…}` with `quote` before and after a string; `bare`: text without it may be a string too."""

    quote: str
    bare: bool = False
    many: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Python:
    """Calls as Python writes them: in a list, or (`lines`) one on each line."""

    lines: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Nested:
    """Markup with an element of its own name for every argument and everything inside it; `space` stands before every
    tag."""

    space: str
    item: str = "item"


# Which mlx-lm has a parser for, by these names.
_PARSED = frozenset(
    {
        *("function_gemma", "gemma4", "glm47", "json_tools", "kimi_k2", "kimi_k3", "laguna", "longcat", "minicpm5"),
        *("minimax_m2", "mistral", "muse_spark", "pythonic", "qwen3_coder"),
    }
)

Shape = Tagged | Objects | Headed | Braces | Python | Nested


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """`start` and `end` are the markers of a region: with no `start` a call begins the answer, with no `end` it ends
    it. `signs` are texts of which each shows the format in a chat template; `tokens` a vocabulary that has them all."""

    name: str
    start: str
    end: str
    shape: Shape
    signs: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()

    @property
    def has_parser(self) -> bool:
        """Whether mlx-lm knows the format, too."""
        return self.name in _PARSED


def _qwen(frame: Literal["", "\n"]) -> Tagged:
    return Tagged(
        call=Tag(before="<function=", after=">"),
        call_end="</function>",
        key=Tag(before="<parameter=", after=">"),
        value_end="</parameter>",
        frame=frame,
    )


def _glm(prefix: str, alone: str = "") -> Tagged:
    return Tagged(
        call=None,
        call_end="",
        key=Tag(before=f"<{prefix}arg_key>", after=f"</{prefix}arg_key>"),
        value=f"<{prefix}arg_value>",
        value_end=f"</{prefix}arg_value>",
        unsaid="any",
        alone=alone,
    )


def _invoke(prefix: str, unsaid: Literal["text", "any"] = "text", kind: str = "") -> Tagged:
    return Tagged(
        call=Tag(before=f'<{prefix}invoke name="', after='">'),
        call_end=f"</{prefix}invoke>",
        key=Tag(before=f'<{prefix}parameter name="', after='">', kind=kind),
        value_end=f"</{prefix}parameter>",
        many=True,
        unsaid=unsaid,
    )


# DeepSeek's control tokens stand between full-width bars.
_BAR = "\uff5c"
_DSML = f"{_BAR}DSML{_BAR}"
_DEEPSEEK = (f"<{_BAR}tool▁calls▁begin{_BAR}>", f"<{_BAR}tool▁calls▁end{_BAR}>")
_DEEPSEEK_CALL = (f"<{_BAR}tool▁call▁begin{_BAR}>", f"<{_BAR}tool▁call▁end{_BAR}>")
_DEEPSEEK_SEP = f"<{_BAR}tool▁sep{_BAR}>"
_GLM_FORM = _glm("")

# Where a template shows several formats, the first counts.
_TABLE = (
    Family(
        name="minimax_m3",
        start="]<]minimax[>[<tool_call>",
        end="]<]minimax[>[</tool_call>",
        shape=Nested(space="]<]minimax[>["),
        signs=("]<]minimax[>[",),
    ),
    Family(
        name="minimax_m2",
        start="<minimax:tool_call>",
        end="</minimax:tool_call>",
        shape=_invoke(""),
        signs=("<minimax:tool_call>",),
    ),
    Family(
        name="seed_oss",
        start="<seed:tool_call>",
        end="</seed:tool_call>",
        shape=_qwen(""),
        signs=("<seed:tool_call>",),
    ),
    Family(
        name="deepseek_v32",
        start=f"<{_DSML}function_calls>",
        end=f"</{_DSML}function_calls>",
        shape=_invoke(_DSML, kind="string"),
        signs=(f"<{_DSML}function_calls>", "dsml_token + 'function_calls>"),
    ),
    Family(
        name="deepseek_v4",
        start=f"<{_DSML}tool_calls>",
        end=f"</{_DSML}tool_calls>",
        shape=_invoke(_DSML, kind="string"),
        signs=(f"<{_DSML}tool_calls>", "dsml_token + 'tool_calls>"),
    ),
    Family(
        name="deepseek_v3",
        start=_DEEPSEEK[0],
        end=_DEEPSEEK[1],
        shape=Headed(
            begin=f"{_DEEPSEEK_CALL[0]}function{_DEEPSEEK_SEP}", middle="\n```json\n", end=f"\n```{_DEEPSEEK_CALL[1]}"
        ),
        signs=(f"function{_DEEPSEEK_SEP}",),
    ),
    Family(
        name="deepseek_v31",
        start=_DEEPSEEK[0],
        end=_DEEPSEEK[1],
        shape=Headed(begin=_DEEPSEEK_CALL[0], middle=_DEEPSEEK_SEP, end=_DEEPSEEK_CALL[1]),
        signs=(_DEEPSEEK[0],),
    ),
    Family(
        name="gemma4",
        start="<|tool_call>",
        end="<tool_call|>",
        shape=Braces(quote='<|"|>', many=True),
        signs=("<|tool_call>",),
    ),
    Family(
        name="internlm",
        start="<|action_start|><|plugin|>",
        end="<|action_end|>",
        shape=Objects(arguments="parameters"),
        signs=("<|action_start|><|plugin|>", "name=<|plugin|>"),
        tokens=("<|action_start|>", "<|plugin|>", "<|action_end|>"),
    ),
    Family(
        name="hunyuan3",
        start="<tool_calls:opensource>",
        end="</tool_calls:opensource>",
        shape=Tagged(
            call=Tag(before="<tool_call:opensource>", after="<tool_sep:opensource>"),
            call_end="</tool_call:opensource>",
            key=Tag(before="<arg_key:opensource>", after="</arg_key:opensource>"),
            value="<arg_value:opensource>",
            value_end="</arg_value:opensource>",
            many=True,
            unsaid="any",
        ),
        signs=("<tool_calls:opensource>",),
    ),
    Family(
        name="step3",
        start=f"<{_BAR}tool_calls_begin{_BAR}>",
        end=f"<{_BAR}tool_calls_end{_BAR}>",
        shape=Tagged(
            call=Tag(
                before=f'<{_BAR}tool_call_begin{_BAR}>function<{_BAR}tool_sep{_BAR}><steptml:invoke name="', after='">'
            ),
            call_end=f"</steptml:invoke><{_BAR}tool_call_end{_BAR}>",
            key=Tag(before='<steptml:parameter name="', after='">'),
            value_end="</steptml:parameter>",
            many=True,
        ),
        signs=("<steptml:invoke", f"<{_BAR}tool_calls_begin{_BAR}>"),
    ),
    Family(
        name="function_gemma",
        start="<start_function_call>",
        end="<end_function_call>",
        shape=Braces(quote="<escape>", bare=True),
        signs=("<start_function_call>",),
    ),
    Family(
        name="longcat",
        start="<longcat_tool_call>",
        end="</longcat_tool_call>",
        shape=_glm("longcat_", alone='{{"name": "{name}", "arguments": {{}}}}'),
        signs=("<longcat_tool_call>",),
    ),
    Family(name="glm47", start="<tool_call>", end="</tool_call>", shape=_GLM_FORM, signs=("<arg_key>",)),
    Family(name="laguna", start="<tool_call>", end="</tool_call>", shape=_GLM_FORM),
    Family(
        name="pythonic",
        start="<|tool_call_start|>",
        end="<|tool_call_end|>",
        shape=Python(),
        signs=("<|tool_list_start|>", "<|tool_call_start|>"),
        tokens=("<|tool_call_start|>", "<|tool_call_end|>"),
    ),
    Family(
        name="qwen3_coder",
        start="<tool_call>",
        end="</tool_call>",
        shape=_qwen("\n"),
        signs=("<tool_call>\\n<function=", "<tool_call>\n<function="),
    ),
    Family(
        name="kimi_k2",
        start="<|tool_calls_section_begin|>",
        end="<|tool_calls_section_end|>",
        shape=Headed(
            begin="<|tool_call_begin|>functions.",
            middle="<|tool_call_argument_begin|>",
            end="<|tool_call_end|>",
            counted=True,
        ),
        signs=("<|tool_calls_section_begin|>",),
    ),
    Family(
        name="minicpm5",
        start="<function name=",
        end="</function>",
        shape=Tagged(
            call=Tag(before='<function name="', after='">'),
            call_end="",
            key=Tag(before='<param name="', after='">'),
            value_end="</param>",
            cdata=True,
        ),
        signs=('<function name="',),
    ),
    Family(
        name="mistral",
        start="[TOOL_CALLS]",
        end="",
        shape=Headed(begin="", middle="[ARGS]", end="", listed=True),
        signs=("[TOOL_CALLS]",),
    ),
    Family(
        name="muse_spark",
        start="<atem:function_calls>",
        end="</atem:function_calls>",
        shape=_invoke("atem:", unsaid="any"),
        signs=("<atem:function_calls>",),
    ),
    Family(
        name="kimi_k3",
        start="<|open|>tools<|sep|>",
        end="<|close|>tools<|sep|>",
        shape=Tagged(
            call=Tag(before='<|open|>call tool="', after='"<|sep|>', kind="index"),
            call_end="<|close|>call<|sep|>",
            key=Tag(before='<|open|>argument key="', after='"<|sep|>', kind="type"),
            value_end="<|close|>argument<|sep|>",
            many=True,
            unsaid="any",
            json=("<|open|>json", "<|close|>json<|sep|>"),
        ),
        tokens=("<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"),
    ),
    Family(
        name="solar",
        start="<|tool_calls|>",
        end="",
        shape=Headed(
            begin="<|tool_call:begin|>",
            identified="<|tool_call:name|>",
            middle="<|tool_call:args|>",
            end="<|tool_call:end|>",
        ),
        signs=("<|tool_call:begin|>",),
    ),
    Family(
        name="apertus",
        start="<|tools_prefix|>",
        end="<|tools_suffix|>",
        shape=Objects(listed=True, keyed=True),
        signs=("<|tools_prefix|>",),
    ),
    Family(
        name="cohere",
        start="<|START_ACTION|>",
        end="<|END_ACTION|>",
        shape=Objects(name="tool_name", arguments="parameters", listed=True, id="tool_call_id"),
        signs=("<|START_ACTION|>",),
    ),
    Family(
        name="command_r",
        start="Action:",
        end="",
        shape=Objects(name="tool_name", arguments="parameters", listed=True, fenced=True),
        signs=("followed by a json-formatted list of actions",),
    ),
    Family(
        name="functionary_v31",
        start="<function=",
        end="",
        shape=Headed(begin="<function=", middle=">", end="</function>", prose=True),
        signs=("<function=example_function_name>",),
    ),
    Family(
        name="functionary_v32",
        start=">>>",
        end="",
        shape=Headed(begin=">>>", middle="\n", end="", prose=True, everyone="all"),
        signs=(">>>${recipient}", ">>>all"),
    ),
    Family(
        name="functionary_v2",
        start="<|from|>assistant\n<|recipient|>",
        end="",
        shape=Headed(
            begin="<|from|>assistant\n<|recipient|>", middle="\n<|content|>", end="", prose=True, everyone="all"
        ),
        signs=("<|recipient|>",),
    ),
    Family(
        name="nemotron",
        start="<TOOLCALL>",
        end="</TOOLCALL>",
        shape=Objects(listed=True),
        signs=("<TOOLCALL>",),
    ),
    Family(
        name="gigachat",
        start="<|function_call|>",
        end="",
        shape=Objects(),
        signs=("<|function_call|>",),
    ),
    Family(
        name="apriel",
        start="<tool_calls>",
        end="</tool_calls>",
        shape=Objects(listed=True),
        signs=("<tool_calls>[",),
    ),
    Family(
        name="hunyuan",
        start="<tool_calls>",
        end="</tool_calls>",
        shape=Headed(begin="<tool_call>", middle="\n```json\n", end="\n```\n</tool_call>", listed=True),
        signs=("<tool_calls>",),
    ),
    Family(
        name="olmo3",
        start="<function_calls>",
        end="</function_calls>",
        shape=Python(lines=True),
        signs=("<function_calls>",),
    ),
    Family(
        name="phi4_mini",
        start="<|tool_call|>",
        end="<|/tool_call|>",
        shape=Objects(),
        signs=("<|/tool_call|>",),
    ),
    Family(
        name="granite3",
        start="<|tool_call|>",
        end="",
        shape=Objects(listed=True),
        signs=("<|tool_call|>",),
    ),
    Family(name="functools", start="functools", end="", shape=Objects(listed=True), signs=("functools[",)),
    Family(name="json_tools", start="<tool_call>", end="</tool_call>", shape=Objects(), signs=("<tool_call>",)),
    Family(
        name="llama_python",
        start="",
        end="",
        shape=Python(),
        signs=("[func_name1(params_name1=", "[get_user_info(user_id=", "in the format of [func"),
    ),
    Family(
        name="llama",
        start="",
        end="",
        shape=Objects(arguments="parameters"),
        signs=('{"name": function name', '"parameters": dictionary of argument', "<|python_tag|>"),
    ),
)

FAMILIES: Mapping[str, Family] = {family.name: family for family in _TABLE}
# In which a model is asked to call whose template has no place for tools.
ASKED = FAMILIES["json_tools"]
