"""Gradients of single weights, summed over examples in one pass: their sum, and the sum of their absolute values.

Let ``g_b`` be the gradient of example b's mean response loss with respect to a matrix. A linear layer with inputs
``x`` and output gradients ``d`` has ``g_b = d_bᵀ x_b``, so both sums can be had from one batched forward and
backward pass that computes no parameter gradients of its own. The work is cut into strips of rows, small enough
that the gradients of all examples of a batch stay in the processor's cache while they are added up.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aftertune.errors import NumericalError, UsageError
from aftertune.model import Matrix, PromptAnswers, Subject, WeightView, plan_batches, response_losses

if TYPE_CHECKING:
    import torch

STRIP_BYTES = 2**20
# What a batch may add to model and accumulators: the activations its backward pass needs, or 64 MiB.
BATCH_SHARE = 0.25
LEAST_BATCH_BYTES = 2**26


@dataclass
class GradientSums:
    """Sums over the examples of one set.

    Attributes:
        signed: Σ_b g_b by matrix name, fp32, in the parameter's own layout.
        absolute: Σ_b |g_b|, likewise; empty where it was not asked for.
        losses: mean response loss of every example, in nats per token, in the order given.
    """

    signed: dict[str, torch.Tensor] = field(default_factory=dict)
    absolute: dict[str, torch.Tensor] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)

    @property
    def examples(self) -> int:
        """How many examples were summed."""
        return len(self.losses)


def gradient_sums(
    subject: Subject,
    rows: Sequence[PromptAnswers],
    *,
    absolute: bool = False,
    names: Sequence[str] | None = None,
    store: torch.device | str | None = None,
    view: WeightView | None = None,
    step: Callable[[int], None] = lambda done: None,
    say: Callable[[str], None] = lambda text: None,
) -> GradientSums:
    """Sum the gradients of each row's mean response loss, in one pass.

    Args:
        subject: whose loss and weights.
        rows: prompts with one response each.
        absolute: also sum the absolute values of each example's gradient.
        names: how to call each row in complaints.
        store: device of the accumulators; where the matrices are, if left out. They take four bytes per weight
            in view, eight with ``absolute``.
        view: the matrices; all editable ones if left out.
        step: gets the number of rows done, after each batch.
        say: gets a line where batches are not possible.

    Raises:
        UsageError: no rows, or a row without a response.
        NumericalError: a gradient is NaN or infinite; the example is named.
    """
    import torch

    view = view or WeightView(subject.model)
    sums = GradientSums(losses=[0.0] * len(rows))
    for matrix in view.values():
        place = torch.device(store) if store is not None else matrix.parameter.device
        sums.signed[matrix.name] = torch.zeros(matrix.parameter.shape, dtype=torch.float32, device=place)
        if absolute:
            sums.absolute[matrix.name] = torch.zeros_like(sums.signed[matrix.name])
    one_by_one = any(matrix.kind == "experts" for matrix in view.values())
    if one_by_one:
        say("experts are fused: their gradients are taken one example at a time")
    batches = [[i] for i in range(len(rows))] if one_by_one else plan_batches(rows, backward_tokens(subject, view))
    experts = {matrix.name for matrix in view.values() if matrix.kind == "experts"}
    with _hooks(view, sums, absolute, names) as work:
        sums.losses[:] = backward_passes(
            subject, rows, batches, work.begin, work.finish, names=names, step=step, trained=experts
        )
    return sums


def backward_tokens(subject: Subject, view: WeightView) -> int:
    """Tokens of one forward and backward pass: what keeps its activations near a quarter of model and accumulators.

    An estimate: inputs and outputs of every matrix in view, and three times the logits were all tokens a response's.
    Never more than the subject's own bound; larger batches would hardly be faster.
    """
    floats = sum(m.parameter.shape[-1] + m.parameter.shape[-2] for m in view.values()) + 3 * subject.vocabulary
    model = sum(p.numel() * p.element_size() for p in subject.model.parameters())
    size = next(iter(view.values())).parameter.element_size()
    budget = max(LEAST_BATCH_BYTES, BATCH_SHARE * (model + 2 * 4 * view.weights))
    return max(1, min(subject.max_batch_tokens, int(budget / (size * floats))))


def backward_passes(
    subject: Subject,
    rows: Sequence[PromptAnswers],
    batches: Sequence[Sequence[int]],
    begin: Callable[[Sequence[int]], None],
    finish: Callable[[], None] = lambda: None,
    *,
    names: Sequence[str] | None = None,
    step: Callable[[int], None] = lambda done: None,
    trained: Collection[str] = (),
) -> list[float]:
    """Each row's mean response loss, propagated back batch by batch for hooks to watch.

    Args:
        subject: whose loss.
        rows: prompts with one response each.
        batches: row numbers of each pass.
        begin: gets the row numbers before each pass.
        finish: called after each pass.
        names: how to call each row in complaints.
        step: gets the number of rows done, after each batch.
        trained: parameters that get gradients of their own; no others do.

    Returns:
        The rows' losses, in nats per token.

    Raises:
        UsageError: no rows, or a row without a response.
    """
    import torch

    if not rows:
        raise UsageError("there are no examples to attribute")
    for number, row in enumerate(rows):
        if len(row.responses) != 1 or not row.responses[0]:
            raise UsageError(f"{row_name(names, number)}: has no response to attribute")
    found = [0.0] * len(rows)
    with _frozen_but(subject.model, trained):
        for batch in batches:
            begin(batch)
            with torch.enable_grad():
                losses = response_losses(subject, [rows[i] for i in batch])
                losses.sum().backward()  # type: ignore[no-untyped-call]
            finish()
            for index, loss in zip(batch, losses.detach().tolist(), strict=True):
                found[index] = loss
            step(len(batch))
    return found


def row_name(names: Sequence[str] | None, number: int) -> str:
    """How a complaint calls a row."""
    return names[number] if names else f"example {number + 1}"


def refuse_infinite(values: torch.Tensor, matrix: str, rows: Sequence[int], names: Sequence[str] | None) -> None:
    """Refuse values by row, shape (rows, …), of which one is NaN or infinite; the row is named."""
    finite = values.isfinite().all(1)
    if not bool(finite.all()):
        bad = row_name(names, rows[int((~finite).nonzero()[0])])
        raise NumericalError(
            f"{bad}: its gradient at {matrix} is NaN or infinite; leave it out, or use --dtype float32"
        )


@contextlib.contextmanager
def _frozen_but(model: Any, trained: Collection[str]) -> Iterator[None]:
    """No parameter gets a gradient of its own but ``trained``; the first hidden states start the graph."""
    wanted = {name: p.requires_grad for name, p in model.named_parameters()}
    training = model.training

    def start(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        return output.requires_grad_() if output.is_leaf else output

    handle = model.get_input_embeddings().register_forward_hook(start)
    model.eval()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    try:
        yield
    finally:
        handle.remove()
        model.train(training)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(wanted[name])
            parameter.grad = None


class _Batch:
    """The batch at work: whose rows they are, and what to collect when its backward pass is done."""

    def __init__(
        self, view: WeightView, sums: GradientSums, absolute: bool, names: Sequence[str] | None
    ) -> None:  # fmt: skip
        self.rows: Sequence[int] = ()
        self._view, self._sums, self._absolute, self._names = view, sums, absolute, names

    def begin(self, rows: Sequence[int]) -> None:
        self.rows = rows

    def collect(self, matrix: Matrix, inputs: torch.Tensor, gradient: torch.Tensor) -> None:
        """Add the products of one layer: inputs (rows, tokens, in), gradient (rows, tokens, out)."""
        rows = len(self.rows)
        inputs = inputs.reshape(rows, -1, inputs.shape[-1]).float()
        gradient = gradient.reshape(rows, -1, gradient.shape[-1]).float()
        refuse_infinite(gradient.flatten(1), matrix.name, self.rows, self._names)
        signed = self._sums.signed[matrix.name]
        absolute = self._sums.absolute.get(matrix.name)
        if matrix.kind == "conv1d":  # stored (in, out)
            inputs, gradient = gradient, inputs
        if absolute is None:  # no example's own gradient is asked for: one product, straight into the sum
            signed.addmm_(gradient.flatten(0, 1).T.to(signed.device), inputs.flatten(0, 1).to(signed.device))
            return
        strip = max(1, STRIP_BYTES // (4 * rows * inputs.shape[-1]))
        left = gradient.transpose(1, 2)
        for start in range(0, left.shape[1], strip):
            products = left[:, start : start + strip] @ inputs
            signed[start : start + strip] += products.sum(0).to(signed.device)
            absolute[start : start + strip] += products.abs_().sum(0).to(absolute.device)

    def finish(self) -> None:
        """Take up the gradients of fused experts, whose rows come one at a time."""
        for matrix in self._view.values():
            gradient = matrix.parameter.grad
            if matrix.kind != "experts" or gradient is None:
                continue
            if not bool(gradient.isfinite().all()):
                bad = row_name(self._names, self.rows[0])
                raise NumericalError(f"{bad}: its gradient at {matrix.name} is NaN or infinite; leave it out")
            signed = self._sums.signed[matrix.name]
            signed += gradient.to(signed)
            if self._absolute:
                self._sums.absolute[matrix.name] += gradient.abs_().to(signed)
            matrix.parameter.grad = None


@contextlib.contextmanager
def _hooks(
    view: WeightView, sums: GradientSums, absolute: bool, names: Sequence[str] | None
) -> Iterator[_Batch]:  # fmt: skip
    """Watch every linear layer: keep its inputs, and multiply them when its output's gradient arrives."""
    batch = _Batch(view, sums, absolute, names)
    modules: Mapping[str, Any] = dict(view.model.named_modules())

    def watch(matrix: Matrix) -> Callable[..., None]:
        def after(module: Any, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            inputs = args[0].detach()
            output.register_hook(lambda gradient: batch.collect(matrix, inputs, gradient))  # type: ignore[no-untyped-call]

        return after

    handles = [
        modules[matrix.module].register_forward_hook(watch(matrix))
        for matrix in view.values()
        if matrix.kind != "experts"
    ]
    try:
        yield batch
    finally:
        for handle in handles:
            handle.remove()
