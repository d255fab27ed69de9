"""This gateway: its release, its settings, and which of them the environment or the command line has set."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

from shared.config import Settings, set_variables


def render_about(gateway: str, settings: Settings) -> dict[str, Any]:
    """Secrets are shown as set."""
    return {
        "gateway": gateway,
        "version": version("mlx-gateway"),
        "python": platform.python_version(),
        "given": set_variables(settings, only_given=True),
        "settings": set_variables(settings),
        "licences": {"preact": "MIT", "htm": "Apache-2.0", "uPlot": "MIT"},
    }
