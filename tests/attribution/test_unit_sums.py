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
    unit_score,
    unit_spaces,
    unit_sums,
)
from aftertune.errors import NumericalError, UsageError
from aftertune.model import Subject, Tree, WeightView, as_subject, make_patch

Rows = Callable[..., list[Tree]]


@pytest.mark.parametrize("unit", ["neuron", "head", "component"])
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
    view, together = WeightView(subject.model), unit_sums(subject, rows(), "component")
    alone = [unit_sums(subject, [row], "component") for row in rows()]
    for space in unit_spaces(view, "component"):
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
    view, sums = WeightView(subject.model), unit_sums(subject, rows(), "component")
    space = max(unit_spaces(view, "component"), key=lambda s: float(unit_score(sums)(s.matrix).abs().max()))
    score = unit_score(sums)(space.matrix)
    unit = int(score.abs().argmax())
    chosen = select_units(view, {space.matrix.name: torch.tensor([unit])}, "component")
    before = sum(sums.losses) / len(sums.losses)
    with make_patch(view, chosen.chosen, "scale", {}, factor=0.98).applied(view):
        after = sum(unit_sums(subject, rows(), "component").losses) / len(sums.losses)
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
        unit_sums(subject, [Tree((5, 6, 7), ((8, 9),)), Tree((5, 301, 7), ((8, 9),))], "neuron",
                  names=["first", "second"])  # fmt: skip
    assert not any(m._forward_pre_hooks for m in subject.model.modules())
