"""What is known of a model's chat template once it was tried."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mode = Literal["window", "counted window", "whole"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateFacts:
    """`mode`: how a turn is rendered: behind a few messages, behind these and the calls made before, or with all.
    `lacks`: what the template has no place for, of tools, calls, parallel calls, system and reasoning. `efforts`: the
    words for reasoning effort that it takes, empty where it knows none."""

    mode: Mode
    lacks: tuple[str, ...] = ()
    efforts: tuple[str, ...] = ()
