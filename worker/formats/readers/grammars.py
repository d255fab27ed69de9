"""The grammar of each markup family that mlx-lm can parse."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from worker.formats.readers.region import Parse, Tools
from worker.formats.readers.tagged import Grammar
from worker.formats.readers.values import UNREADABLE, JsonOrText, TextValue, Value, WholeValue
from worker.formats.schemas import stated_types

_QWEN_STRINGS = frozenset({"string", "str", "text", "varchar", "char", "enum"})
_STRINGS = frozenset({"string", "str", "text"})
_QUOTED = r"\"[^\"]*\"|'[^']*'|[^\s\"'<>]+"


def schema_of(tools: Tools, tool: str, key: str) -> Any:
    """The JSON schema of one parameter; None when it is not declared."""
    for entry in tools:
        function = entry["function"]
        if function["name"] == tool:
            properties = (function.get("parameters") or {}).get("properties") or {}
            return properties.get(key)
    return None


def _unquote(text: str) -> str:
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    return text


def _converted(parse: Parse, tools: Tools, text: str, key: str) -> Callable[[str], Any]:
    """Reads one value by letting the family's own parser read a call that has only this argument. `text` holds the
    call with `{}` where the value belongs."""

    def convert(raw: str) -> Any:
        before, after = text.split("\0")
        parsed = parse(f"{before}{raw}{after}", tools)
        return (parsed[0] if isinstance(parsed, list) else parsed)["arguments"][key]

    return convert


def _qwen3_coder(parse: Parse) -> Grammar:
    name = re.compile(r"\s*([^\s<>]+)(?:>|(?=[\s<]))")

    def value(tools: Tools, tool: str, key: str, kind: str | None) -> Value:
        schema = schema_of(tools, tool, key)
        if not schema or (isinstance(schema, dict) and str(schema.get("type")).strip().lower() in _QWEN_STRINGS):
            return TextValue("newline", null=True)
        call = f"<function={tool}>\n<parameter={key}>\0</parameter>\n</function>"
        return WholeValue(_converted(parse, tools, call, key))

    return Grammar(
        call="<function=",
        header=name,
        parameter="<parameter=",
        key=name,
        value_end="</parameter>",
        call_end="</function>",
        value=value,
    )


def _typed_value(parse: Parse, call: Callable[[str, str], str]) -> Callable[[Tools, str, str, str | None], Value]:
    def value(tools: Tools, tool: str, key: str, kind: str | None) -> Value:
        schema = schema_of(tools, tool, key)
        if schema is None or stated_types(schema) <= _STRINGS:
            return TextValue("space", null=True)
        return WholeValue(_converted(parse, tools, call(tool, key), key))

    return value


def _minimax_m2(parse: Parse) -> Grammar:
    return Grammar(
        call="<invoke name=",
        header=re.compile(r"([^>]+)>"),
        parameter="<parameter name=",
        key=re.compile(r"([^>]+)>"),
        value_end="</parameter>",
        call_end="</invoke>",
        value=_typed_value(
            parse, lambda tool, key: f'<invoke name="{tool}"><parameter name="{key}">\0</parameter></invoke>'
        ),
        name_of=lambda match: _unquote(match[1]),
        key_of=lambda match: (_unquote(match[1]), None),
    )


def _minicpm5(parse: Parse) -> Grammar:
    return Grammar(
        call="",
        header=re.compile(rf"\s*(?:<function\s+)?(?:name\s*=\s*)?({_QUOTED})\s*>"),
        parameter="<param",
        key=re.compile(rf"\s+name\s*=\s*({_QUOTED})\s*>"),
        value_end="</param>",
        call_end="</function>",
        value=_typed_value(parse, lambda tool, key: f'"{tool}"><param name="{key}">\0</param></function>'),
        name_of=lambda match: _unquote(match[1]),
        key_of=lambda match: (_unquote(match[1]), None),
        cdata=True,
    )


def _muse_spark(parse: Parse) -> Grammar:
    return Grammar(
        call="<atem:invoke",
        header=re.compile(r"[^>]*?\bname=\"([^\"]+)\">"),
        parameter="<atem:parameter",
        key=re.compile(r"[^>]*?\bname=\"([^\"]+)\"[^>]*?>"),
        value_end="</atem:parameter>",
        call_end="</atem:invoke>",
        value=lambda tools, tool, key, kind: JsonOrText(),
        key_of=lambda match: (match[1], None),
    )


def _glm(parse: Parse, prefix: str) -> Grammar:
    """GLM-4.5 and later, Laguna (prefix "") and LongCat."""
    key_tag, value_tag = f"{prefix}arg_key", f"{prefix}arg_value"

    def value(tools: Tools, tool: str, key: str, kind: str | None) -> Value:
        schema = schema_of(tools, tool, key)
        if isinstance(schema, dict) and schema.get("type") == "string":
            return TextValue("space", null=False)
        call = f"{tool}<{key_tag}>{key}</{key_tag}><{value_tag}>\0</{value_tag}>"
        return WholeValue(_converted(parse, tools, call, key))

    def fallback(text: str, tools: Tools) -> list[dict[str, Any]]:
        """A call without arguments, or in another shape: only for a tool that exists, because the parser reads
        any text at all as a call."""
        names = {entry["function"]["name"] for entry in tools}
        if text.strip() in names:
            return [{"name": text.strip(), "arguments": {}}]
        try:
            call = parse(text, tools)
        except UNREADABLE:
            return []
        plain = isinstance(call, dict) and isinstance(call.get("arguments"), dict)
        return [call] if plain and call.get("name") in names else []

    return Grammar(
        call="",
        header=re.compile(rf"(.*?)(?=<{key_tag}>)", re.DOTALL),
        parameter=f"<{key_tag}>",
        key=re.compile(rf"(.*?)</{key_tag}>(?:\\n|\s)*<{value_tag}>", re.DOTALL),
        value_end=f"</{value_tag}>",
        call_end=f"</{prefix}tool_call>",
        value=value,
        fallback=fallback,
    )


_K3_ATTRIBUTES = re.compile(r"((?:(?!<\|sep\|>).)*)<\|sep\|>", re.DOTALL)
_K3_ATTRIBUTE = re.compile(r"(\w+)=\"([^\"]*)\"")


def _k3_attributes(match: re.Match[str]) -> dict[str, str]:
    found = _K3_ATTRIBUTE.findall(match[1])
    return {key: value.replace("&quot;", '"').replace("&amp;", "&") for key, value in found}


def _k3_key(match: re.Match[str]) -> tuple[str, str | None]:
    attributes = _k3_attributes(match)
    return attributes.get("key", ""), attributes.get("type", "string")


def _kimi_k3(parse: Parse) -> Grammar:
    return Grammar(
        call="<|open|>call",
        header=_K3_ATTRIBUTES,
        parameter="<|open|>argument",
        key=_K3_ATTRIBUTES,
        value_end="<|close|>argument<|sep|>",
        call_end="<|close|>call<|sep|>",
        value=lambda tools, tool, key, kind: (
            TextValue("none", null=False) if kind == "string" else WholeValue(json.loads, trim=False)
        ),
        name_of=lambda match: _k3_attributes(match).get("tool", ""),
        key_of=_k3_key,
        json="<|open|>json",
        json_header=_K3_ATTRIBUTES,
        json_end="<|close|>json<|sep|>",
    )


GRAMMARS: dict[str, Callable[[Parse], Grammar]] = {
    "qwen3_coder": _qwen3_coder,
    "minimax_m2": _minimax_m2,
    "minicpm5": _minicpm5,
    "muse_spark": _muse_spark,
    "glm47": lambda parse: _glm(parse, ""),
    "laguna": lambda parse: _glm(parse, ""),
    "longcat": lambda parse: _glm(parse, "longcat_"),
    "kimi_k3": _kimi_k3,
}
