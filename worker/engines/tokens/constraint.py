"""Which tokens may come next: requests that demand a form, compiled to llguidance grammars.

A request demands a form when it has a response schema or a form in its client's own words, when its tool choice is
`any` or `tool`, or when one of its tools is `strict`. With a response schema, an answer is JSON or calls where the
model may choose, and calls where they are demanded. The grammar covers the whole answer, an open reasoning block
included. Grammars are written in llguidance's Lark dialect
(https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md).

The grammar of a call depends on how the model writes calls: `worker.formats.grammars` has one for nearly
every format that is read.

llguidance because it needs no tensor library, compiles in milliseconds and knows most of JSON Schema; what a schema
says beyond that is dropped with a warning, never refused. Chosen by measurement, see `DESIGN.md`.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import llguidance
import llguidance.numpy
import numpy as np
from numpy.typing import NDArray

from shared import exact
from shared.errors import InvalidRequestError
from shared.messages import Message, Part, TextPart, ToolReferencePart, ToolResultPart
from shared.request import GenerateRequest, ToolDefinition
from worker.engines.tokens.digits import Digits
from worker.formats.enforceable import enforceable, where
from worker.formats.grammars import CALL_FORMS, SPACE, CallForm, Rules, UnwritableError
from worker.formats.grammars.written import has_written_form, written_form
from worker.formats.schemas import literals, names_only, resolvable
from worker.formats.unenforced import Unenforced, warnings_of

# Keywords that llguidance refuses in some or all uses and that an answer can do without. The one it complains about is
# dropped, else the first of these.
_DROPPABLE = (
    *("pattern", "format", "minProperties", "maxProperties", "uniqueItems", "contains", "minContains", "maxContains"),
    *("propertyNames", "dependentRequired", "dependentSchemas", "dependencies", "unevaluatedProperties"),
    *("unevaluatedItems", "not", "if", "then", "else", "oneOf", "patternProperties"),
)

_KEPT_GRAMMARS = 16
_KEPT_SCHEMAS = 256

_NOWHERE = "a `$ref` that leads nowhere is not enforced"
_ANY_OBJECT: dict[str, Any] = {"type": "object"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Markers:
    """How a model writes: the texts around reasoning and calls, empty when it has none, and the name of the family in
    whose form it calls (`parser`). `answer_start` must stand before text, and `wrap` may stand around it;
    `form` is that of calls without a family."""

    think_start: str = ""
    think_end: str = ""
    call_start: str = ""
    call_end: str = ""
    parser: str = ""
    answer_start: str = ""
    wrap: tuple[str, str] = ("", "")
    form: CallForm | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Grammar:
    """A compiled demand. `text` is empty when it could not be enforced at all; `warnings` say what is not.
    `unreasoned` is the same without reasoning where the model may reason first or not, else empty. `begun` are the
    tokens with which the client has begun the answer."""

    text: str
    warnings: tuple[str, ...] = ()
    unreasoned: str = ""
    begun: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Think:
    """Whether the answer begins inside a reasoning block, and whether it may open one."""

    is_open: bool
    is_allowed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Calls:
    """How calls are written, whether one must be made, and whether there may be several. `answer` is the schema of the
    JSON that may stand in their place."""

    form: CallForm
    required: bool
    parallel: bool
    answer: dict[str, Any] | None = None


class Constraint:
    """The state of one answer under a grammar. Not thread-safe; used on the engine thread."""

    def __init__(
        self,
        matcher: llguidance.LLMatcher,
        *,
        vocabulary: int,
        eos_token_ids: Sequence[int],
        digits: Digits,
        unreasoned: llguidance.LLMatcher | None = None,
    ) -> None:
        """`matcher` is this answer's own; `vocabulary` the number of tokens that it knows. `unreasoned` is for the
        first token alone and not advanced."""
        self._eos_token_ids = list(eos_token_ids)
        self._matcher = matcher
        self._unreasoned = unreasoned
        self.is_broken = False  # whether a token came that the form does not allow, before it was complete
        self._run = digits.run()
        self._words = llguidance.numpy.allocate_token_bitmask(1, vocabulary)

    def allowed(self, vocabulary: int) -> NDArray[np.bool_]:
        """Booleans of shape (vocabulary,): the tokens that may come next. Only an end token once the form is
        complete and admits nothing more."""
        if self._matcher.is_stopped():
            ends = np.zeros(vocabulary, dtype=np.bool_)
            ends[self._eos_token_ids] = True
            return ends
        return self._run.bounded(self._next(self._matcher, vocabulary))

    def voluntary(self, vocabulary: int) -> NDArray[np.bool_] | None:
        """Those of the allowed tokens that begin reasoning, where the model may begin it or not: only one that wants
        to say one of them before all other tokens should. A model that wants to say something else would, left with
        these or the form's first tokens, rather reason, and one that never learned to reason does not come to an end.
        None where there are none."""
        if self._unreasoned is None:
            return None
        return self.allowed(vocabulary) & ~self._next(self._unreasoned, vocabulary)

    def _next(self, matcher: llguidance.LLMatcher, vocabulary: int) -> NDArray[np.bool_]:
        llguidance.numpy.fill_next_token_bitmask(matcher, self._words, 0)
        bits = np.unpackbits(self._words[0].view(np.uint8), bitorder="little").astype(np.bool_)
        if len(bits) >= vocabulary:
            return bits[:vocabulary]
        return np.concatenate([bits, np.zeros(vocabulary - len(bits), dtype=np.bool_)])

    def accept(self, token: int) -> bool:
        """Advance by the token that was sampled. False when the grammar does not allow it, the answer is over, or the
        grammar has given up (it has limits of its own), which is no end."""
        self._unreasoned = None
        self._run.add(token)
        if self._matcher.is_stopped():
            self.is_broken = self.is_broken or bool(self._matcher.is_error())
            return False
        is_allowed = bool(self._matcher.consume_token(token))
        self.is_broken = self.is_broken or not is_allowed
        return is_allowed

    @property
    def is_complete(self) -> bool:
        """Whether the answer may end here."""
        return bool(self._matcher.is_accepting())


def is_demanding(request: GenerateRequest) -> bool:
    """Whether the request demands a form at all."""
    return request.response_schema is not None or has_written_form(request) or bool(demanded_tools(request)[0])


def must_have_form(request: GenerateRequest) -> bool:
    """Whether no answer in free text is possible."""
    return request.response_schema is not None or has_written_form(request) or demanded_tools(request)[1]


class ConstraintCompiler:
    """Compiles requests for one model. Thread-safe."""

    def __init__(self, tokenizer_json: str, *, eos_token_ids: Sequence[int], vocabulary: int, markers: Markers) -> None:
        """`tokenizer_json` is the text of a fast tokenizer's file; `vocabulary` the width of the model's logits."""
        self._tokenizer = llguidance.LLTokenizer(tokenizer_json, n_vocab=vocabulary, eos_token=list(eos_token_ids))
        self._eos_token_ids = tuple(eos_token_ids)
        self._markers = markers
        self._controls = _control_texts(self._tokenizer, tokenizer_json)
        self._digits = Digits([self._tokenizer.decode_bytes([token]) for token in range(self._tokenizer.vocab_size)])
        self._lock = threading.Lock()
        self._matchers: OrderedDict[str, llguidance.LLMatcher] = OrderedDict()
        self._fitted: OrderedDict[str, tuple[dict[str, Any], tuple[Unenforced, ...]]] = OrderedDict()

    def compile(self, request: GenerateRequest, *, in_reasoning: bool, continues: bool = False) -> Grammar | None:
        """The grammar that the request demands, None when it demands nothing. With `continues` the client has begun
        the answer in its last message. Raises `InvalidRequestError` when that does not begin what it demands."""
        think = _Think(is_open=in_reasoning, is_allowed=request.reasoning.enabled is not False and not continues)
        grammar = self._demanded(request, think)
        if grammar is None or in_reasoning or not must_have_form(request):
            return grammar
        if continues:
            return self._continued(grammar, request)
        unreasoned = self._demanded(request, replace(think, is_allowed=False))
        if unreasoned is None or unreasoned.text == grammar.text:
            return grammar
        return replace(grammar, unreasoned=unreasoned.text)

    def _continued(self, grammar: Grammar, request: GenerateRequest) -> Grammar:
        """The grammar of an answer of which the client has written the beginning, where the beginning counts: a call
        may stand behind any text."""
        begun = _begun(request.messages[-1])
        if demanded_tools(request)[1] or not begun or not grammar.text:
            return grammar
        tokens = self._tokenizer.tokenize_str(self._markers.answer_start, parse_special=True)
        tokens += self._tokenizer.tokenize_str(begun)
        if self._matcher(grammar.text).deep_copy().try_consume_tokens(tokens) != len(tokens):
            raise InvalidRequestError(
                "messages: the answer has to fit a schema, and the last message does not begin JSON that does",
                param="messages",
            )
        return replace(grammar, begun=tuple(tokens))

    def _demanded(self, request: GenerateRequest, think: _Think) -> Grammar | None:
        demanded, required = demanded_tools(request)
        if has_written_form(request) and not required:
            return self._written(request, think)
        if request.response_schema is not None and not required:
            return self._answer(request, request.response_schema, think)
        return self._demanded_calls(request, demanded, think, required=required) if demanded else None

    def _demanded_calls(
        self,
        request: GenerateRequest,
        tools: Sequence[ToolDefinition],
        think: _Think,
        *,
        required: bool,
        answer: dict[str, Any] | None = None,
    ) -> Grammar:
        form = self._markers.form or CALL_FORMS.get(self._markers.parser)
        if form is None:
            parser = self._markers.parser or "unknown"
            return Grammar(text="", warnings=(f"tool calls of the `{parser}` format cannot be enforced",))
        calls = _Calls(form=form, required=required, parallel=request.tool_choice.parallel, answer=answer)
        try:
            return self._calls(calls, tools, think)
        except Exception as error:  # noqa: BLE001 (a client's schema may be malformed in any way: it is served all the same)
            return Grammar(text="", warnings=(f"tool calls are not enforced, a schema is malformed: {error}",))

    def start(self, grammar: Grammar) -> Constraint | None:
        """A fresh state for one answer; None when the grammar enforces nothing."""
        if not grammar.text:
            return None
        matcher = self._matcher(grammar.text).deep_copy()
        if grammar.begun:
            matcher.consume_tokens(list(grammar.begun))
        return Constraint(
            matcher,
            vocabulary=self._tokenizer.vocab_size,
            eos_token_ids=self._eos_token_ids,
            digits=self._digits,
            unreasoned=self._matcher(grammar.unreasoned).deep_copy() if grammar.unreasoned else None,
        )

    def _matcher(self, text: str) -> llguidance.LLMatcher:
        """Compiled once and copied for every answer: twenty tools take milliseconds to compile, and answers start on
        the engine's thread. (So nothing is compiled under the lock.)"""
        with self._lock:
            matcher = self._matchers.get(text)
        if matcher is None:
            matcher = llguidance.LLMatcher(self._tokenizer, text)
        with self._lock:
            self._matchers[text] = matcher
            self._matchers.move_to_end(text)
            if len(self._matchers) > _KEPT_GRAMMARS:
                self._matchers.popitem(last=False)
        return matcher

    def _answer(self, request: GenerateRequest, schema: dict[str, Any], think: _Think) -> Grammar:
        def build(fitted: dict[str, Any]) -> Grammar:
            rules = Rules(self._tokenizer)
            return Grammar(text=rules.text(f"{self._reasoning(rules, think)} {self._json(rules, fitted)}"))

        whole = resolvable(schema, schema)
        enforced, dropped = self._enforceable(whole if schema else _ANY_OBJECT)
        fitted, lost, error = self._fit(enforced, build)
        warnings = [*([] if whole == schema else [_NOWHERE]), *warnings_of([*dropped, *lost])]
        if error:
            return Grammar(text="", warnings=(f"the schema is not enforced: {error}",))
        if request.tool_choice.mode == "auto" and (tools := shown_tools(request)):
            either = self._demanded_calls(request, tools, think, required=False, answer=fitted)
            warnings += either.warnings
            if either.text:
                return replace(either, warnings=tuple(warnings))
        return replace(build(fitted), warnings=tuple(warnings))

    def _written(self, request: GenerateRequest, think: _Think) -> Grammar:
        """A form in the client's own words. Raises `InvalidRequestError` for what is none."""
        rules = Rules(self._tokenizer)
        start, end = map(rules.optional, self._markers.wrap)
        form = f"{rules.literal(self._markers.answer_start)} {start} {written_form(rules, request)} {end}"
        grammar = Grammar(text=rules.text(f"{self._reasoning(rules, think)} {form}"))
        if error := self._error(grammar):
            what = "regular expression" if request.response_pattern else "grammar"
            raise InvalidRequestError(f"the {what} cannot be used: {error}")
        return grammar

    def _json(self, rules: Rules, schema: dict[str, Any]) -> str:
        start, end = map(rules.optional, self._markers.wrap)
        return f"{rules.literal(self._markers.answer_start)} {start} {SPACE} {rules.json(schema)} {end}"

    def _calls(self, calls: _Calls, tools: Sequence[ToolDefinition], think: _Think) -> Grammar:
        """All tools as they are if llguidance takes them, else each with as much of its schema as it takes."""

        def build(*some: ToolDefinition) -> Grammar:
            return self._call_grammar(calls, some, think)

        known = [replace(tool, parameters=resolvable(tool.parameters, dict(tool.parameters))) for tool in tools]
        warnings = [] if known == list(tools) else [_NOWHERE]
        tools = []
        lost: list[Unenforced] = []
        for tool in known:
            schema, dropped = self._enforceable(tool.parameters)
            tools.append(replace(tool, parameters=schema))
            lost += [replace(one, tool=tool.name) for one in dropped]
        grammar = build(*tools)
        if self._error(grammar):
            fitted = []
            for tool in tools:

                def alone(schema: dict[str, Any], tool: ToolDefinition = tool) -> Grammar:
                    return build(replace(tool, parameters=schema))

                schema, more, error = self._fit(tool.parameters, alone)
                if error:
                    warnings.append(f"the schema of `{tool.name}` is not enforced: {error}")
                else:
                    lost += [replace(one, tool=tool.name) for one in more]
                fitted.append(replace(tool, parameters=names_only(tool.parameters) if error else schema))
            grammar = build(*fitted)
            if error := self._error(grammar):
                return Grammar(text="", warnings=(f"tool calls are not enforced: {error}",))
        return replace(grammar, warnings=tuple(dict.fromkeys([*warnings, *warnings_of(lost), *grammar.warnings])))

    def _call_grammar(self, calls: _Calls, tools: Sequence[ToolDefinition], think: _Think) -> Grammar:
        rules = Rules(self._tokenizer)
        written = []
        for tool in tools:
            try:
                if self._spells_control([tool.name]):
                    raise UnwritableError("its name spells a control token")
                with rules.inside(tool=tool.name):
                    written.append(calls.form.call(rules, tool))
            except UnwritableError as why:  # a call of it could not be read either
                rules.warn(f"`{tool.name}` cannot be called in this model's format: {why}")
        if not written:
            return Grammar(text="", warnings=rules.warnings)
        start, end = self._markers.call_start, self._markers.call_end
        region = calls.form.region(rules, written, start=start, end=end, parallel=calls.parallel)
        reasoning = self._reasoning(rules, think)
        call = f"{rules.literal(start)} {region}"
        more = f" ({SPACE} {call})*" if calls.parallel and end else ""
        if calls.answer is not None:
            body = f"({self._json(rules, calls.answer)} | {SPACE} {call}{more})"
        elif not calls.required and self._markers.answer_start:
            # Control tokens stand before both, which free text cannot hold.
            text = f"{rules.literal(self._markers.answer_start)} {rules.free()}"
            body = f"({call} | {text})"
        elif not calls.required and not start:
            body = f"({call} | {rules.unlike_call()})"
        elif not calls.required:
            head, text = rules.until(start), rules.free(start)
            body = f"({head} {region})* {text}" if end else f"({head} {region} | {text})"
            body = self._wrapped(rules, body)
        else:
            body = f"{SPACE} {call}{more}"
        return Grammar(text=rules.text(f"{reasoning} {body}"), warnings=rules.warnings)

    def _wrapped(self, rules: Rules, body: str) -> str:
        """Free text holds markers of plain text itself, but no tokens of their own."""
        start, end = (rules.optional(marker) if rules.is_token(marker) else "" for marker in self._markers.wrap)
        return f"{start} {body} {end}"

    def _fit(
        self, schema: dict[str, Any], build: Callable[[dict[str, Any]], Grammar]
    ) -> tuple[dict[str, Any], list[Unenforced], str]:
        """The schema with as few keywords dropped as llguidance needs, what was dropped, and its last complaint."""
        lost: list[Unenforced] = []
        while error := self._error(build(schema)):
            present = [keyword for keyword in _DROPPABLE if _without_keyword(schema, keyword) != schema]
            if not present:
                break
            for keyword in [keyword for keyword in present if keyword in error] or present[:1]:
                lost += [Unenforced(keyword, path) for path in where(schema, keyword)]
                schema = _without_keyword(schema, keyword)
        return schema, lost, error

    def _enforceable(self, schema: dict[str, Any]) -> tuple[dict[str, Any], tuple[Unenforced, ...]]:
        """The schema without what llguidance does not take, and what that is."""
        key = exact.dumps(schema)
        with self._lock:
            known = self._fitted.get(key)
        if known is None:
            known = enforceable(schema, self._complaint)[:2]
        with self._lock:
            self._fitted[key] = known
            self._fitted.move_to_end(key)
            if len(self._fitted) > _KEPT_SCHEMAS:
                self._fitted.popitem(last=False)
        return known

    def _spells_control(self, texts: Iterable[str]) -> bool:
        """Whether one of these texts holds that of a control token. llguidance would force such a text as the token,
        which it then refuses."""
        return any(control in text for text in texts for control in self._controls)

    def _complaint(self, schema: dict[str, Any]) -> str:
        if self._spells_control(literals(schema)):
            return "a literal spells a control token"
        return _first_line(llguidance.LLMatcher(self._tokenizer, f"start: %json {exact.dumps(schema)}").get_error())

    def _error(self, grammar: Grammar) -> str:
        """What llguidance has against it, in one line."""
        return _first_line(self._matcher(grammar.text).get_error()) if grammar.text else ""

    def _reasoning(self, rules: Rules, think: _Think) -> str:
        """A reasoning block before the answer: the rest of an open one, or an optional whole one."""
        start, end = self._markers.think_start, self._markers.think_end
        if not end or not (think.is_open or think.is_allowed):
            return ""
        rest = rules.until(end)
        return rest if think.is_open else f"({rules.literal(start)} {rest})?"


