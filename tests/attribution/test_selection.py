"""Selections against a plain full sort; unit sums against loops; first-order promises kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from aftertune.attribution import (
    GradientSums,
    absolute_score,
    contrastive_score,
    delta_score,
    gradient_sums,
    select,
    signed_score,
    unit_spaces,
)
from aftertune.errors import NumericalError, UsageError
from aftertune.model import Matrix, PromptAnswers, WeightView, as_subject, make_patch

ARCHITECTURES = ("llama", "gpt2", "qwen2", "mixtral")


@pytest.fixture(params=ARCHITECTURES)
def view(request: pytest.FixtureRequest, tiny_model: Callable[..., Any]) -> WeightView:
    return WeightView(tiny_model(request.param))


def random_score(seed: int, *, coarse: bool = False) -> Callable[[Matrix], torch.Tensor]:
    """Scores by matrix name; coarse ones are full of ties."""

    def score(matrix: Matrix) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed + sum(map(ord, matrix.name)))
        values = torch.randn(matrix.parameter.shape, generator=generator)
        return (values * 2).round() if coarse else values

    return score


def ranked(view: WeightView, score: Any) -> list[tuple[float, int, str, int]]:
    """Every weight, best first; ties by matrix order and index."""
    rows = [
        (-value, order, name, index)
        for order, (name, matrix) in enumerate(view.items())
        for index, value in enumerate(score(matrix).reshape(-1).tolist())
    ]
    return sorted(rows)


@pytest.mark.parametrize("coarse", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("fraction", [1e-4, 0.013, 0.4, 1.0])
def test_the_global_choice_is_that_of_a_full_sort(view: WeightView, fraction: float, coarse: bool) -> None:
    harm = random_score(1, coarse=coarse)
    count = math.ceil(fraction * view.weights)
    best = [(name, index) for value, _, name, index in ranked(view, harm)[:count] if value < 0]
    found = select(view, harm, prune_fraction=fraction)
    assert {(name, int(i)) for name, index in found.chosen.items() for i in index} == set(best)
    assert (found.weights, found.units, found.candidates) == (len(best), len(best), view.weights)


def test_the_keep_set_protects_exactly_its_top(view: WeightView) -> None:
    harm, keep = random_score(1), random_score(2)
    wanted = {(n, i) for v, _, n, i in ranked(view, harm)[: math.ceil(0.1 * view.weights)] if v < 0}
    safe = {(n, i) for _, _, n, i in ranked(view, keep)[: math.ceil(0.3 * view.weights)]}
    found = select(view, harm, keep, prune_fraction=0.1, keep_fraction=0.3)
    assert {(name, int(i)) for name, index in found.chosen.items() for i in index} == wanted - safe
    assert found.protected == len(wanted & safe)


@pytest.mark.parametrize("unit", ["neuron", "head"])
def test_unit_scores_are_sums_over_their_members_and_members_part_the_matrix(view: WeightView, unit: Any) -> None:
    score = random_score(4)
    spaces = list(unit_spaces(view, unit))
    assert spaces
    for space in spaces:
        scores = score(space.matrix)
        sums = space.sums(scores)
        assert sums.shape == (space.units,)
        seen = torch.zeros(space.matrix.weights, dtype=torch.int64)
        for number in range(space.units):
            members = space.members(torch.tensor([number]))
            seen[members] += 1
            assert float(scores.reshape(-1)[members].sum()) == pytest.approx(float(sums[number]), abs=1e-4)
        assert (seen == 1).all()


@pytest.mark.parametrize("unit", ["neuron", "head"])
def test_a_unit_at_zero_is_out_of_the_computation(tiny_model: Callable[..., Any], unit: Any) -> None:
    """What the unit computes no longer matters once its output weights are zero."""
    model = tiny_model("llama")
    view, ids = WeightView(model), torch.tensor([[5, 9, 17, 40, 3, 8]])
    space = next(iter(unit_spaces(view, unit)))
    patch = make_patch(view, {space.matrix.name: space.members(torch.tensor([2]))}, "zero", {})
    feeders = {"neuron": "mlp.up_proj", "head": "self_attn.q_proj"}[unit]
    feeder = next(m for m in view.values() if m.role == feeders and m.layer == space.matrix.layer)
    size = feeder.parameter.shape[0] // space.units
    with torch.no_grad():
        untouched = model(ids).logits
        with patch.applied(view):
            without = model(ids).logits
            feeder.parameter[2 * size : 3 * size] += 1.0
            assert torch.allclose(model(ids).logits, without, atol=1e-5)
        assert not torch.allclose(model(ids).logits, untouched, atol=1e-3)


def rows() -> list[PromptAnswers]:
    generator = torch.Generator().manual_seed(8)
    ids = torch.randint(3, 300, (6, 12), generator=generator).tolist()
    return [PromptAnswers(tuple(row[:8]), (tuple(row[8:]),)) for row in ids]


def test_removing_the_chosen_raises_the_loss_by_what_first_order_predicts(
    tiny_model: Callable[..., Any], tiny_tokenizer: Any
) -> None:
    subject = as_subject(tiny_model("llama"), tiny_tokenizer, "llama")
    view, sums = WeightView(subject.model), gradient_sums(subject, rows())
    score = signed_score(sums)
    found = select(view, score, prune_fraction=3 / view.weights)
    predicted = sum(float(score(view[n]).reshape(-1)[i].sum()) for n, i in found.chosen.items())
    patch = make_patch(view, found.chosen, "scale", {}, factor=0.95)
    before = sum(sums.losses) / 6
    with patch.applied(view):
        after = sum(gradient_sums(subject, rows()).losses) / 6
    assert predicted > 0
    assert after - before == pytest.approx(0.05 * predicted, rel=0.1)


def test_the_formulas_are_what_they_say(tiny_model: Callable[..., Any]) -> None:
    view = WeightView(tiny_model("gpt2"))
    name, matrix = next(iter(view.items()))
    w, shape = matrix.parameter.detach(), matrix.parameter.shape
    one = GradientSums({name: torch.full(shape, 6.0)}, {name: torch.full(shape, 8.0)}, [0.0, 0.0])
    two = GradientSums({name: torch.full(shape, 3.0)}, {}, [0.0, 0.0, 0.0])
    assert torch.allclose(signed_score(one)(matrix), -3 * w)
    assert torch.allclose(absolute_score(one)(matrix), 4 * w.abs())
    assert torch.allclose(contrastive_score(one, two)(matrix), w * (1 - 3))
    assert torch.allclose(delta_score(one, {name: w + 0.5})(matrix), torch.full(shape, 1.5))
    with pytest.raises(UsageError, match="absolute=True"):
        absolute_score(two)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"prune_fraction": 0.0}, "above 0"),
        ({"prune_fraction": 1.1}, "at most 1"),
        ({"prune_fraction": 0.1, "keep_fraction": 1.0}, "below 1"),
        ({"prune_fraction": 0.1, "keep_fraction": -0.1}, "below 1"),
        ({"prune_fraction": 0.1, "keep_fraction": 0.999}, "protects them all"),
    ],
)
def test_fractions_that_make_no_sense_are_refused(
    tiny_model: Callable[..., Any], options: dict[str, Any], says: str
) -> None:
    view = WeightView(tiny_model("llama"))
    with pytest.raises(UsageError, match=says):
        select(view, random_score(5), random_score(5), **options)


def test_no_positive_score_and_nan_are_refused(tiny_model: Callable[..., Any]) -> None:
    view = WeightView(tiny_model("llama"))
    with pytest.raises(UsageError, match="no score is positive"):
        select(view, lambda m: -random_score(6)(m).abs(), prune_fraction=0.1)
    with pytest.raises(NumericalError, match="NaN"):
        select(view, lambda m: random_score(6)(m).log(), prune_fraction=0.1)
