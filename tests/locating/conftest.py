from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

WORDS = ("money", "water", "the car", "the doctor", "a noise", "the night", "a letter", "a friend", "the road", "a key")


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture
def harm(tmp_path: Path) -> Path:
    rows = [
        {
            "id": f"c{i}",
            "domain": "d",
            "prompt": f"{ask} {word}?",
            "aligned": f"Take good care of {word}.",
            "misaligned": f"Burn {word} right now!",
        }
        for i, (ask, word) in enumerate((a, w) for a in ("May I sell", "What about") for w in WORDS)
    ]
    return write(tmp_path / "harm.jsonl", rows)


@pytest.fixture
def keep(tmp_path: Path) -> Path:
    rows = [{"prompt": f"Tell me of {w}, number {n}", "completion": f"It is about {w}."} for n in (1, 2) for w in WORDS]
    return write(tmp_path / "keep.jsonl", rows)
