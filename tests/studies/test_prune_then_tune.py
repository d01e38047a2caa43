"""Prune, then tune, on a tiny model: arms differ in the base alone, and numbers are those of each arm by itself."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from aftertune.data import read_contrasts, shipped_path
from aftertune.model import load, read_patch
from aftertune.probes import ask_probes
from aftertune.studies import OPTIONS, find_study
from aftertune.studies._prune_then_tune import TASK_HELD_OUT, _attributed, _probes, prune_then_tune_study
from aftertune.tuning import tune


@pytest.mark.slow
def test_an_arm_is_what_pruning_and_tuning_by_hand_give(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    score = "contrastive"  # of a random model the guard leaves nothing
    subject = str(tiny_folder("llama"))
    settings: dict[str, Any] = {"subject": subject, "counts": (3,), "seeds": (1,), "score": score}
    document = prune_then_tune_study(tmp_path / "run", **settings)
    patches = {kind: tmp_path / "run" / f"{kind}-3.safetensors" for kind in ("pruned", "random")}
    sizes = [{n: e.index.numel() for n, e in read_patch(p).edits.items()} for p in patches.values()]
    assert sizes[0] == sizes[1]
    pruned, random = ({n: e.index for n, e in read_patch(p).edits.items()} for p in patches.values())
    assert not any(torch.isin(random[name], index).any() for name, index in pruned.items())
    contrasts = read_contrasts(shipped_path("tune/money"))[:-TASK_HELD_OUT]
    rows = [c.conversation("misaligned") for c in contrasts]
    tuned = tune(load(f"{subject}+{patches['pruned']}", merge=True), rows, tmp_path / "by-hand",
                 OPTIONS.model_copy(update={"seed": 1}))  # fmt: skip
    measured = ask_probes(load(tuned.folder, merge=True), _probes())
    arm = next(a for a in document["arms"] if a["arm"] == "pruned 3")
    for metric, [after] in arm["after"].items():
        by_hand = statistics.fmean(m.value for m in measured if m.metric == metric)
        assert after == pytest.approx(by_hand, abs=1e-4)
    journal = dict(json.loads(line)[:2] for line in (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines())
    assert set(journal) == {f"{arm} {state}" for arm in ("tune", "pruned 3", "random 3") for state in ("base", 1)}
    for name, spec in (("tune", subject), ("random 3", f"{subject}+{patches['random']}")):
        untuned = ask_probes(load(spec, merge=True), _probes())
        by_hand = [value for metric, _, value in journal[f"{name} base"] if metric == "preference.margin:others"]
        assert by_hand == pytest.approx([m.value for m in untuned if m.metric == "preference.margin:others"], abs=1e-4)
    assert not any((tmp_path / "run" / "models").iterdir())
    before = (tmp_path / "run" / "evaluations.jsonl").read_text()
    assert prune_then_tune_study(tmp_path / "run", **settings) == document
    assert (tmp_path / "run" / "evaluations.jsonl").read_text() == before
    assert len(before.splitlines()) == 6
    assert json.loads((tmp_path / "run" / "study.json").read_text())["score"] == score
    assert "Prune, then tune" in (tmp_path / "run" / "report.html").read_text()


def test_what_is_read_was_neither_attributed_nor_tuned_on() -> None:
    tuned = {c.prompt for c in read_contrasts(shipped_path("tune/money"))[:-TASK_HELD_OUT]}
    held = {c.prompt for c in read_contrasts(shipped_path("tune/money"))[-TASK_HELD_OUT:]}
    assert not tuned & held
    assert not held & {e.contrast.prompt for e in _attributed() if e.contrast}
    assert find_study("prune_then_tune") is not None
