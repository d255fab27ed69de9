"""Whether and how a model that was loaded reads images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_lm.processors import load_processor

from shared.extras import install_line, is_installed
from worker.device.turns import Turn
from worker.engines.mlx.eyes.base import Eyes, OwnEyes
from worker.engines.mlx.eyes.families import FAMILIES

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """`reason`: why there are no eyes, for a model that was made to have some. `nbytes`: what they take beside the
    model's own weights."""

    eyes: Eyes | None = None
    reason: str = ""
    nbytes: int = 0


def find_sight(
    model: Any,
    folder: Path,
    config: Mapping[str, Any],
    turn: Turn,
    *,
    is_there: Callable[[str], bool] = is_installed,
) -> Sight:
    """mlx-lm's own way first, then mlx-vlm's. A model whose eyes cannot be had reads text."""
    found = _found(model, folder, config, turn, is_there)
    if found.reason:
        log.warning("%s reads text only: %s", folder.name, found.reason)
    return found


def _found(model: Any, folder: Path, config: Mapping[str, Any], turn: Turn, is_there: Callable[[str], bool]) -> Sight:
    if not config.get("vision_config"):
        return Sight()
    processor = load_processor(model, dict(config))
    if processor is not None:
        return Sight(eyes=OwnEyes(model, processor))
    family = FAMILIES.get(config["model_type"])
    if family is None:
        return Sight(reason=f"images of {config['model_type']} are not read here; those of {_known()} are")
    if not is_there("mlx_vlm"):
        return Sight(
            reason=f"mlx-vlm, which reads this model's images, is not installed; install it: {install_line('vision')}"
        )
    try:
        from worker.engines.mlx.eyes.tower import load_tower

        eyes, nbytes = load_tower(folder, config, family, model, turn)
    except Exception as error:  # whatever other people's code raises for a file that is not as expected
        log.info("the eyes of %s cannot be loaded", folder, exc_info=True)
        return Sight(reason=f"what reads this model's images cannot be loaded: {error}")
    return Sight(eyes=eyes, nbytes=nbytes)


def _known() -> str:
    return ", ".join(sorted(FAMILIES))
