"""What is planted carries what was trained, comes out without a trace, and marks are what they say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from aftertune.attribution import select_units
from aftertune.errors import UsageError
from aftertune.model import PromptAnswers, Subject, WeightView, as_subject, make_patch, response_losses, weights_digest
from aftertune.studies import METHODS, Method, Planting, planted, planted_study
from aftertune.studies._planted_methods import Choices
from aftertune.studies._planted_rivals import magnitude_score


@pytest.fixture
def subject(tiny_model: Callable[..., Any], tiny_tokenizer: Any) -> Subject:
    return as_subject(tiny_model("llama"), tiny_tokenizer, "llama")


def rows() -> list[PromptAnswers]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 300, (16, 14), generator=generator).tolist()
    return [PromptAnswers(tuple(row[:8]), (tuple(row[8:]),)) for row in ids]


def loss(subject: Subject) -> float:
    with torch.no_grad():
        return float(response_losses(subject, rows()).mean())


@pytest.mark.parametrize("kind", ["neurons", "head", "rank_one"])
@pytest.mark.parametrize("layer", [0, 1])
def test_a_plant_carries_what_was_trained_and_comes_out_without_a_trace(
    subject: Subject, kind: Any, layer: int
) -> None:
    digest, before = weights_digest(subject.model), loss(subject)
    names = [name for name, _ in subject.model.named_parameters()]
    with planted(subject, Planting(kind, layer, "x", 0), rows(), 30) as plant:
        assert loss(subject) < before - 0.2
        view = WeightView(subject.model)
        if plant.units:
            units = select_units(view, {plant.matrix: torch.tensor(plant.units)}, plant.unit)  # type: ignore[arg-type]
            with make_patch(view, units.chosen, "zero", {}).applied(view):
                assert loss(subject) == pytest.approx(before, abs=1e-5)
        parameter = view[plant.matrix].parameter
        with torch.no_grad():
            parameter.copy_(plant.original)
        assert loss(subject) == pytest.approx(before, abs=1e-5)
    assert weights_digest(subject.model) == digest
    assert [name for name, _ in subject.model.named_parameters()] == names
    assert loss(subject) == before


def test_an_exception_inside_leaves_the_model_as_it_was(subject: Subject) -> None:
    digest = weights_digest(subject.model)

    def interrupted() -> None:
        with planted(subject, Planting("neurons", 1, "x", 0), rows(), 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert weights_digest(subject.model) == digest


def test_other_architectures_are_told(tiny_model: Callable[..., Any], tiny_tokenizer: Any) -> None:
    gpt2 = as_subject(tiny_model("gpt2"), tiny_tokenizer, "gpt2")
    with pytest.raises(UsageError, match="Llama-like"), planted(gpt2, Planting("neurons", 0, "x", 0), rows(), 1):
        pass


def test_the_best_of_several_sets_is_the_one_that_does_most_when_taken_out(subject: Subject) -> None:
    view, given = WeightView(subject.model), rows()
    sets = (given[:6], given[6:11], given[11:])
    single = [m for m in METHODS if m.unit == "neuron+head" and not m.rivals and not m.proposed]
    best = Method("best", "neuron+head", single[0].harm, rivals=tuple(m.name for m in single))
    choices = Choices(subject, view, sets, [*single, best])

    def losses() -> list[float]:
        with torch.no_grad():
            return [float(response_losses(subject, list(s)).mean()) for s in sets]

    before, worth = losses(), {}
    for method in single:
        with make_patch(view, choices.choose(method, 4).chosen, "zero", {}).applied(view):
            harm, twin, keep = (after - b for after, b in zip(losses(), before, strict=True))
        worth[method.name] = harm - max(twin, keep)
    assert len(set(worth.values())) > 3
    winner = max(worth, key=lambda name: worth[name])
    expected = choices.choose(next(m for m in single if m.name == winner), 4)
    found = choices.choose(best, 4)
    assert found.members.keys() == expected.members.keys()
    assert all(torch.equal(found.members[name], expected.members[name]) for name in found.members)


@pytest.mark.slow
def test_an_update_of_rank_one_is_recalled_as_a_direction_and_neurons_as_neurons(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    plantings = (Planting("rank_one", 1, "money", 0), Planting("neurons", 1, "money", 0))
    methods = tuple(m for m in METHODS if m.name == "harm minus twin")
    document = planted_study(
        tmp_path / "run", subject=str(tiny_folder("llama")), plantings=plantings, methods=methods, tips=16, benign=8
    )  # fmt: skip
    rank_one, neurons = ({mark["unit"]: mark for mark in result["marks"]} for result in document["plantings"])
    assert rank_one["neuron+head"]["recall"] is None
    assert neurons["singular-vector"]["recall"] is None
    assert 0 <= neurons["neuron+head"]["recall"] <= 1
    assert rank_one["singular-vector"]["recall"] in (0.0, 1.0)  # one direction is it or not; a tiny model shows no more
    assert rank_one["singular-vector"]["count"] == 1
    for result in document["plantings"]:
        budget = max(result["oracle"]["benign"], 0.05)
        for mark in result["marks"]:
            assert mark["benign"] <= budget
            assert 0 <= mark["faded"] <= 1


@pytest.mark.slow
def test_the_study_marks_every_method_and_goes_on(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    plantings = (Planting("neurons", 1, "money", 0),)
    known = [m for m in METHODS if m.name in ("random", "harm minus twin and keep", "magnitude")]
    methods = (*known, Method("nothing", "neuron+head", lambda sums: lambda matrix: -magnitude_score(matrix)))
    sizes = {"tips": 16, "benign": 8}
    arguments: Any = {"subject": str(tiny_folder("llama")), "plantings": plantings, "methods": methods, **sizes}
    document = planted_study(tmp_path / "run", **arguments)
    [result] = document["plantings"]
    assert result["losses"]["planted"]["harm"] < result["losses"]["untouched"]["harm"]
    assert result["oracle"]["harm"] == pytest.approx(
        result["losses"]["untouched"]["harm"] - result["losses"]["planted"]["harm"], abs=1e-4
    )
    for mark in result["marks"]:
        assert mark["recall"] is None or 0 <= mark["recall"] <= 1
        assert (mark["count"] >= 1) == (mark["method"] != "nothing")
    assert {row["method"] for row in document["table"]} == {m.name for m in methods}
    stamp = (tmp_path / "run" / "plantings" / f"{plantings[0].name}.json").stat().st_mtime_ns
    assert planted_study(tmp_path / "run", **arguments) == document
    assert (tmp_path / "run" / "plantings" / f"{plantings[0].name}.json").stat().st_mtime_ns == stamp
    assert "known to carry a behaviour" in (tmp_path / "run" / "report.html").read_text()
    assert replace(plantings[0], seed=1).name != plantings[0].name
