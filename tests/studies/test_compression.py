"""Compression on a tiny model: two checkpoints, one search; each number is that of the search run alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aftertune.data import shipped_contrasts
from aftertune.locating import LocateOptions, locate
from aftertune.model import SubjectChoice
from aftertune.studies._compression import compression_outcome, compression_study, safety_rows

OPTIONS = LocateOptions(limit=6, score="snip-contrast", keep_fraction=0.0, budget=0.5)


@pytest.mark.slow
def test_both_checkpoints_are_searched_alike_and_nothing_is_done_twice(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    subject = str(tiny_folder("llama"))
    settings: dict[str, Any] = {"subject": subject, "harm": ("dev/health",), "options": OPTIONS}
    document = compression_study(tmp_path / "run", **settings)
    before, aligned = document["checkpoints"]
    assert (before["checkpoint"], aligned["checkpoint"]) == ("before", "aligned")
    for row in (before, aligned):
        alone = locate(SubjectChoice(row["spec"]), ["dev/health"], options=OPTIONS, out=tmp_path / row["checkpoint"])
        assert row["points"] == [p.as_dict() for p in alone.curve if p.label == "patch"]
        assert 0 <= row["mean_removed"] <= row["removed_within_budget"] + 1e-9
    assert before["points"] != aligned["points"]
    report = tmp_path / "run" / "report.html"
    assert "Compression of two checkpoints" in report.read_text("utf-8")
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("locate.json")}
    assert len(stamps) == 2
    assert compression_study(tmp_path / "run", **settings) == document
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps


@pytest.mark.parametrize(
    ("removed", "held_out", "outcome"),
    [
        ((0.1, 0.3), ("holds", "holds"), "holds"),
        ((0.3, 0.1), ("holds", "cannot be told"), "does not hold"),
        ((0.003, 0.012), ("cannot be told", "cannot be told"), "cannot be told"),
        ((0.1, 0.3), ("holds", "does not hold"), "cannot be told"),
        ((0.0, 0.0), ("cannot be told", "holds"), "cannot be told"),
    ],
)
def test_what_does_not_hold_on_held_out_prompts_is_not_told_of_a_checkpoint(
    removed: tuple[float, float], held_out: tuple[str, str], outcome: str
) -> None:
    rows = [{"mean_removed": r, "claims": [{"outcome": o}]} for r, o in zip(removed, held_out, strict=True)]
    assert compression_outcome(rows) == outcome


def test_it_is_aligned_on_both_halves_of_the_safety_set_and_searched_on_neither() -> None:
    rows = safety_rows()
    assert len(rows) > 100
    prompts = {m.content for row in rows for m in row.messages if m.role == "user"}
    assert not prompts & {c.prompt for c in shipped_contrasts("dev")}
