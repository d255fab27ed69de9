"""A chat template that fails is an answer to the client, whatever its code raises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jinja2
import pytest

from shared.errors import InvalidRequestError
from worker.prompt.template import Template, _environment

MESSAGES = [{"role": "user", "content": "hello"}]


class TemplateOnly:
    """A tokenizer that is nothing but its template: Jinja, or in Python an exception."""

    special_tokens_map: Mapping[str, Any] = {}
    has_chat_template = True

    def __init__(self, chat_template: str | Exception) -> None:
        self.chat_template = chat_template
        self.init_kwargs = {"chat_template_type": "python"} if isinstance(chat_template, Exception) else {}

    def get_chat_template(self, chat_template: str | None = None, tools: Any = None) -> str:
        assert isinstance(self.chat_template, str)
        return self.chat_template

    def apply_chat_template(self, *args: Any, tokenize: bool = True, **kwargs: Any) -> Any:
        assert isinstance(self.chat_template, Exception)
        raise self.chat_template


def refusal(template: str | Exception) -> str:
    with pytest.raises(InvalidRequestError, match="the model's chat template refused the messages: ") as caught:
        Template(TemplateOnly(template)).render(MESSAGES, [], {}, header=True)
    return caught.value.message


def test_a_templates_own_words_are_passed_on() -> None:
    assert "roles must alternate" in refusal("{{ raise_exception('roles must alternate') }}")


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[9].content.strip() }}",
        "{{ messages[0].content + 1 }}",
        "{{ messages[0].content.no_such_method() }}",
        "{{ 1 // 0 }}",
        "{{ 10.0 ** 400 }}",
        "{{ '{1}'.format('x') }}",
        "{{ '%d' % 'x' }}",
        "{{ range(10 ** 9) | list }}",
        "{{ {'a': 1} | dictsort(by='x') }}",
        "{{ ''.__class__.__mro__ }}",
        "{% include 'another' %}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
        "{{ namespace | tojson }}",
        "{{ '9' * 5000 }}{{ ('9' * 5000) | tojson | length // ('9' * 5000) }}",
        "{% set found = messages | map(attribute='nothing') | map('upper') | list %}{{ found[3].x }}",
    ],
)
def test_an_expression_that_fails_is_the_clients_answer(template: str) -> None:
    refusal(template)


@pytest.mark.parametrize(
    "error",
    [
        AssertionError("a user turn comes first"),
        NotImplementedError("a user turn comes first"),
        KeyError("a user turn comes first"),
        ValueError("a user turn comes first"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_template_written_in_python_that_fails_is_the_clients_answer(error: Exception) -> None:
    assert "a user turn comes first" in refusal(error)


@pytest.mark.parametrize(
    "expression",
    [
        "''.__class__",
        "'{0.__class__}'.format(messages)",
        "'{x.__class__}'.format_map({'x': messages})",
        "messages[0].__class__",
        "messages[0].update({'role': 'x'})",
        "messages.append(1)",
        "namespace(x=''.format).x('{0.__class__}')",
        "namespace(x='{0.__class__}'.format).x(messages)",
        "namespace(x=1).__class__",
        "namespace(x=1)._Namespace__attrs",
    ],
)
def test_the_short_ways_of_the_sandbox_lead_nowhere_else(expression: str) -> None:
    """Attributes of a Python object are refused, or say nothing, whatever way a template takes to them."""
    source = "{{ " + expression + " }}"
    messages = [{"role": "user", "content": "x"}]
    try:
        text = _environment().from_string(source).render(messages=messages)
    except jinja2.exceptions.SecurityError:
        text = ""
    assert "class" not in text
    assert messages == [{"role": "user", "content": "x"}]


def test_a_namespaces_variables_are_what_was_set_and_else_undefined() -> None:
    source = (
        "{% set ns = namespace(no=false, empty='', most=messages.pop) %}{% for m in messages %}{% set ns.last = m %}"
        "{% endfor %}{{ ns.no }}|{{ ns.empty }}|{{ ns.last }}|{{ ns.absent is defined }}|{{ ns.most is defined }}"
    )
    assert _environment().from_string(source).render(messages=["a", "b"]) == "False||b|False|False"


def test_a_messages_fields_are_found_before_nothing_and_a_dictionarys_methods_before_fields() -> None:
    source = (
        "{{ m.role }}|{{ m.absent is defined }}|{{ m.absent is none }}|{% for k, v in m.items() %}{{ k }}{% endfor %}"
    )
    text = _environment().from_string(source).render(m={"role": "user", "items": 1})
    assert text == "user|False|False|roleitems"


@pytest.mark.parametrize(
    "source",
    [
        "{% macro told(a, b='x') %}{{ a }}{{ b }}{{ varargs }}{{ kwargs }}{% endmacro %}"
        "{% for m in messages %}{{ told(m, c=loop.index) }}{{ told(m, 2, 3) }}{% endfor %}",
        "{% macro twice() %}{{ caller() }}{{ caller() }}{% endmacro %}"
        "{% for m in messages %}{% call twice() %}{{ m }}{% endcall %}{% endfor %}",
        "{% macro down(n) %}{{ n }}{% if n %}{{ down(n - 1) }}{% endif %}{% endmacro %}{{ down(3) }}",
        "{% for n in range(3) %}{{ namespace(a=n, b=1).a }}{% endfor %}",
        "{% autoescape true %}{% macro bold(a) %}<b>{{ a }}</b>{% endmacro %}{{ bold('<') }}{% endautoescape %}",
    ],
)
def test_macros_namespaces_and_ranges_give_what_jinjas_own_sandbox_gives(source: str) -> None:
    own = jinja2.sandbox.ImmutableSandboxedEnvironment().from_string(source)
    text = _environment().from_string(source).render(messages=["a", "b"])
    assert text == own.render(messages=["a", "b"])
    assert text


def test_a_range_that_is_too_long_is_refused() -> None:
    refusal("{{ range(1000000) | list | length }}")
