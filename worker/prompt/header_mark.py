"""Where a template's generation header begins, so that one rendering gives both a prompt and what stands before it.

Most templates write the header at their very end, under `add_generation_prompt`, which they look at nowhere else: what
they write without it is then what stands before, whatever the messages are. This is read off the template's syntax.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator

from jinja2 import nodes

_ASKED = "add_generation_prompt"
MARK = f"<header {secrets.token_hex(16)}>"  # nobody can write it


def mark_header(template: nodes.Template) -> bool:
    """Write `MARK` in front of the header. False, and nothing is changed, where it cannot be told where that is."""
    at = next((index for index, node in enumerate(template.body) if _mentions(node) and not _is_default(node)), None)
    if at is None or not all(_is_header(node) or _is_silent(node) for node in template.body[at:]):
        return False
    template.body.insert(at, nodes.Output([nodes.TemplateData(MARK)]))
    return True


def _is_header(node: nodes.Node) -> bool:
    """Whether it writes nothing without the header, and looks at the variable for nothing else."""
    return (
        isinstance(node, nodes.If)
        and not node.elif_
        and not node.else_
        and any(_is_asked(part) for part in _conjuncts(node.test))
        and not any(_mentions(part) for part in _conjuncts(node.test) if not _is_asked(part) and not _is_defined(part))
        and not any(_mentions(inner) for inner in node.body)
    )


def _is_default(node: nodes.Node) -> bool:
    """What is done where nobody says whether there is to be a header, which we always do."""
    return isinstance(node, nodes.If) and isinstance(node.test, nodes.Not) and _is_defined(node.test.node)


def _is_silent(node: nodes.Node) -> bool:
    """A text of nothing, or one that only sets variables."""
    return isinstance(node, nodes.Assign) and not _mentions(node)


def _conjuncts(test: nodes.Node) -> Iterator[nodes.Node]:
    if isinstance(test, nodes.And):
        yield from _conjuncts(test.left)
        yield from _conjuncts(test.right)
    else:
        yield test


def _is_asked(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Name) and node.name == _ASKED


def _is_defined(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Test) and node.name == "defined" and _is_asked(node.node)


def _mentions(node: nodes.Node) -> bool:
    return _is_asked(node) or any(_is_asked(name) for name in node.find_all(nodes.Name))
