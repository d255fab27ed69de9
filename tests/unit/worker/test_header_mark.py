"""One rendering gives a prompt and what stands before its generation header, where the template's syntax says so."""

from __future__ import annotations

from typing import Any

import pytest

from shared.errors import InvalidRequestError
from tests.models.templates import tokenizer_for
from worker.prompt.header_mark import MARK
from worker.prompt.template import Template
from worker.prompt.turns import NOTHING, Turns

_BODY = "{%- for m in messages -%}{{ '<|' + m.role + '|>' + m.content }}{%- endfor -%}"
_HEADER = "{{ '<|assistant|>' }}"
USER = {"role": "user", "content": "add_generation_prompt"}
ANSWER = {"role": "assistant", "content": "b"}

AT_THE_END = {
    "alone": f"{_BODY}{{% if add_generation_prompt %}}{_HEADER}{{% endif %}}",
    "with a line break": f"{_BODY}{{% if add_generation_prompt %}}{_HEADER}{{% endif %}}\n",
    "defined": f"{_BODY}{{% if add_generation_prompt is defined and add_generation_prompt %}}{_HEADER}{{% endif %}}",
    "never undefined": "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
    f"{_BODY}{{% if add_generation_prompt %}}{_HEADER}{{% endif %}}",
    "behind a user": f"{_BODY}{{% if add_generation_prompt and messages[-1].role == 'user' %}}{_HEADER}{{% endif %}}",
    "of branches": f"{_BODY}{{% if add_generation_prompt %}}{_HEADER}{{% if think %}}<a>{{% else %}}<b>{{% endif %}}"
    "{% endif %}",
    "in two parts": f"{_BODY}{{% if add_generation_prompt %}}{_HEADER}{{% endif %}}{{% set x = 1 %}}"
    "{% if add_generation_prompt and x %}<a>{% endif %}",
}
ELSEWHERE = {
    "nowhere": _BODY,
    "always": f"{_BODY}{_HEADER}",
    "or an end": f"{_BODY}{{% if add_generation_prompt %}}{_HEADER}{{% else %}}<|end|>{{% endif %}}",
    "or something else": f"{_BODY}{{% if add_generation_prompt %}}{_HEADER}{{% elif x %}}y{{% else %}}z{{% endif %}}",
    "with a text behind": f"{_BODY}{{% if add_generation_prompt %}}{_HEADER}{{% endif %}}<|end|>",
    "with a value behind": f"{_BODY}{{% if add_generation_prompt %}}{_HEADER}{{% endif %}}{{{{ bos_token }}}}",
    "in the loop": "{%- for m in messages -%}{{ m.content }}{% if loop.last and add_generation_prompt %}"
    f"{_HEADER}{{% endif %}}{{%- endfor -%}}",
    "also in the loop": "{%- for m in messages -%}{% if not add_generation_prompt %}<|{% endif %}{{ m.content }}"
    f"{{%- endfor -%}}{{% if add_generation_prompt %}}{_HEADER}{{% endif %}}",
    "or another": f"{_BODY}{{% if add_generation_prompt or messages[-1].role == 'user' %}}{_HEADER}{{% endif %}}",
    "not asked for": f"{_BODY}{{% if not add_generation_prompt %}}{_HEADER}{{% endif %}}",
    "compared": f"{_BODY}{{% if add_generation_prompt == true %}}{_HEADER}{{% endif %}}",
    "copied": f"{{% set x = add_generation_prompt %}}{_BODY}{{% if x %}}{_HEADER}{{% endif %}}",
    "changed": f"{_BODY}{{% set add_generation_prompt = true %}}{{% if add_generation_prompt %}}{_HEADER}{{% endif %}}",
    "in a macro": f"{{% macro h() %}}{{% if add_generation_prompt %}}{_HEADER}{{% endif %}}{{% endmacro %}}"
    f"{_BODY}{{{{ h() }}}}",
    "asked for twice": f"{_BODY}{{% if add_generation_prompt %}}{{{{ add_generation_prompt }}}}{{% endif %}}",
    "read by a filter": f"{_BODY}{{% if add_generation_prompt | default(true) %}}{_HEADER}{{% endif %}}",
}


def both(template: Template, dicts: list[dict[str, Any]]) -> tuple[str, str]:
    return tuple(template.render(dicts, (), {}, header=header) for header in (False, True))  # type: ignore[return-value]


@pytest.mark.parametrize("source", AT_THE_END.values(), ids=AT_THE_END)
def test_one_rendering_gives_both_where_the_header_is_asked_for_at_the_end_alone(source: str) -> None:
    template = Template(tokenizer_for(source))
    for dicts in ([USER], [USER, ANSWER], [USER, ANSWER, USER]):
        assert template.render_apart(dicts, (), {}) == both(template, dicts)
        assert MARK not in "".join(both(template, dicts))


@pytest.mark.parametrize("source", ELSEWHERE.values(), ids=ELSEWHERE)
def test_a_template_that_looks_elsewhere_is_asked_twice(source: str) -> None:
    template = Template(tokenizer_for(source))
    assert template.render_apart([USER], (), {}) is None
    assert MARK not in "".join(both(template, [USER]))


def test_messages_are_told_from_the_header_whose_refusal_is_none_of_theirs() -> None:
    source = (
        f"{_BODY}{{% if add_generation_prompt %}}{{% if messages[-1].role != 'user' %}}{{{{ raise_exception('no') }}}}"
        f"{{% endif %}}{_HEADER}{{% endif %}}"
    )
    turns = Turns(template := Template(tokenizer_for(source)), markers=None)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError):
        template.render_apart([USER, ANSWER], (), {})
    assert turns.body([USER, ANSWER], NOTHING) == template.render([USER, ANSWER], (), {}, header=False)
    with pytest.raises(InvalidRequestError):
        turns.whole([USER, ANSWER], NOTHING)
