"""One-pass sums against per-example autograd and finite differences."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from aftertune.attribution import gradient_sums
from aftertune.errors import NumericalError, UsageError
from aftertune.model import PromptAnswers, Subject, WeightView, as_subject

ARCHITECTURES = ("llama", "gpt2", "qwen2", "mixtral")


@pytest.fixture(params=ARCHITECTURES)
def subject(request: pytest.FixtureRequest, tiny_model: Any, tiny_tokenizer: Any) -> Subject:
    return as_subject(tiny_model(request.param), tiny_tokenizer, request.param)


def rows() -> list[PromptAnswers]:
    generator = torch.Generator().manual_seed(3)
    made = []
    for prompt, response in ((9, 4), (3, 7), (12, 1), (5, 5), (7, 2)):
        ids = torch.randint(3, 300, (prompt + response,), generator=generator).tolist()
        made.append(PromptAnswers(tuple(ids[:prompt]), (tuple(ids[prompt:]),)))
    return made


def plain_loss(model: Any, row: PromptAnswers) -> torch.Tensor:
    """Mean response loss, by the textbook."""
    ids = torch.tensor([row.prompt + row.responses[0]])
    logits = model(ids).logits[0, len(row.prompt) - 1 : -1]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(row.responses[0]))


def per_example(model: Any, view: WeightView) -> tuple[dict[str, Any], dict[str, Any], list[float]]:
    signed = {name: torch.zeros_like(m.parameter) for name, m in view.items()}
    absolute = {name: torch.zeros_like(m.parameter) for name, m in view.items()}
    losses = []
    for row in rows():
        model.zero_grad()
        loss = plain_loss(model, row)
        loss.backward()
        losses.append(loss.item())
        for name, matrix in view.items():
            assert matrix.parameter.grad is not None
            signed[name] += matrix.parameter.grad
            absolute[name] += matrix.parameter.grad.abs()
    model.zero_grad()
    return signed, absolute, losses


@pytest.mark.parametrize("bound", [10, 40, 10_000])
def test_both_sums_equal_per_example_autograd(subject: Subject, bound: int) -> None:
    view = WeightView(subject.model)
    signed, absolute, losses = per_example(subject.model, view)
    subject.max_batch_tokens = bound
    sums = gradient_sums(subject, rows(), absolute=True)
    assert sums.losses == pytest.approx(losses, rel=1e-5)
    for name in view:
        scale = absolute[name].max()
        assert (sums.signed[name] - signed[name]).abs().max() <= 1e-5 * scale, name
        assert (sums.absolute[name] - absolute[name]).abs().max() <= 1e-5 * scale, name


def test_the_signed_sum_equals_finite_differences(subject: Subject) -> None:
    sums = gradient_sums(subject, rows())
    model = subject.model
    for name, matrix in WeightView(model).items():
        # Along the gradient itself the change is largest, and rounding matters least.
        direction = sums.signed[name] / sums.signed[name].norm()
        step = 1e-2 * float(matrix.parameter.norm()) / 10
        total = []
        with torch.no_grad():
            for sign in (1, -1):
                matrix.parameter.add_(sign * step * direction)
                total.append(sum(plain_loss(model, row).item() for row in rows()))
                matrix.parameter.sub_(sign * step * direction)
        slope = (total[0] - total[1]) / (2 * step)
        assert slope == pytest.approx(float(sums.signed[name].norm()), rel=1e-2), name


def test_the_model_is_left_as_it_was(subject: Subject) -> None:
    subject.model.train()
    next(subject.model.parameters()).requires_grad_(False)
    before = {name: (p.requires_grad, p.detach().clone()) for name, p in subject.model.named_parameters()}
    gradient_sums(subject, rows(), absolute=True)
    assert subject.model.training
    for name, parameter in subject.model.named_parameters():
        assert parameter.grad is None
        assert parameter.requires_grad == before[name][0]
        assert torch.equal(parameter, before[name][1])
    assert not any(module._forward_hooks for module in subject.model.modules())


def test_a_broken_example_is_named(tiny_model: Any, tiny_tokenizer: Any) -> None:
    subject = as_subject(tiny_model("llama"), tiny_tokenizer, "llama")
    with torch.no_grad():
        subject.model.get_input_embeddings().weight[300:] = float("nan")
    broken = PromptAnswers((5, 301, 7), ((8, 9),))
    with pytest.raises(NumericalError, match=r"^row-5: its gradient at .* is NaN or infinite; leave it out"):
        gradient_sums(subject, [*rows(), broken], names=[f"row-{i}" for i in range(6)])


@pytest.mark.parametrize(
    "wrong", [[], [PromptAnswers((1, 2), ())], [PromptAnswers((1, 2), ((),))], [PromptAnswers((1, 2), ((3,), (4,)))]]
)
def test_nothing_to_attribute_is_refused(wrong: list[PromptAnswers], tiny_model: Any, tiny_tokenizer: Any) -> None:
    subject = as_subject(tiny_model("llama"), tiny_tokenizer, "llama")
    with pytest.raises(UsageError, match=r"no examples|no response"):
        gradient_sums(subject, wrong)
