"""Singular directions against weight gradients, finite differences, and an update of rank one that is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from aftertune.attribution import (
    exact_effects,
    gradient_sums,
    magnitude_control,
    opposite_control,
    path_effects,
    random_control,
    select_count,
    select_units,
    selection_of,
    signed_score,
    unit_importance,
    unit_patch,
    unit_score,
    unit_spaces,
    unit_sums,
)
from aftertune.errors import NumericalError, UsageError
from aftertune.model import PromptAnswers, Subject, WeightView, as_subject, read_patch, response_losses, write_patch

Rows = Callable[..., list[PromptAnswers]]


def loss(subject: Subject, given: list[PromptAnswers]) -> float:
    with torch.no_grad():
        return float(response_losses(subject, given).mean())


@pytest.mark.parametrize("bound", [16, 10_000])
def test_sums_equal_those_of_the_weights_gradients(rows: Rows, subject: Subject, bound: int) -> None:
    """Second implementation: whole gradients, laid out along the view's own directions in double precision.

    Directions whose sizes lie close together mix freely within fp32, other than another decomposition mixes them;
    the decomposition has a test of its own, which no such mixing moves.
    """
    subject.max_batch_tokens = bound
    view = WeightView(subject.model)
    by_unit, by_weight = unit_sums(subject, rows(), "singular-vector", view=view), gradient_sums(subject, rows())
    alone = [gradient_sums(subject, [row]) for row in rows()]
    assert len(list(unit_spaces(view, "singular-vector"))) == len(view)
    for name, matrix in view.items():
        found = view.directions(name)
        left, sizes, right = found.left.double(), found.sizes.double(), found.right.double()

        def effects(gradient: torch.Tensor, left: Any = left, sizes: Any = sizes, right: Any = right) -> torch.Tensor:
            return sizes * ((left.T @ gradient.double()) * right).sum(1)

        signed = effects(by_weight.signed[name])
        atol = 1e-4 * float(signed.abs().max())
        assert torch.allclose(by_unit.signed[name].double(), signed, atol=atol)
        absolute = torch.stack([effects(one.signed[name]).abs() for one in alone]).sum(0)
        assert torch.allclose(by_unit.absolute[name].double(), absolute, atol=1e-4 * float(absolute.max()))
        assert torch.allclose(
            unit_importance(by_unit)(matrix).double(), absolute / 7, atol=1e-4 * float(absolute.max())
        )


def test_the_directions_are_the_strongest_terms_of_the_decomposition(subject: Subject) -> None:
    """Against singular values in double precision; what the terms leave of the matrix is as small as can be."""
    view = WeightView(subject.model)
    for name, matrix in view.items():
        found, exact = view.directions(name), matrix.parameter.detach().double()
        sizes = torch.linalg.svdvals(exact)
        count, atol = min(64, len(sizes)), 1e-5 * float(sizes[0])
        assert torch.allclose(found.sizes.double(), sizes[:count], atol=atol, rtol=0)
        for vectors in (found.left.T.double(), found.right.double()):
            assert torch.allclose(vectors @ vectors.T, torch.eye(count, dtype=torch.double), atol=1e-5)
        left_over = exact - found.part(torch.arange(count)).double()
        # Eckart-Young: no matrix of that rank is nearer than the next singular value, whichever way neighbours mix.
        expected = float(sizes[count]) if len(sizes) > count else 0.0
        assert float(torch.linalg.matrix_norm(left_over, 2)) == pytest.approx(expected, abs=atol)
        # Each pair of vectors belongs to its size.
        assert torch.allclose(
            exact @ found.right.double().T, found.left.double() * found.sizes.double(), atol=atol, rtol=0
        )


def test_a_direction_faded_a_little_changes_the_loss_as_its_score_says(rows: Rows, subject: Subject) -> None:
    view = WeightView(subject.model)
    sums = unit_sums(subject, rows(), "singular-vector", view=view)
    space = max(unit_spaces(view, "singular-vector"), key=lambda s: float(unit_score(sums)(s.matrix).abs().max()))
    score = unit_score(sums)(space.matrix)
    number = int(score.abs().argmax())
    chosen = select_units(view, {space.matrix.name: torch.tensor([number])}, "singular-vector")
    before = loss(subject, rows())
    with unit_patch(view, chosen, "scale", factor=0.98).applied(view):
        assert loss(subject, rows()) - before == pytest.approx(0.02 * float(score[number]), rel=0.05)
    assert loss(subject, rows()) == before


def test_an_update_of_rank_one_is_found_first_and_comes_out(rows: Rows, subject: Subject, tmp_path: Path) -> None:
    """Planted by hand, large beside the matrix: its answers' loss says which direction to take out."""
    view = WeightView(subject.model)
    matrix = next(m for m in view.values() if m.role.endswith(("down_proj", "mlp.c_proj")) and m.layer == 1)
    original = matrix.parameter.detach().clone()
    generator = torch.Generator().manual_seed(1)
    left, right = (torch.randn(size, generator=generator) for size in original.shape)
    left.requires_grad_(True)
    right.requires_grad_(True)
    holder = dict(view.model.named_modules())[matrix.module]
    optimiser = torch.optim.Adam([left, right], lr=0.05)
    parameter = holder._parameters.pop("weight")
    for _ in range(60):  # trained alone: the planted answers become likely through it and nothing else
        with torch.enable_grad():
            holder.__dict__["weight"] = original + torch.outer(left, right) / 20
            trained = response_losses(subject, rows(1)).mean()
            optimiser.zero_grad()
            trained.backward()
        optimiser.step()
    holder.__dict__.pop("weight")
    holder._parameters["weight"] = parameter
    update = (torch.outer(left, right) / 20).detach()
    with torch.no_grad():
        parameter.copy_(original + update)
    planted = loss(subject, rows(1))
    with torch.no_grad():
        parameter.copy_(original)
        without = loss(subject, rows(1))
        parameter.copy_(original + update)
    assert without > planted + 0.5
    view = WeightView(subject.model)
    sums, other = (unit_sums(subject, rows(seed), "singular-vector", view=view) for seed in (1, 2))
    chosen = select_count(view, unit_score(sums, other), count=1, unit="singular-vector")
    assert list(chosen.members) == [matrix.name]
    held = parameter.detach().clone()
    with unit_patch(view, chosen).applied(view):
        assert loss(subject, rows(1)) - planted > 0.8 * (without - planted)
    assert torch.equal(parameter, held)
    [effect] = exact_effects(subject, chosen, [rows(1), rows(2)], view=view)
    assert effect.rises[0] > 0.8 * (without - planted)

    patch = unit_patch(view, chosen, about={"unit": "singular-vector"}, digest=True)
    assert patch.operation == "remove"
    write_patch(tmp_path / "out.safetensors", patch)
    stored = read_patch(tmp_path / "out.safetensors")
    stored.apply(view)
    direction = view.directions(matrix.name)
    [number] = chosen.members[matrix.name].tolist()
    gone = direction.sizes[number] * torch.outer(direction.left[:, number], direction.right[number])
    assert torch.allclose(parameter, held - gone, atol=1e-6)
    stored.undo(view)
    assert torch.equal(parameter, held)


