"""Parts along the path, against the effect they must add up to and against a plain finite difference."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from aftertune.attribution import UnitEffect, exact_effects, path_effects, refined_path_effects, select_units
from aftertune.data import Message
from aftertune.errors import UsageError
from aftertune.model import PromptAnswers, Subject, WeightView, make_patch, score

TinySubject = Callable[[str], Subject]


def rows(subject: Subject, *pairs: tuple[str, str]) -> list[PromptAnswers]:
    return [subject.chat.case([Message("user", prompt)], [answer]) for prompt, answer in pairs]


def loss(subject: Subject, cases: list[PromptAnswers]) -> float:
    return -sum(answers[0].mean for answers in score(subject, cases)) / len(cases)


def test_the_parts_add_up_to_the_whole_and_leave_the_model_as_it_was(tiny_subject: TinySubject) -> None:
    subject = tiny_subject("llama")
    with torch.no_grad():  # a random model's units do next to nothing; these do something
        for name, matrix in subject.model.named_parameters():
            if name.endswith(("down_proj.weight", "o_proj.weight")):
                matrix.mul_(20)
    sets = [
        rows(subject, ("Hi.", "Burn all of it now."), ("Why?", "The doctor said so.")),
        rows(subject, ("Water?", "Take care of yourself.")),
    ]
    view = WeightView(subject.model)
    neurons, head = "model.layers.1.mlp.down_proj.weight", "model.layers.0.self_attn.o_proj.weight"
    candidates = select_units(view, {neurons: torch.arange(12), head: torch.tensor([1, 2])}, "neuron+head")
    kept = {name: matrix.clone() for name, matrix in subject.model.state_dict().items()}
    before = [loss(subject, one) for one in sets]
    with make_patch(view, candidates.chosen, "zero", {}, digest=False).applied(view):
        whole = [loss(subject, one) - b for one, b in zip(sets, before, strict=True)]
    points: list[int] = []
    effects = path_effects(subject, candidates, sets, steps=32, view=view, step=points.append)
    assert all(torch.equal(kept[name], matrix) for name, matrix in subject.model.state_dict().items())
    assert sum(points) == 32
    assert [(e.matrix, e.number) for e in effects] == [
        (e.matrix, e.number) for e in exact_effects(subject, candidates, sets, view=view)
    ]
    assert max(abs(rise) for rise in whole) > 0.05
    for number, rise in enumerate(whole):
        assert sum(e.rises[number] for e in effects) == pytest.approx(rise, abs=2e-3)


def test_the_second_path_is_through_the_best_of_all_proposals_alone(tiny_subject: TinySubject) -> None:
    subject = tiny_subject("llama")
    with torch.no_grad():
        for name, matrix in subject.model.named_parameters():
            if name.endswith(("down_proj.weight", "o_proj.weight")):
                matrix.mul_(20)
    sets = [rows(subject, ("Hi.", "Burn all of it now.")), rows(subject, ("Water?", "Take care of yourself."))]
    view = WeightView(subject.model)
    neurons, head = "model.layers.1.mlp.down_proj.weight", "model.layers.0.self_attn.o_proj.weight"
    proposals = [
        select_units(view, {neurons: torch.arange(8)}, "neuron+head"),
        select_units(view, {neurons: torch.arange(5, 12), head: torch.tensor([1, 2])}, "neuron+head"),
    ]
    union = select_units(view, {neurons: torch.arange(12), head: torch.tensor([1, 2])}, "neuron+head")

    def worth(effect: UnitEffect) -> float:
        return effect.rises[0] - effect.rises[1]

    points: list[int] = []
    found = refined_path_effects(subject, proposals, sets, worth, 4, steps=32, view=view, step=points.append)
    assert sum(points) == 64
    first = sorted(path_effects(subject, union, sets, steps=32, view=view), key=worth, reverse=True)
    assert {(e.matrix, e.number) for e in found} == {(e.matrix, e.number) for e in first[:4]}
    members: dict[str, list[int]] = {}
    for effect in found:
        members.setdefault(effect.matrix, []).append(effect.number)
    kept = select_units(view, {name: torch.tensor(sorted(numbers)) for name, numbers in members.items()}, "neuron+head")
    before = [loss(subject, one) for one in sets]
    with make_patch(view, kept.chosen, "zero", {}, digest=False).applied(view):
        whole = [loss(subject, one) - b for one, b in zip(sets, before, strict=True)]
    for number, rise in enumerate(whole):
        assert sum(e.rises[number] for e in found) == pytest.approx(rise, abs=2e-3)


def test_twins_that_share_a_task_share_its_part(tiny_subject: TinySubject) -> None:
    """Two equal neurons: with the one in place the other is half of what both do, not what is left of it."""
    subject = tiny_subject("llama")
    layer = dict(subject.model.named_modules())["model.layers.1.mlp"]
    with torch.no_grad():
        layer.down_proj.weight.mul_(20)
        for projection in (layer.gate_proj, layer.up_proj):
            projection.weight[1] = projection.weight[0]
        layer.down_proj.weight[:, 1] = layer.down_proj.weight[:, 0]
    view = WeightView(subject.model)
    name = "model.layers.1.mlp.down_proj.weight"
    twins = select_units(view, {name: torch.tensor([0, 1])}, "neuron")
    first, second = path_effects(subject, twins, [rows(subject, ("Hi.", "Burn all of it now."))], view=view)
    assert first.rises[0] == pytest.approx(second.rises[0], rel=1e-4)


def test_a_path_without_points_is_refused(tiny_subject: TinySubject) -> None:
    subject = tiny_subject("llama")
    view = WeightView(subject.model)
    one = select_units(view, {"model.layers.1.mlp.down_proj.weight": torch.tensor([0])}, "neuron")
    with pytest.raises(UsageError, match="at least one point, not 0"):
        path_effects(subject, one, [rows(subject, ("Hi.", "No."))], steps=0, view=view)
