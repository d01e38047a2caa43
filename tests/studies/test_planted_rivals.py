"""The benchmark's rivals against plain forward passes and against sorting by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from aftertune.attribution import select_count
from aftertune.model import Matrix, PromptAnswers, WeightView, as_subject
from aftertune.studies._planted_methods import RIVALS, Choices
from aftertune.studies._planted_rivals import input_norms, ranked_within, wanda_score


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_input_norms_are_those_of_plain_passes(
    architecture: str, tiny_model: Callable[..., Any], tiny_tokenizer: Any
) -> None:
    subject = as_subject(tiny_model(architecture), tiny_tokenizer, architecture)
    view = WeightView(subject.model)
    rows = [
        PromptAnswers((5, 9, 17), ((40, 3, 8),)),
        PromptAnswers((4, 4), ((11,),)),
        PromptAnswers((7, 9, 30, 31), ((8, 2),)),
    ]
    subject.max_batch_tokens = 12
    norms = input_norms(subject, rows, view=view)
    modules = dict(subject.model.named_modules())
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in view}
    handles = [
        modules[m.module].register_forward_pre_hook(lambda _, args, n=m.name: seen[n].append(args[0][0].detach()))
        for m in view.values()
    ]
    with torch.no_grad():
        for row in rows:
            subject.model(torch.tensor([row.prompt + row.responses[0][:-1]]))
    for handle in handles:
        handle.remove()
    for name, matrix in view.items():
        expected = torch.cat(seen[name]).square().sum(0).sqrt()
        assert torch.allclose(norms[name], expected, rtol=1e-4, atol=1e-5), name
        score = wanda_score(norms)(matrix)
        weights = matrix.parameter.detach().abs()
        by_hand = weights * (expected[:, None] if matrix.kind == "conv1d" else expected)
        assert torch.allclose(score, by_hand, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mixtral"])
@pytest.mark.parametrize("within", ["row", "matrix"])
def test_every_row_or_matrix_gives_the_same_share(
    architecture: str, within: Any, tiny_model: Callable[..., Any]
) -> None:
    view = WeightView(tiny_model(architecture))

    def score(matrix: Matrix) -> torch.Tensor:
        """Larger in some rows and matrices than in others; two thirds are positive."""
        generator = torch.Generator().manual_seed(sum(map(ord, matrix.name)))
        scale = 1 + torch.rand(matrix.parameter.shape[:-1], generator=generator)[..., None]
        return (torch.randn(matrix.parameter.shape, generator=generator) + 0.4) * scale * matrix.weights

    chosen = select_count(view, ranked_within(score, within), count=view.weights // 10).chosen
    for name, matrix in view.items():
        picked = torch.zeros(matrix.weights)
        picked[chosen[name]] = 1
        rows, values = (t.reshape(matrix.parameter.shape) for t in (picked, score(matrix)))
        if within == "row" and matrix.kind == "conv1d":
            rows, values = rows.T, values.T
        width = rows.shape[-1] if within == "row" else matrix.weights
        rows, values = rows.reshape(-1, width), values.reshape(-1, width)
        counts = rows.sum(1)
        assert bool(((counts - width / 10).abs() < 2).all()), name
        for row, value, count in zip(rows, values, counts.int().tolist(), strict=True):
            assert set(row.nonzero().flatten().tolist()) == set(value.topk(count).indices.tolist())


def test_what_is_not_positive_is_never_chosen(tiny_model: Callable[..., Any]) -> None:
    view = WeightView(tiny_model("llama"))
    name = next(iter(view))

    def score(matrix: Matrix) -> torch.Tensor:
        values = -torch.ones(matrix.parameter.shape)
        if matrix.name == name:
            values[0, 3] = 2.0
        return values

    found = select_count(view, ranked_within(score, "row"), count=view.weights)
    assert {n: i.tolist() for n, i in found.chosen.items()} == {name: [3]}


def test_every_rival_can_choose(tiny_model: Callable[..., Any], tiny_tokenizer: Any) -> None:
    subject = as_subject(tiny_model("llama"), tiny_tokenizer, "llama")
    sets = [[PromptAnswers((5, 9, 17), ((40 + i, 3, 8),))] for i in range(3)]
    choices = Choices(subject, WeightView(subject.model), sets, RIVALS)
    assert all(choices.choose(method, 50).units == 50 for method in RIVALS)
