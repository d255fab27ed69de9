"""The list of models in the vendor's shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from gateway.dialects.anthropic.schema import NAMES
from shared.errors import InvalidRequestError
from shared.registry import Fleet

_MOST_MODELS = 1000  # a page, in this API


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The part of the list that a client asks for: at most `limit` models next to the one that a cursor names."""

    limit: int = _MOST_MODELS
    after_id: str = ""
    before_id: str = ""


def parse_page(query: Mapping[str, str]) -> Page:
    """The Anthropic API's `limit`, `after_id` and `before_id`; without a limit clients get all models. Raises
    `InvalidRequestError`."""
    limit, after_id, before_id = (query.get(name, "") for name in ("limit", "after_id", "before_id"))
    if limit and not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:9]) <= _MOST_MODELS):
        raise InvalidRequestError(f"limit: Input should be a number from 1 to {_MOST_MODELS}", param="limit")
    if after_id and before_id:
        raise InvalidRequestError("after_id: cannot be used together with before_id", param="after_id")
    return Page(limit=int(limit or _MOST_MODELS), after_id=after_id, before_id=before_id)


def cut_page(models: Sequence[str], page: Page) -> tuple[Sequence[str], bool]:
    """(the page's models, whether there are more beyond it). Raises `InvalidRequestError` for a cursor that names no
    listed model."""
    if page.before_id:
        before = models[: _place(models, page.before_id, "before_id")]
        return before[-page.limit :], len(before) > page.limit
    after = models[_place(models, page.after_id, "after_id") + 1 :] if page.after_id else models
    return after[: page.limit], len(after) > page.limit


def _place(models: Sequence[str], cursor: str, field: str) -> int:
    for spelling in (cursor, cursor.removeprefix(NAMES.prefix)):
        if spelling in models:
            return models.index(spelling)
    raise InvalidRequestError(f"{field}: there is no model {cursor!r}", param=field)


def context_tokens(fleet: Fleet, model: str) -> int:
    """The smallest context window among the model's workers; 0 while none is loaded."""
    return min((w.context_tokens for w in fleet.workers if w.model == model and w.context_tokens), default=0)


def render_model(fleet: Fleet, model: str, *, name: str = "") -> dict[str, Any]:
    """One model, under `name` when a client asked by another than its listed one."""
    window = context_tokens(fleet, model)
    rendered: dict[str, Any] = {
        "type": "model",
        "id": name or NAMES.prefix + model,
        "display_name": model,
        "created_at": _render_date(fleet.made_at_s(model)),
        "lifecycle": "active",
        "deprecated_at": None,
        "retires_at": None,
        "line": None,
    }
    if window:
        rendered["max_input_tokens"] = rendered["max_tokens"] = window
        rendered["capabilities"] = _render_capabilities(fleet, model)
    return rendered


def _render_capabilities(fleet: Fleet, model: str) -> dict[str, Any]:
    """What every worker of the model can do, under all the names that the Anthropic API has."""
    workers = fleet.ready_workers(model)

    def supported(is_supported: bool) -> dict[str, Any]:
        return {"supported": is_supported}

    reads_images = supported(bool(workers) and all(worker.supports_images for worker in workers))
    reasons = supported(bool(workers) and all(worker.supports_reasoning for worker in workers))
    never, always = supported(False), supported(True)
    template = next((worker.template for worker in workers if worker.template), {})
    return {
        **({"chat_template": template} if template else {}),
        "batch": always,
        "citations": never,
        "code_execution": never,
        "context_management": never,
        "effort": {**reasons, **dict.fromkeys(("low", "medium", "high", "xhigh", "max"), reasons)},
        "image_input": reads_images,
        "pdf_input": always,
        "server_tools": {**never, "code_execution": never, "web_search": never},
        "structured_outputs": always,
        "thinking": {**reasons, "types": dict.fromkeys(("adaptive", "between_tools", "disabled", "enabled"), always)},
    }


def _render_date(time_s: int) -> str:
    """RFC 3339. The Anthropic API says 1970-01-01T00:00:00Z when it does not know a release date."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def render_models(fleet: Fleet, query: Mapping[str, str]) -> dict[str, Any]:
    """Raises `InvalidRequestError` for a page that cannot be."""
    page = parse_page(query)
    models, has_more = cut_page(fleet.model_ids(), page)
    data = [render_model(fleet, model) for model in models]
    return {
        "data": data,
        "has_more": has_more,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
    }
