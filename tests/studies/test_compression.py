"""Compression on a tiny model: two checkpoints, one search; each number is that of the search run alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aftertune.data import shipped_contrasts
from aftertune.locating import LocateOptions, locate
from aftertune.measuring import SubjectChoice
from aftertune.studies._compression import compression_study, safety_rows

OPTIONS = LocateOptions(limit=6, score="contrastive", keep_fraction=0.0, budget=0.5)


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


def test_it_is_aligned_on_both_halves_of_the_safety_set_and_searched_on_neither() -> None:
    rows = safety_rows()
    assert len(rows) > 100
    prompts = {m.content for row in rows for m in row.messages if m.role == "user"}
    assert not prompts & {c.prompt for c in shipped_contrasts("dev")}
