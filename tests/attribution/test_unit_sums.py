"""Unit sums against weight gradients summed by hand, and against taking units out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from aftertune.attribution import (
    UnitSums,
    contrastive_score,
    gradient_sums,
    select_units,
    signed_score,
    unit_importance,
    unit_named,
    unit_score,
    unit_spaces,
    unit_sums,
)
from aftertune.errors import NumericalError, UsageError
from aftertune.model import PromptAnswers, Subject, WeightView, as_subject, make_patch

Rows = Callable[..., list[PromptAnswers]]


@pytest.mark.parametrize("unit", ["neuron", "head", "neuron+head"])
@pytest.mark.parametrize("bound", [16, 10_000])
def test_sums_equal_those_of_the_weights_gradients(rows: Rows, subject: Subject, unit: Any, bound: int) -> None:
    subject.max_batch_tokens = bound
    view = WeightView(subject.model)
    by_unit, by_weight = unit_sums(subject, rows(), unit), gradient_sums(subject, rows())
    assert by_unit.losses == pytest.approx(by_weight.losses, rel=1e-5)
    for space in unit_spaces(view, unit):
        expected = space.sums(signed_score(by_weight)(space.matrix))
        assert torch.allclose(unit_score(by_unit)(space.matrix), expected, atol=1e-5 * float(expected.abs().max()))


def test_absolute_sums_are_of_single_examples(rows: Rows, subject: Subject) -> None:
    view, together = WeightView(subject.model), unit_sums(subject, rows(), "neuron+head")
    alone = [unit_sums(subject, [row], "neuron+head") for row in rows()]
    for space in unit_spaces(view, "neuron+head"):
        name = space.matrix.name
        expected = torch.stack([one.signed[name].abs() for one in alone]).sum(0)
        assert torch.allclose(together.absolute[name], expected, atol=1e-5 * float(expected.max()))
        assert torch.allclose(unit_importance(together)(space.matrix), expected / len(alone), atol=1e-5)


def test_contrasts_of_units_are_contrasts_of_weights_summed(rows: Rows, subject: Subject) -> None:
    view = WeightView(subject.model)
    sets = [rows(1), rows(2, 4), rows(5, 3)]
    units = [unit_sums(subject, s, "neuron") for s in sets]
    weights = [gradient_sums(subject, s) for s in sets]
    for space in unit_spaces(view, "neuron"):
        expected = space.sums(contrastive_score(*weights)(space.matrix))
        assert torch.allclose(unit_score(*units)(space.matrix), expected, atol=1e-5)


def test_a_unit_scaled_a_little_changes_the_loss_as_its_score_says(rows: Rows, subject: Subject) -> None:
    view, sums = WeightView(subject.model), unit_sums(subject, rows(), "neuron+head")
    space = max(unit_spaces(view, "neuron+head"), key=lambda s: float(unit_score(sums)(s.matrix).abs().max()))
    score = unit_score(sums)(space.matrix)
    unit = int(score.abs().argmax())
    chosen = select_units(view, {space.matrix.name: torch.tensor([unit])}, "neuron+head")
    before = sum(sums.losses) / len(sums.losses)
    with make_patch(view, chosen.chosen, "scale", {}, factor=0.98).applied(view):
        after = sum(unit_sums(subject, rows(), "neuron+head").losses) / len(sums.losses)
    assert after - before == pytest.approx(0.02 * float(score[unit]), rel=0.1)


def test_what_cannot_be_summed_is_told(rows: Rows, tiny_model: Callable[..., Any], tiny_tokenizer: Any) -> None:
    llama = as_subject(tiny_model("llama"), tiny_tokenizer, "llama")
    with pytest.raises(UsageError, match="single weights"):
        unit_sums(llama, rows(), "weight")
    with pytest.raises(UsageError, match="no examples"):
        unit_sums(llama, [], "neuron")
    mixtral = as_subject(tiny_model("mixtral"), tiny_tokenizer, "mixtral")
    with pytest.raises(UsageError, match="fused"):
        unit_sums(mixtral, rows(), "neuron")
    assert isinstance(unit_sums(mixtral, rows(), "head"), UnitSums)


def test_a_broken_example_is_named(tiny_model: Callable[..., Any], tiny_tokenizer: Any) -> None:
    subject = as_subject(tiny_model("llama"), tiny_tokenizer, "llama")
    with torch.no_grad():
        subject.model.get_input_embeddings().weight[300:] = float("nan")
    with pytest.raises(NumericalError, match=r"^second: its gradient at .* NaN"):
        unit_sums(subject, [PromptAnswers((5, 6, 7), ((8, 9),)), PromptAnswers((5, 301, 7), ((8, 9),))], "neuron",
                  names=["first", "second"])  # fmt: skip
    assert not any(m._forward_pre_hooks for m in subject.model.modules())


@pytest.mark.parametrize("unit", ["neuron+head", "singular-vector"])
@pytest.mark.parametrize("bound", [16, 10_000])
def test_collected_effects_are_those_of_per_example_autograd(
    rows: Rows, subject: Subject, unit: Any, bound: int
) -> None:
    """By hand: each row's own weight gradients, summed over each unit; and their products with a vector."""
    subject.max_batch_tokens = bound
    view, spaces = WeightView(subject.model), list(unit_spaces(WeightView(subject.model), unit))
    found = unit_sums(subject, rows(), unit, view=view, collect="effects")
    generator = torch.Generator().manual_seed(0)
    vectors = {
        s.matrix.name: torch.randn(s.units, generator=generator) for s in spaces[1:]
    }  # one matrix counts nothing
    projected = unit_sums(subject, rows(), unit, view=view, collect=vectors)
    assert found.projections is None
    assert not projected.effects
    subject.model.requires_grad_(True)
    by_hand = []
    for row in rows():
        subject.model.zero_grad()
        with torch.enable_grad():
            logits = subject.model(torch.tensor([row.prompt + row.responses[0]])).logits[0, len(row.prompt) - 1 : -1]
            torch.nn.functional.cross_entropy(logits, torch.tensor(row.responses[0])).backward()
        effects = {}
        for space in spaces:
            gradient, name = space.matrix.parameter.grad, space.matrix.name
            assert gradient is not None
            if unit == "singular-vector":
                terms = view.directions(name)
                effects[name] = terms.sizes * ((terms.left.T @ gradient) * terms.right).sum(1)
            else:
                effects[name] = space.sums(space.matrix.parameter.detach() * gradient)
        by_hand.append(effects)
    for space in spaces:
        name = space.matrix.name
        expected = torch.stack([effects[name] for effects in by_hand])
        assert torch.allclose(found.effects[name], expected, atol=1e-4 * float(expected.abs().max()))
        assert torch.equal(found.signed[name], projected.signed[name])
    dots = torch.stack([sum(effects[n] @ v for n, v in vectors.items()) for effects in by_hand])  # type: ignore[misc]
    assert projected.projections is not None
    assert torch.allclose(projected.projections, dots, atol=1e-4 * float(dots.abs().max()))


def test_a_vector_that_does_not_fit_is_refused(rows: Rows, subject: Subject) -> None:
    space = next(unit_spaces(WeightView(subject.model), "neuron"))
    for vectors in ({"no such matrix": torch.zeros(3)}, {space.matrix.name: torch.zeros(space.units + 1)}):
        with pytest.raises(UsageError, match="does not fit its units"):
            unit_sums(subject, rows(), "neuron", collect=vectors)


def test_former_names_of_units_are_read_and_others_refused() -> None:
    assert [unit_named(name) for name in ("component", "direction", "head")] == [
        "neuron+head",
        "singular-vector",
        "head",
    ]
    with pytest.raises(UsageError, match=r"unit 'layer': not known; use one of neuron\+head, neuron"):
        unit_named("layer")
