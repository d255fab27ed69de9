"""Chat templates for scripted checkpoints: ChatML, with calls written as a family writes them."""

from __future__ import annotations

from worker.formats.families import Braces, Family, Headed, Nested, Objects, Python, Tag, Tagged

_BODY = r"""
{%- if tools -%}
{{ '<|im_start|>system\nTools:\n' }}
{%- for tool in tools -%}{{ tool | tojson }}{{ '\n' }}{%- endfor -%}
{{ '<|im_end|>\n' }}
{%- endif -%}
{%- for m in messages -%}
{{ '<|im_start|>' ~ m.role ~ '\n' ~ (m.content or '') }}
{%- for tool_call in m.tool_calls or [] -%}{%- set call = tool_call.function -%}CALL{%- endfor -%}
{{ '<|im_end|>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"""


def template_of(family: Family) -> str:
    """A template that shows the family's calls."""
    return _BODY.replace("CALL", _text(family.start) + _call(family) + _text(family.end))


def _text(text: str) -> str:
    """The text as it stands."""
    return "{{ '" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "' }}" if text else ""


_NAME, _ARGUMENTS = "{{ call.name }}", "{{ call.arguments | tojson }}"
_EACH, _END = "{%- for key, value in call.arguments | items -%}", "{%- endfor -%}"
_VALUE = "{{ value if value is string else value | tojson }}"


def _tag(tag: Tag, name: str, kind: str = "") -> str:
    if not tag.kind:
        return _text(tag.before) + name + _text(tag.after)
    return f"{_text(tag.before)}{name}{_text(chr(34) + ' ' + tag.kind + '=' + chr(34))}{kind}{_text(tag.after)}"


def _call(family: Family) -> str:
    match family.shape:
        case Tagged() as shape:
            return _tagged(family, shape)
        case Objects(keyed=True):
            return _text('[{"') + _NAME + _text('": ') + _ARGUMENTS + _text("}]")
        case Objects() as shape:
            body = _text('{"' + shape.name + '": "') + _NAME + _text('", "' + shape.arguments + '": ') + _ARGUMENTS
            fence = ("\n```json\n", "\n```") if shape.fenced else ("", "")
            begin, end = (fence[0] + "[", "}]" + fence[1]) if shape.listed else ("", "}")
            return _text(begin) + body + _text(end)
        case Headed() as shape:
            identified = _text(f"0{shape.identified}") if shape.identified else ""
            counted = _text(":0") if shape.counted else ""
            head = (
                _text(shape.begin if shape.begin != family.start else "")
                + identified
                + _NAME
                + counted
                + _text(shape.middle)
            )
            return head + _ARGUMENTS + _text(shape.end)
        case Braces(quote=quote):
            text = _text(quote) + "{{ value }}" + _text(quote)
            value = "{%- if value is string -%}" + text + "{%- else -%}{{ value | tojson }}{%- endif -%}"
            pair = "{{ key }}:" + value + "{{ ',' if not loop.last }}"
            return _text("call:") + _NAME + _text("{") + _EACH + pair + _END + _text("}")
        case Python(lines=lines):
            pair = "{{ key }}={{ value | tojson }}{{ ', ' if not loop.last }}"
            call = _NAME + _text("(") + _EACH + pair + _END + _text(")")
            return call if lines else _text("[") + call + _text("]")
        case Nested(space=space):
            element = _text(f"{space}<") + "{{ key }}>" + _VALUE + _text(f"{space}</") + "{{ key }}>"
            head = _text(f'{space}<invoke name="') + _NAME + _text('">')
            return head + _EACH + element + _END + _text(f"{space}</invoke>")


def _tagged(family: Family, shape: Tagged) -> str:
    head = _tag(shape.call, _NAME, "0") if shape.call else _NAME
    if shape.call and shape.call.before.startswith(family.start):
        head = _text(shape.call.before.removeprefix(family.start)) + _NAME + _text(shape.call.after)
    kind = "{{ 'true' if value is string else 'false' }}"
    if shape.key.kind == "type":
        kind = "{{ 'string' if value is string else 'number' }}"
    element = _tag(shape.key, "{{ key }}", kind) + _text(shape.value) + _text(shape.frame) + _VALUE
    gap = _text("\n") if shape.key.kind != "type" else ""
    body = _EACH + element + _text(shape.frame) + _text(shape.value_end) + gap + _END
    return head + gap + body + _text(shape.call_end) + (gap if shape.call_end else "")
