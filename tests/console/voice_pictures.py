"""The picture of voice for the documentation: `python -m tests.console.voice_pictures docs/pictures`.

As `tests.console.pictures`, with a microphone that plays the same sound again and again. What each turn took is
printed: echo answers at the speed of a Mac of 32 GB, what hears and speaks are stand-ins.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path
from typing import Final

from PIL import Image

from tests.console.pictures import PHONE, WIDE, side_by_side
from tests.console.voice_stand import Stand, click, opened, standing

TURNS: Final = 2
_PARTS: Final = "[...document.querySelectorAll('.legend')].map((each) => each.innerText.replaceAll('\\n', ', '))"


def main(words: list[str]) -> int:
    with (
        tempfile.TemporaryDirectory() as folder,
        standing(Path(folder), character_s=0.06, loops=True, step_ms=25.0, prefill_tokens_per_s=400.0) as stand,
    ):
        shots = [_shot(stand, theme, size) for theme, size in (("light", WIDE), ("dark", WIDE), ("light", PHONE))]
    (Path(words[0]) / "voice.webp").write_bytes(side_by_side(shots))
    return 0


def _shot(stand: Stand, theme: str, size: tuple[int, int]) -> Image.Image:
    page = opened(stand, theme=theme, size=size)
    click(page, "Start")
    page.wait(f"document.querySelectorAll('.legend').length >= {TURNS}", deadline_s=120.0)
    for each in page.run(_PARTS):
        print(each)
    print(page.run("document.querySelector('.median').innerText"))
    page.run("scrollTo(0, 0)")
    picture = Image.open(io.BytesIO(page.picture())).convert("RGB")
    page.close()
    return picture


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
