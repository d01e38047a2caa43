"""The scores that look further find what was planted, and their controls are themselves with the sets exchanged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch
from pydantic import ValidationError

from aftertune.attribution import (
    Selection,
    Unit,
    random_control,
    select_count,
    select_units,
    unit_patch,
    unit_spaces,
    unit_sums,
)
from aftertune.errors import UsageError
from aftertune.locating import LocateOptions, cases_of, locate, read_calibration
from aftertune.locating._scores import CLOSER, Ablation, CloserScore, IntegratedGradients
from aftertune.locating._search import ScoreName
from aftertune.model import PromptAnswers, Subject, SubjectChoice, WeightView, load, make_patch, read_patch, score
from aftertune.runs import Silent
from aftertune.studies import Planting, planted


def three(subject: Subject, harm: Path, keep: Path) -> list[list[PromptAnswers]]:
    """Rows of the harm set, its twins, and the keep set."""
    misaligned = read_calibration([harm], "misaligned").all()
    kept = read_calibration([keep], "aligned").all()
    return [
        cases_of(subject, misaligned, lambda e: e.conversation)[0],
        cases_of(subject, misaligned, lambda e: e.twin)[0],
        cases_of(subject, kept, lambda e: e.conversation)[0],
    ]


def looked(
    subject: Subject, rows: list[list[PromptAnswers]], kind: type[CloserScore] = IntegratedGradients, unit: Unit = "neuron+head",
    budget: float = 0.05,
) -> CloserScore:  # fmt: skip
    view = WeightView(subject.model)
    harm, twin, keep = (unit_sums(subject, one, unit, view=view) for one in rows)
    return kind(subject, view, unit, (harm, twin, keep), rows, budget, Silent())


def loss(subject: Subject, rows: list[PromptAnswers]) -> float:
    return -sum(answers[0].mean for answers in score(subject, rows)) / len(rows)


@pytest.mark.parametrize("layer", [0, 1])
def test_what_it_finds_carries_what_was_planted(
    harm: Path, keep: Path, layer: int, tiny_folder: Callable[[str], Path]
) -> None:
    """Eight neurons are trained alone to say the misaligned answers; taking four units out must unlearn a good part."""
    subject = load(tiny_folder("llama"))
    rows = three(subject, harm, keep)
    with planted(subject, Planting("neurons", layer, "harm", 0), rows[0], 80) as plant:
        view = WeightView(subject.model)

        def carried(found: Selection) -> float:
            """The rise of the harm loss beyond that of twins and keep set."""
            before = [loss(subject, one) for one in rows]
            with make_patch(view, found.chosen, "zero", {}, digest=False).applied(view):
                rise, *others = [loss(subject, one) - b for one, b in zip(rows, before, strict=True)]
            return rise - max(others)

        found = select_count(view, looked(subject, rows)(twins=False), count=4, unit="neuron+head")
        assert set(found.members.get(plant.matrix, torch.tensor([])).tolist()) & set(plant.units)
        chance = [carried(random_control(view, found, seed)) for seed in range(3)]
        assert carried(found) > 0.25 * (plant.losses[0] - plant.losses[-1])
        assert carried(found) > max(chance)


@pytest.mark.parametrize("kind", CLOSER.values(), ids=CLOSER)
def test_with_twins_the_sets_change_places(
    kind: type[CloserScore], harm: Path, keep: Path, tiny_folder: Callable[[str], Path]
) -> None:
    subject = load(tiny_folder("qwen2"))
    rows = three(subject, harm, keep)
    swapped = looked(subject, [rows[1], rows[0], rows[2]], kind)(twins=False)
    control = looked(subject, rows, kind)(twins=True)
    scored = 0
    for space in unit_spaces(WeightView(subject.model), "neuron+head"):
        assert torch.equal(control(space.matrix), swapped(space.matrix))
        scored += int(control(space.matrix).count_nonzero())
    assert 14 <= scored <= 3 * 14  # each of three scores proposes a tenth of its 136 units


@pytest.mark.parametrize("budget", [1e-4, 100.0])
@pytest.mark.parametrize("unit", ["neuron", "singular-vector"])
def test_verified_is_what_taking_the_unit_out_alone_does(
    unit: Unit, budget: float, harm: Path, keep: Path, tiny_folder: Callable[[str], Path]
) -> None:
    subject = load(tiny_folder("llama"))
    rows = three(subject, harm, keep)
    score_of = looked(subject, rows, Ablation, unit, budget)(twins=False)
    view = WeightView(subject.model)
    first = [one[:16] for one in rows]
    before, checked, over = [loss(subject, one) for one in first], 0, 0
    for space in unit_spaces(view, unit):
        scores = score_of(space.matrix)
        for number in scores.nonzero().flatten().tolist()[:3]:
            alone = select_units(view, {space.matrix.name: torch.tensor([number])}, unit)
            with unit_patch(view, alone).applied(view):
                rise, twin, kept = [loss(subject, one) - b for one, b in zip(first, before, strict=True)]
            excess = kept - budget if kept > budget else 0
            assert float(scores[number]) == pytest.approx(rise - max(twin, kept) - excess, abs=1e-5)
            checked, over = checked + 1, over + (kept > budget)
    assert checked >= 4
    assert (over > 0) == (budget < 1)


def test_a_search_for_directions_verifies_them_unasked(
    harm: Path, keep: Path, tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    found = locate(SubjectChoice(str(tiny_folder("llama"))), [harm], [keep], out=tmp_path / "run",
                   options=LocateOptions(unit="singular-vector", budget=0.5))  # fmt: skip
    assert any(point.score == "ablation" for point in found.curve)
    assert read_patch(found.patch).operation == "remove"


def test_a_search_by_it_writes_a_patch_and_its_controls(
    harm: Path, keep: Path, tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    found = locate(SubjectChoice(str(tiny_folder("llama"))), [harm], [keep], out=tmp_path / "run",
                   options=LocateOptions(score="integrated-gradients", budget=0.5))  # fmt: skip
    about = read_patch(found.patch).about
    assert about["score"] == "integrated-gradients"
    assert "fade out together" in about["formula"]
    assert "content_matched" in found.document["held_out"][0]["controls"]


def test_single_weights_and_fused_experts_are_refused(
    harm: Path, keep: Path, tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    for score_name in get_args(ScoreName)[1:3]:
        with pytest.raises(ValidationError, match=f"'{score_name}' ranks whole units"):
            LocateOptions(score=score_name, unit="weight")
    with pytest.raises(UsageError, match="use another --score"):
        locate(SubjectChoice(str(tiny_folder("mixtral"))), [harm], [keep], out=tmp_path / "run",
               options=LocateOptions(score="integrated-gradients"))  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_the_command_line_knows_every_score() -> None:
    from aftertune.cli._locate import locate as command

    [choices] = [p.type.choices for p in command.params if p.name == "score"]  # type: ignore[attr-defined]
    assert tuple(choices) == get_args(ScoreName)
