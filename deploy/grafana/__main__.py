"""`python -m deploy.grafana` writes the boards' JSON beside the provisioning that names their folder."""

from __future__ import annotations

from pathlib import Path

from deploy.grafana.render import render_all

FOLDER = Path(__file__).parent / "dashboards"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, text in render_all().items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
