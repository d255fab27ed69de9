"""The list of models in the vendor's shape."""

from __future__ import annotations

from typing import Any

from shared.registry import Fleet


def render_model(fleet: Fleet, model: str, *, name: str = "") -> dict[str, Any]:
    """`created` is Unix time, 0 when unknown."""
    return {"id": name or model, "object": "model", "created": fleet.made_at_s(model), "owned_by": "mlx-gateway"}


def render_models(fleet: Fleet) -> dict[str, Any]:
    return {"object": "list", "data": [render_model(fleet, model) for model in fleet.model_ids()]}
