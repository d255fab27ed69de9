"""From a model's name to everything that is found out about it before it can serve: weights, layout, sizes, plan."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from shared.cache_size import CacheSize
from shared.config import Settings, model_folders
from shared.errors import ModelUnavailableError
from shared.registry import ModelSpec
from worker.device.claim import claim
from worker.device.neighbours import Neighbours
from worker.device.turns import Turn
from worker.engines.mlx.decode.draft_model import DRAFT_CACHE_SHARE, load_draft
from worker.engines.mlx.decode.speculation import Mode, parse_options
from worker.engines.mlx.kv.cache import Layout
from worker.engines.mlx.kv.forms import CacheForm
from worker.engines.mlx.memory.plan import (
    MemoryPlan,
    machine_bytes,
    measured_size,
    memory_limit,
    plan_memory,
    probed,
    set_limits,
    weight_file_bytes,
)
from worker.engines.mlx.model.models import LoadedModel, load
from worker.engines.mlx.model.trial import tried
from worker.model_folder import find_model


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeModel:
    """A model in memory. `weight_bytes` and `draft_cache_bytes` are with the draft model's part; `context_tokens` is
    what model and memory have room for."""

    folder: Path
    model: LoadedModel
    layout: Layout
    form: CacheForm
    size: CacheSize
    plan: MemoryPlan
    draft: LoadedModel | None
    mode: Mode
    weight_bytes: int
    draft_cache_bytes: int
    context_tokens: int


def load_whole(
    spec: ModelSpec,
    settings: Settings,
    neighbours: Neighbours | None,
    report: Callable[[float], None],
    turn: Turn = nullcontext,
) -> WholeModel:
    """Once the host's other workers have left room for it. Whatever uses the device is done in pieces, each in a
    `turn`. Raises `ModelUnavailableError`."""
    mode, draft_source = parse_options(spec.options)
    folder = find_model(spec.source, *model_folders())
    weights = weight_file_bytes(folder) + draft_file_bytes(draft_source)
    claim(neighbours, weights, memory_limit(settings, machine_bytes()))
    model = load(folder, max_context_tokens=settings.max_context_tokens, report=report, turn=turn)
    layout = tried(model.model, Layout.of(model.model), turn)
    probe = probed(model.model, turn)
    size = measured_size(model.model, layout, turn, probe)
    draft = load_draft(draft_source, model, turn) if draft_source else None
    weight_bytes = model.weight_bytes + (draft.weight_bytes if draft is not None else 0)
    plan = plan_memory(settings, size, weight_bytes, machine=machine_bytes(), model_tokens=model.context_tokens)
    set_limits(plan)
    return WholeModel(
        folder=folder,
        model=model,
        layout=layout,
        form=CacheForm.of(layout, probe),
        size=size,
        plan=plan,
        draft=draft,
        mode=mode,
        weight_bytes=weight_bytes,
        draft_cache_bytes=int(plan.cache_bytes * DRAFT_CACHE_SHARE) if draft is not None else 0,
        context_tokens=plan.context_tokens,
    )


def describe(found: WholeModel, cache_bytes: int) -> str:
    """For the log; `cache_bytes` is what the prefix cache may take."""
    unknown, model = found.layout.unknown, found.model
    text = (
        f"{model.weight_bytes >> 20} MB of weights, {found.context_tokens} tokens of context, "
        f"{found.size.token_bytes} bytes of cache per token, prefix cache of {cache_bytes >> 20} MB, "
        f"at most {found.plan.limit_bytes >> 20} MB in all"
    )
    if unknown:
        text += f"; nothing is known of {', '.join(sorted(unknown))}: prefixes are kept in memory only"
    if found.context_tokens < model.context_tokens:
        text += f"; memory has no room for the model's whole context of {model.context_tokens}"
    return text


def draft_file_bytes(source: str) -> int:
    """About what the weights of a draft model will take. One that is not here takes nothing: answers come without."""
    if not source:
        return 0
    try:
        return weight_file_bytes(find_model(source, *model_folders()))
    except ModelUnavailableError:
        return 0
