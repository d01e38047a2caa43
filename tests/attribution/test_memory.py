"""What a pass leaves behind, and how much it holds at once."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch

from aftertune.attribution import gradient_sums, unit_sums
from aftertune.attribution._weight_sums import backward_tokens
from aftertune.model import PromptAnswers, Subject, WeightView, as_subject, response_losses

ROWS = [
    PromptAnswers(tuple(range(3, 9)), (tuple(range(20, 30)),)),
    PromptAnswers(tuple(range(40, 44)), (tuple(range(60, 70)),)),
]


@pytest.fixture(params=("llama", "gpt2", "qwen2"))
def subject(request: pytest.FixtureRequest, tiny_model: Any, tiny_tokenizer: Any) -> Subject:
    return as_subject(tiny_model(request.param), tiny_tokenizer, request.param)


@pytest.mark.parametrize(
    "sweep", [lambda s: unit_sums(s, ROWS, "neuron+head"), lambda s: gradient_sums(s, ROWS, absolute=True)]
)
def test_a_sweep_lets_go_of_its_graph_at_once(subject: Subject, sweep: Callable[[Subject], Any]) -> None:
    seen: list[weakref.ref[torch.Tensor]] = []

    def note(module: Any, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        seen.extend((weakref.ref(args[0]), weakref.ref(output)))

    watched = [m for m in subject.model.modules() if isinstance(m, torch.nn.Linear)] or [
        m for m in subject.model.modules() if type(m).__name__ == "Conv1D"
    ]
    handles = [module.register_forward_hook(note) for module in watched]
    gc.collect()
    gc.disable()  # cycles would be found some day, and hold whole batches until then
    try:
        sweep(subject)
        assert seen
        assert not any(ref() is not None for ref in seen)
    finally:
        gc.enable()
        for handle in handles:
            handle.remove()


def test_the_bound_knows_what_a_token_holds(subject: Subject) -> None:
    view = WeightView(subject.model)
    own = {p.untyped_storage().data_ptr() for p in subject.model.parameters()}
    held: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    rows = [PromptAnswers((5,), (tuple(range(10, 60)),))] * 8
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        losses = response_losses(subject, rows)
    assert losses.requires_grad
    each = sum(held.values()) / (8 * 50)
    subject.max_batch_tokens = 10**9
    model = sum(p.numel() * p.element_size() for p in subject.model.parameters())
    budget = max(2**26, 0.25 * (model + 8 * view.weights))
    assert 0.4 < each * backward_tokens(subject, view) / budget < 2
    subject.max_batch_tokens = 7
    assert backward_tokens(subject, view) == 7
