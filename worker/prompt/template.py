"""One chat template: renders messages to text, knows which variables it reads, makes its failures clients' errors."""

from __future__ import annotations

import datetime
import functools
import json
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from shared import exact
from shared.errors import InvalidRequestError, ModelUnavailableError
from worker.prompt.header_mark import MARK, mark_header

# A template is the checkpoint's own code: expressions over what the client sent, in Jinja or in Python.
_REFUSALS = (
    jinja2.TemplateError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)

# How a template may be told that there are no tools: some go through whatever is there.
_NO_TOOLS: tuple[Mapping[str, Any], ...] = ({"tools": None}, {"tools": []}, {})

# For models that come without a template: base models, which continue a dialogue written out.
_PLAIN = """\
{%- for message in messages %}{{ message.role | capitalize }}: {{ message.content }}

{% endfor %}
{%- if add_generation_prompt %}Assistant:{% endif %}"""


class Tokenizer(Protocol):
    """The parts of mlx-lm's tokenizer wrapper that rendering needs."""

    chat_template: Any

    def get_chat_template(self, chat_template: str | None = None, tools: Any = None) -> str: ...

    def apply_chat_template(self, *args: Any, tokenize: bool = True, **kwargs: Any) -> Any: ...

    @property
    def special_tokens_map(self) -> Mapping[str, Any]: ...

    @property
    def init_kwargs(self) -> Mapping[str, Any]: ...

    @property
    def has_chat_template(self) -> bool: ...


class ToolDict(dict[str, Any]):
    """A tool's definition that is serialised once, however often the template is rendered."""

    def __init__(self, value: Mapping[str, Any]) -> None:
        super().__init__(value)
        self.json = exact.dumps(value, ensure_ascii=False)