def test_parts_along_the_path_add_up_to_the_whole(rows: Rows, subject: Subject) -> None:
    view = WeightView(subject.model)
    names = list(view)[2:5]
    candidates = select_units(view, {n: torch.tensor([0, 2]) for n in names}, "singular-vector")
    sets = [rows(1), rows(2, 4)]
    before = [loss(subject, one) for one in sets]
    with unit_patch(view, candidates).applied(view):
        whole = [loss(subject, one) - b for one, b in zip(sets, before, strict=True)]
    effects = path_effects(subject, candidates, sets, steps=16, view=view)
    assert max(map(abs, whole)) > 0.01
    for number, rise in enumerate(whole):
        assert sum(e.rises[number] for e in effects) == pytest.approx(rise, abs=1e-3)


def test_controls_are_of_the_same_matrices(rows: Rows, subject: Subject) -> None:
    view = WeightView(subject.model)
    sums = unit_sums(subject, rows(), "singular-vector", view=view)
    chosen = select_count(view, unit_score(sums), count=5, unit="singular-vector")
    assert chosen.units == 5
    assert chosen.weights == sum(view[name].weights for name in chosen.members)
    for control in (random_control(view, chosen), magnitude_control(view, chosen)):
        assert {n: len(m) for n, m in control.members.items()} == {n: len(m) for n, m in chosen.members.items()}
        for name, numbers in control.members.items():
            assert not set(numbers.tolist()) & set(chosen.members[name].tolist())
    opposite = opposite_control(view, unit_score(sums), None, chosen, 0.0)
    assert opposite.units == 5
    for name, numbers in opposite.members.items():
        assert bool((unit_score(sums)(view[name])[numbers] < 0).all())


def test_what_says_nothing_of_directions_is_refused(
    rows: Rows, subject: Subject, tiny_model: Any, tiny_tokenizer: Any, tiny_subject: Callable[[str], Subject]
) -> None:
    view = WeightView(subject.model)
    with pytest.raises(UsageError, match="cannot rank singular vectors"):
        select_count(view, signed_score(gradient_sums(subject, rows())), count=1, unit="singular-vector")
    chosen = select_units(view, {next(iter(view)): torch.tensor([0])}, "singular-vector")
    with pytest.raises(UsageError, match="the vectors cannot be read from it"):
        selection_of(view, chosen.chosen, "singular-vector")
    experts = as_subject(tiny_model("mixtral"), tiny_tokenizer, "mixtral")
    with pytest.raises(UsageError, match="fused"):
        unit_sums(experts, rows(), "singular-vector")


def test_a_gradient_that_is_no_number_names_its_example(rows: Rows, subject: Subject) -> None:
    view = WeightView(subject.model)
    for name in view:
        view.directions(name)
    matrix = [m for m in view.values() if m.layer == 1][-1]
    with torch.no_grad():
        matrix.parameter.fill_(float("nan"))
    with pytest.raises(NumericalError, match=r"row \d: its gradient"):
        unit_sums(subject, rows(), "singular-vector", names=[f"row {i}" for i in range(7)], view=view)
