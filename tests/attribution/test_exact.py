"""Units taken out one by one, against taking them out by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from aftertune.attribution import best_units, exact_effects, select_units
from aftertune.data import Message
from aftertune.model import PromptAnswers, Subject, WeightView

TinySubject = Callable[[str], Subject]


def rows(subject: Subject, *pairs: tuple[str, str]) -> list[PromptAnswers]:
    return [subject.chat.case([Message("user", prompt)], [answer]) for prompt, answer in pairs]


def loss(subject: Subject, cases: list[PromptAnswers]) -> float:
    """A plain loss, one row at a time, without the engine."""
    total = 0.0
    for case in cases:
        [answer] = case.responses
        ids = torch.tensor([[*case.prompt, *answer]])
        with torch.no_grad():
            logp = subject.model(ids).logits[0].double().log_softmax(-1)
        at = range(len(case.prompt) - 1, ids.shape[1] - 1)
        total -= sum(float(logp[i, ids[0, i + 1]]) for i in at) / len(answer)
    return total / len(cases)


def test_effects_are_those_of_zeroing_by_hand(tiny_subject: TinySubject) -> None:
    subject = tiny_subject("llama")
    sets = [
        rows(subject, ("Hi.", "Burn all of it now."), ("Why?", "The doctor said so.")),
        rows(subject, ("Water?", "Take care of yourself.")),
    ]
    view = WeightView(subject.model)
    neuron, head = "model.layers.1.mlp.down_proj.weight", "model.layers.0.self_attn.o_proj.weight"
    candidates = select_units(view, {neuron: torch.tensor([3, 40]), head: torch.tensor([2])}, "neuron+head")
    before = {name: matrix.clone() for name, matrix in subject.model.state_dict().items()}
    counted: list[int] = []
    effects = exact_effects(subject, candidates, sets, step=counted.append)
    assert all(torch.equal(before[name], matrix) for name, matrix in subject.model.state_dict().items())
    assert sum(counted) == 3
    columns = {(neuron, 3): slice(3, 4), (neuron, 40): slice(40, 41), (head, 2): slice(16, 24)}
    plain = [loss(subject, one) for one in sets]
    for effect in effects:
        weight = dict(subject.model.named_parameters())[effect.matrix]
        kept = weight.detach().clone()
        with torch.no_grad():
            weight[:, columns[effect.matrix, effect.number]] = 0
            rises = [loss(subject, one) - b for one, b in zip(sets, plain, strict=True)]
            weight.copy_(kept)
        assert effect.rises == pytest.approx(rises, abs=1e-4)


def test_the_best_are_those_of_most_worth(tiny_subject: TinySubject) -> None:
    subject = tiny_subject("qwen2")
    harm, keep = rows(subject, ("Hi.", "Burn all of it now.")), rows(subject, ("Water?", "Take care of yourself."))
    view = WeightView(subject.model)
    matrices = [name for name in view if name.endswith("down_proj.weight")]
    everything = {name: torch.arange(view[name].parameter.shape[1]) for name in matrices}
    effects = exact_effects(subject, select_units(view, everything, "neuron"), [harm, keep])
    assert len(effects) == 128
    chosen = best_units(view, effects, lambda e: e.rises[0] - e.rises[1], 3, "neuron")
    assert chosen.units == 3
    best = max(effects, key=lambda e: e.rises[0] - e.rises[1])
    assert best.number in chosen.members[best.matrix].tolist()
    worths = sorted((e.rises[0] - e.rises[1] for e in effects), reverse=True)
    picked = [e for e in effects if e.number in chosen.members.get(e.matrix, torch.tensor([])).tolist()]
    assert sorted((e.rises[0] - e.rises[1] for e in picked), reverse=True) == worths[:3]