def _control_texts(tokenizer: llguidance.LLTokenizer, tokenizer_json: str) -> tuple[str, ...]:
    """Of the tokens that llguidance takes for control tokens, which are more than those that the file calls special."""
    added = json.loads(tokenizer_json).get("added_tokens", ())
    return tuple(token["content"] for token in added if tokenizer.is_special_token(token["id"]))


def _first_line(error: str) -> str:
    return error.strip().splitlines()[0] if error else ""


def _begun(message: Message) -> str:
    """What the client wrote of the answer."""
    return "\n".join(part.text for part in message.parts if isinstance(part, TextPart))


def demanded_tools(request: GenerateRequest) -> tuple[tuple[ToolDefinition, ...], bool]:
    """The tools whose calls must have the right form, and whether a call must be made at all."""
    tools = shown_tools(request)
    match request.tool_choice.mode:
        case "any":
            return tools, True
        case "tool":
            return tuple(t for t in request.tools if t.name == request.tool_choice.name), True
        case "auto" if any(t.strict for t in tools):
            return tools, False
        case _:
            return (), False


def shown_tools(request: GenerateRequest) -> tuple[ToolDefinition, ...]:
    """Those whose definitions the model can see."""
    known = _referenced(request.messages)
    return tuple(tool for tool in request.tools if not tool.deferred or tool.name in known)


def _referenced(messages: Sequence[Message]) -> set[str]:
    """Names of the deferred tools whose definitions the conversation shows."""
    parts: list[Part] = [part for message in messages for part in message.parts]
    parts += [inner for part in parts if isinstance(part, ToolResultPart) for inner in part.parts]
    return {part.tool_name for part in parts if isinstance(part, ToolReferencePart)}


def _without_keyword(schema: Any, keyword: str, *, names: bool = False) -> Any:
    """The schema without the keyword, or with `anyOf` for `oneOf`; the keys of `properties` are names, not keywords,
    and stay."""
    if isinstance(schema, dict):
        out = {
            key: _without_keyword(value, keyword, names=not names and key in ("properties", "$defs", "definitions"))
            for key, value in schema.items()
            if names or key != keyword
        }
        if keyword == "oneOf" and "oneOf" in schema and not names:
            out.setdefault("anyOf", _without_keyword(schema["oneOf"], keyword))
        return out
    return [_without_keyword(value, keyword) for value in schema] if isinstance(schema, list) else schema
