"""What can be named inside a folder that is no subject itself: a trainer's output, or a folder of adapters."""

from __future__ import annotations

import re
from pathlib import Path

from aftertune.errors import spelled_out

_FIRST = ("model", "final")


def subjects_inside(folder: Path) -> list[str]:
    """Names of the folders in a folder that hold a model or an adapter: the likeliest first, then the latest step."""
    try:
        names = [
            path.name
            for path in folder.iterdir()
            if (path / "config.json").is_file() or (path / "adapter_config.json").is_file()
        ]
    except OSError:
        return []
    return [spelled_out(name) for name in sorted(names, key=_place)]


def _place(name: str) -> tuple[bool, int, str]:
    step = re.fullmatch(r"\D*-(\d{1,18})", name)
    return name not in _FIRST, -int(step[1]) if step else 0, name
