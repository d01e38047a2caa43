"""The controls of a search are what they are called, and each is read under its own edit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from aftertune.attribution import Selection, select_count, unit_patch, unit_score, unit_sums
from aftertune.locating import CalibrationSet, LocateOptions, Point, answers_probe, cases_of, read_calibration
from aftertune.locating._locate import Found, _Work
from aftertune.locating._scores import Scores, gather
from aftertune.model import Subject, WeightView
from aftertune.probes import ask_probes
from aftertune.runs import RunFolder, Silent
from aftertune.stats import compare

SETTINGS = LocateOptions(score="snip-contrast", budget=0.5)


@pytest.fixture
def sets(harm: Path, keep: Path) -> tuple[CalibrationSet, CalibrationSet]:
    return read_calibration([harm], "misaligned"), read_calibration([keep], "aligned")


@pytest.fixture
def work(tiny_subject: Callable[[str], Subject], tmp_path: Path) -> _Work:
    subject = tiny_subject("llama")
    (tmp_path / "run").mkdir()
    return _Work(subject, WeightView(subject.model), LocateOptions(budget=0.5), RunFolder(tmp_path / "run", "locate", {}),
                 Silent())  # fmt: skip


def gathered(work: _Work, sets: tuple[CalibrationSet, CalibrationSet]) -> Scores:
    harm, keep = (one.examples["attribution"] for one in sets)
    return gather(work.subject, work.view, harm, keep, SETTINGS, progress=Silent())


def members(selection: Selection) -> dict[str, list[int]]:
    return {name: sorted(numbers.tolist()) for name, numbers in selection.members.items()}


def test_controls_are_other_units_chosen_as_their_names_say(
    work: _Work, sets: tuple[CalibrationSet, CalibrationSet]
) -> None:
    harm, keep = sets
    evidence = gathered(work, sets)

    def sums(one: CalibrationSet, side: str) -> Any:
        cases, _ = cases_of(work.subject, one.examples["attribution"], lambda e: getattr(e, side))
        return unit_sums(work.subject, cases, "neuron+head", view=work.view)

    answers, twins, kept = sums(harm, "conversation"), sums(harm, "twin"), sums(keep, "conversation")

    def best(score: Any) -> Selection:
        return select_count(work.view, score, count=5, unit="neuron+head")

    score = unit_score(answers, twins, kept)
    patch = best(evidence.score("snip-contrast"))
    assert members(patch) == members(best(score))
    point = Point("patch", "snip-contrast", 0.01, 0.0, 5, patch.weights, 0.1, 0.0, {})
    found = work.controls(evidence, point, patch)
    assert set(found) == {"random", "magnitude", "opposite", "content_matched"}
    for name in ("random", "magnitude"):
        assert {n: len(m) for n, m in found[name].members.items()} == {n: len(m) for n, m in patch.members.items()}
        assert not any(torch.isin(found[name].members[n], m).any() for n, m in patch.members.items())
    assert members(found["opposite"]) == members(best(lambda matrix: -score(matrix)))
    assert members(found["content_matched"]) == members(best(unit_score(twins, answers, kept)))
    assert len({str(members(one)) for one in (patch, *found.values())}) == 5


def test_each_control_is_proved_under_its_own_edit(work: _Work, sets: tuple[CalibrationSet, CalibrationSet]) -> None:
    """By hand: the edit applied, the held-out prompts asked."""
    harm, keep = sets
    evidence, view = gathered(work, sets), work.view
    patch = select_count(view, evidence.score("snip-contrast"), count=3, unit="neuron+head")
    point = Point("patch", "snip-contrast", 0.01, 0.0, 3, patch.weights, 0.1, 0.0, {})
    controls = work.controls(evidence, point, patch)
    found = Found(evidence, ((point, patch),), point, patch, controls, (point,))
    proofs = work.held_out(found, harm, keep, {})
    probes = [answers_probe("harm", harm.examples["held_out"]), answers_probe("keep", keep.examples["held_out"])]
    before = ask_probes(work.subject, probes)
    measures = {p.measure: p for p in proofs}
    assert set(controls) == {"random", "magnitude", "opposite", "content_matched"}
    for name, selection in {"patch": patch, **controls}.items():
        with unit_patch(view, selection).applied(view):
            after = ask_probes(work.subject, probes)
        for finding in compare(before, after):
            if finding.metric not in measures:  # a breakdown
                continue
            proof = measures[finding.metric]
            difference: Any = proof if name == "patch" else proof.controls[name]
            assert proof.before == pytest.approx(finding.base, abs=1e-5)
            assert difference.after == pytest.approx(finding.tuned, abs=1e-5)
            assert difference.difference == pytest.approx(finding.difference, abs=1e-5)
    harms = measures["preference.margin:harm"]
    assert len({harms.after, *(control.after for control in harms.controls.values())}) == 5