class _Generation(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}` marks what a model wrote, for training; here it only passes through."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it as a plain set)

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    if isinstance(value, ToolDict) and indent is None and separators is None and not (ensure_ascii or sort_keys):
        return value.json
    return exact.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _from_json(text: str) -> Any:
    try:
        return exact.loads(text)
    except ValueError:
        return json.loads(text)  # NaN is none of JSON's words, but of Python's


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


class _Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """The sandbox with short ways to what templates ask for thousands of times: a message's fields, a namespace's
    variables, a loop's state, its own macros, and methods that only read a mapping or that format no text. The answers
    are those of the long way, which takes more than half of a rendering."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        kind = type(obj)
        if kind is dict:
            if attribute not in _DICT_ATTRIBUTES:
                return obj[attribute] if attribute in obj else self._absent(attribute)
            if attribute in _DICT_READS:
                return getattr(obj, attribute)
        if kind is _NAMESPACE and not attribute.startswith("_"):
            value = _variables(obj).get(attribute, callable)
            if not callable(value):  # one that is missing, and what is called, go the long way
                return value
        if attribute in _HARMLESS.get(kind, ()):
            return getattr(obj, attribute)
        return super().getattr(obj, attribute)

    @functools.lru_cache(maxsize=256)  # noqa: B019 (environments are kept as long as their templates)
    def _absent(self, attribute: str) -> jinja2.Undefined:
        """What a dictionary has not, whichever it is: nothing but the words of a refusal tells of it."""
        return self.undefined(obj={}, name=attribute)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """A method of a mapping or a text, which was let through, takes neither the context nor the variables of
        loops and blocks; a macro takes how texts are to be escaped."""
        kind = type(__obj)
        if kind is jinja2.runtime.Macro:
            args = (__context.eval_ctx, *args)
        elif __obj is not _NAMESPACE and __obj is not _RANGE and not _is_of_plain(kind, __obj):
            return super().call(__context, __obj, *args, **kwargs)
        kwargs.pop("_loop_vars", None)
        kwargs.pop("_block_vars", None)
        return __obj(*args, **kwargs)


def _is_of_plain(kind: type, called: Any) -> bool:
    return kind is types.BuiltinMethodType and type(called.__self__) in _BUILTINS


def _variables(namespace: jinja2.utils.Namespace) -> dict[str, Any]:
    """Of a template's namespace, past its own way of looking them up, which is written in Python."""
    variables: dict[str, Any] = object.__getattribute__(namespace, "_Namespace__attrs")
    return variables


_DICT_ATTRIBUTES = frozenset(dir(dict))
_DICT_READS = frozenset({"get", "items", "keys", "values"})
_BUILTINS = frozenset({dict, str})
_NAMESPACE, _RANGE = jinja2.utils.Namespace, jinja2.sandbox.safe_range
_HARMLESS: Mapping[type, frozenset[str]] = {
    kind: frozenset(name for name in dir(kind) if not name.startswith(("_", "format")))
    for kind in (str, jinja2.runtime.LoopContext)
}


def _environment() -> jinja2.Environment:
    """The sandbox chat templates are written for: block trimming, loop controls, `raise_exception`, plain JSON."""
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.filters["from_json"] = _from_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = datetime.datetime.now().astimezone().strftime
    return environment


@dataclass(frozen=True, slots=True)
class _Compiled:
    """`variables` are those that it reads; `is_marked`: it writes `MARK` in front of the generation header."""

    template: jinja2.Template
    variables: frozenset[str]
    is_marked: bool


@functools.lru_cache(maxsize=16)
def _compile(source: str) -> _Compiled:
    """A load asks for the same one from several sides, and compiling it takes longer than all of its trials."""
    environment = _environment()
    tree = environment.parse(source)
    variables = frozenset(jinja2.meta.find_undeclared_variables(tree))
    is_marked = mark_header(tree)
    template = environment.from_string(tree)
    template.globals = dict(template.globals)  # a chain of mappings, which each rendering would walk
    return _Compiled(template, variables, is_marked)


class Template:
    """Thread-safe. `variables` are those that it reads, `is_python` says that it is none of Jinja's.

    Raises `ModelUnavailableError` for a template that does not compile.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._special = dict(tokenizer.special_tokens_map)
        self._compiled: dict[bool, _Compiled] = {}
        self._source = ""
        self.variables: frozenset[str] = frozenset()
        self._no_tools: Mapping[str, Any] = {"tools": None}
        # mlx-lm may render in Python instead: its `apply_chat_template` is then the template.
        self.is_python = bool(tokenizer.init_kwargs.get("chat_template_type"))
        # (An empty one is none: a file that was never filled in.)
        self.is_missing = not tokenizer.has_chat_template or tokenizer.chat_template == ""
        if self.is_missing:
            self._compiled = dict.fromkeys((False, True), _compile(_PLAIN))
        elif isinstance(tokenizer.chat_template, str | dict) and not self.is_python:
            try:
                self._compile()
            except jinja2.TemplateError as error:
                raise ModelUnavailableError(f"the model's chat template does not compile: {error}") from error
            self._no_tools = next(filter(self._accepts, _NO_TOOLS), self._no_tools)

    def _compile(self) -> None:
        for with_tools in (False, True):
            source = self._tokenizer.get_chat_template(None, tools=[{}] if with_tools else None)
            if source == self._source:
                self._compiled[with_tools] = self._compiled[not with_tools]
                continue
            self._source += source
            self._compiled[with_tools] = _compile(source)
            self.variables |= self._compiled[with_tools].variables

    def _accepts(self, variables: Mapping[str, Any]) -> bool:
        values = {**self._special, "messages": [{"role": "user", "content": "."}], **variables}
        try:
            self._compiled[False].template.render({**values, "documents": None, "add_generation_prompt": True})
        except _REFUSALS:
            return False
        return True

    @property
    def tells_time(self) -> bool:
        return "strftime_now" in self._source

    @property
    def source(self) -> str:
        """The template's own text; empty where there is none, or rendering is done in Python."""
        return self._source

    def control_tokens(self, added: Iterable[str]) -> frozenset[str]:
        """Those of a tokenizer's added tokens that the template writes as markup."""
        return frozenset(token for token in added if token.strip() and token in self._source)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        switches: Mapping[str, Any],
        *,
        header: bool,
        day: datetime.datetime | None = None,
    ) -> str:
        """The prompt's text, with the generation header or without; `day` is the date it may tell (None: that of the
        load). Raises `InvalidRequestError` with the template's own words when it refuses the messages."""
        return self._write(messages, tools, switches, header=header, day=day).replace(MARK, "")

    def render_apart(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        switches: Mapping[str, Any],
        *,
        day: datetime.datetime | None = None,
    ) -> tuple[str, str] | None:
        """The text without the generation header, and with it, from one rendering; None where the template must be
        asked twice. Raises `InvalidRequestError`, also where only the header is refused."""
        if not self._compiled or not self._compiled[bool(tools)].is_marked:
            return None
        body, _, header = self._write(messages, tools, switches, header=True, day=day).partition(MARK)
        return body, body + header

    def _write(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        switches: Mapping[str, Any],
        *,
        header: bool,
        day: datetime.datetime | None,
    ) -> str:
        try:
            if self._compiled:
                return self._compiled[bool(tools)].template.render(
                    {
                        **self._special,
                        "documents": None,
                        **switches,
                        "messages": messages,
                        **({"tools": list(tools)} if tools else self._no_tools),
                        **({"strftime_now": day.strftime} if day else {}),
                        "add_generation_prompt": header,
                    }
                )
            return str(
                self._tokenizer.apply_chat_template(
                    exact.plain(list(messages)),
                    tools=exact.plain(list(tools)) or None,
                    tokenize=False,
                    add_generation_prompt=header,
                    **switches,
                )
            )
        except _REFUSALS as error:
            raise InvalidRequestError(f"the model's chat template refused the messages: {error}") from error
