"""Controls choose as many, by something else; overlaps against counting by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from aftertune.attribution import (
    Selection,
    magnitude_control,
    opposite_control,
    overlap,
    random_control,
    select,
    select_count,
    select_units,
    unit_spaces,
)
from aftertune.errors import UsageError
from aftertune.model import Matrix, WeightView
from aftertune.studies._planted_rivals import magnitude_score, random_score


@pytest.fixture(params=("llama", "gpt2", "mixtral"))
def view(request: pytest.FixtureRequest, tiny_model: Callable[..., Any]) -> WeightView:
    return WeightView(tiny_model(request.param))


def signed(matrix: Matrix) -> torch.Tensor:
    return random_score(9)(matrix) - 0.5


def pairs(selection: Selection) -> set[tuple[str, int]]:
    return {(name, i) for name, index in selection.members.items() for i in index.tolist()}


@pytest.mark.parametrize("unit", ["weight", "neuron", "neuron+head"])
@pytest.mark.parametrize("control", [random_control, magnitude_control])
def test_as_many_in_each_matrix_and_none_that_was_chosen(view: WeightView, unit: Any, control: Any) -> None:
    chosen = select(view, signed, prune_fraction=0.1, unit=unit)
    other = control(view, chosen, 4)
    assert {n: len(i) for n, i in other.members.items()} == {n: len(i) for n, i in chosen.members.items()}
    shared, again = pairs(other) & pairs(chosen), pairs(control(view, chosen, 4)) == pairs(other)
    assert not shared
    assert again
    changed = pairs(control(view, chosen, 5)) != pairs(other)
    assert changed or control is magnitude_control  # whose pool holds every unit of so small a matrix


def test_magnitudes_are_matched_where_chance_does_not(view: WeightView) -> None:
    large = select(view, magnitude_score, prune_fraction=0.02)
    mean = {n: float(view[n].parameter.reshape(-1)[i].abs().mean()) for n, i in large.chosen.items()}
    matched, chance = magnitude_control(view, large), random_control(view, large)
    for name, expected in mean.items():
        sizes = [
            float(view[name].parameter.detach().reshape(-1)[c.chosen[name]].abs().mean()) for c in (matched, chance)
        ]
        assert abs(sizes[0] - expected) < abs(sizes[1] - expected)


def test_the_opposite_is_the_best_by_the_turned_score(view: WeightView) -> None:
    chosen = select(view, signed, prune_fraction=0.01)
    other = opposite_control(view, signed, None, chosen, 0.0)
    assert other.units == chosen.units
    worst = select_count(view, lambda m: -signed(m), count=chosen.units)
    same = pairs(other) == pairs(worst)
    assert same


def test_a_count_is_exact_and_leaves_protected_units_alone(view: WeightView) -> None:
    keep = random_score(2)
    found = select_count(view, signed, keep, count=50, keep_fraction=0.3)
    protected = pairs(select(view, keep, prune_fraction=0.3))
    assert found.units == 50
    shared = pairs(found) & protected
    assert not shared
    free = [
        (float(v), n, i)
        for n, m in view.items()
        for i, v in enumerate(signed(m).reshape(-1).tolist())
        if (n, i) not in protected
    ]
    same = pairs(found) == {(n, i) for _, n, i in sorted(free, key=lambda row: -row[0])[:50]}
    assert same


@pytest.mark.parametrize(("count", "says"), [(0, "must be from 1"), (10**9, "must be from 1")])
def test_counts_out_of_range_are_refused(view: WeightView, count: int, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        select_count(view, signed, count=count)


def test_more_than_a_matrix_has_left_is_refused(view: WeightView) -> None:
    most = select(view, random_score(1), prune_fraction=0.9)
    with pytest.raises(UsageError, match="lower the prune fraction"):
        random_control(view, most)


def test_overlap_is_counted_and_chance_is_known(view: WeightView) -> None:
    name, other = list(view)[:2]
    one = select_units(view, {name: torch.arange(100), other: torch.arange(10)}, "weight")
    two = select_units(view, {name: torch.arange(50, 150)}, "weight")
    sizes = {n: m.weights for n, m in view.items()}
    layers = {n: m.layer for n, m in view.items()}
    found = overlap(one, two, sizes, layers)
    assert found.jaccard == pytest.approx(50 / 160)
    mean_common = 100 * 100 / sizes[name]
    assert found.expected == pytest.approx(mean_common / (210 - mean_common), rel=0.15)
    assert found.p_value == pytest.approx(1 / 1001)
    assert overlap(one, one, sizes, layers).jaccard == 1.0
    chance = random_control(view, two, 3)
    assert overlap(two, chance, sizes, layers).p_value > 0.05  # disjoint by construction
    neurons = select_units(view, {next(unit_spaces(view, "neuron")).matrix.name: torch.tensor([0])}, "neuron")
    with pytest.raises(UsageError, match="cannot be compared"):
        overlap(one, neurons, sizes, layers)
