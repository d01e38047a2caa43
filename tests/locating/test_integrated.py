"""The integrated score finds planted neurons, and its control is itself with the sets exchanged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch
from pydantic import ValidationError

from aftertune.attribution import Selection, make_patch, random_control, select_count, unit_spaces, unit_sums
from aftertune.errors import UsageError
from aftertune.locating import LocateOptions, locate
from aftertune.locating._integrated import Integrated
from aftertune.locating._options import ScoreName
from aftertune.locating._sets import read_calibration, trees_of
from aftertune.measuring import SubjectChoice
from aftertune.runs import Silent
from aftertune.studies import Planting, planted
from aftertune.subject import Subject, Tree, WeightView, load, read_patch, score


def three(subject: Subject, harm: Path, keep: Path) -> list[list[Tree]]:
    """Rows of the harm set, its twins, and the keep set."""
    misaligned = read_calibration([harm], "misaligned").all()
    kept = read_calibration([keep], "aligned").all()
    return [
        trees_of(subject, misaligned, lambda e: e.conversation)[0],
        trees_of(subject, misaligned, lambda e: e.twin)[0],
        trees_of(subject, kept, lambda e: e.conversation)[0],
    ]


def integrated(subject: Subject, rows: list[list[Tree]]) -> Integrated:
    view = WeightView(subject.model)
    harm, twin, keep = (unit_sums(subject, one, "component", view=view) for one in rows)
    return Integrated(subject, view, "component", (harm, twin, keep), rows, Silent())


def loss(subject: Subject, rows: list[Tree]) -> float:
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

        found = select_count(view, integrated(subject, rows)(twins=False), count=4, unit="component")
        assert set(found.members.get(plant.matrix, torch.tensor([])).tolist()) & set(plant.units)
        chance = [carried(random_control(view, found, seed)) for seed in range(3)]
        assert carried(found) > 0.25 * (plant.losses[0] - plant.losses[-1])
        assert carried(found) > max(chance)


def test_with_twins_the_sets_change_places(harm: Path, keep: Path, tiny_folder: Callable[[str], Path]) -> None:
    subject = load(tiny_folder("qwen2"))
    rows = three(subject, harm, keep)
    swapped = integrated(subject, [rows[1], rows[0], rows[2]])(twins=False)
    control = integrated(subject, rows)(twins=True)
    scored = 0
    for space in unit_spaces(WeightView(subject.model), "component"):
        assert torch.equal(control(space.matrix), swapped(space.matrix))
        scored += int(control(space.matrix).count_nonzero())
    assert 14 <= scored <= 3 * 14  # each of three scores proposes a tenth of its 136 units


def test_a_search_by_it_writes_a_patch_and_its_controls(
    harm: Path, keep: Path, tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    found = locate(SubjectChoice(str(tiny_folder("llama"))), [harm], [keep], out=tmp_path / "run",
                   options=LocateOptions(score="integrated", budget=0.5))  # fmt: skip
    about = read_patch(found.patch).about
    assert about["score"] == "integrated"
    assert "fade out together" in about["formula"]
    assert "content_matched" in found.document["held_out"][0]["controls"]


def test_single_weights_and_fused_experts_are_refused(
    harm: Path, keep: Path, tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    with pytest.raises(ValidationError, match="looks at whole units"):
        LocateOptions(score="integrated", unit="weight")
    with pytest.raises(UsageError, match="take another --score"):
        locate(SubjectChoice(str(tiny_folder("mixtral"))), [harm], [keep], out=tmp_path / "run",
               options=LocateOptions(score="integrated"))  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_the_command_line_knows_every_score() -> None:
    from aftertune.cli._locate import locate as command

    [choices] = [p.type.choices for p in command.params if p.name == "score"]  # type: ignore[attr-defined]
    assert tuple(choices) == get_args(ScoreName)
