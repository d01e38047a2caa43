"""Norms of what flows into every matrix: the data half of Wanda's score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from aftertune.errors import NumericalError, UsageError
from aftertune.model import Subject, Tree, WeightView, plan_batches, response_losses

if TYPE_CHECKING:
    import torch


def input_norms(
    subject: Subject,
    rows: Sequence[Tree],
    *,
    view: WeightView | None = None,
    step: Callable[[int], None] = lambda done: None,
) -> dict[str, torch.Tensor]:
    """The L2 norm of every matrix's inputs over all tokens of a set, in one pass without gradients.

    Sun et al. 2024 (Wanda) take the norm over the calibration tokens; so do we, padding left out.

    Args:
        subject: whose activations.
        rows: prompts with one response each; the response's last token is not read by the model.
        view: the matrices; all editable ones if left out.
        step: told how many rows are done, after each batch.

    Returns:
        fp32 norms by matrix name, shape (inputs,).

    Raises:
        UsageError: no rows, or fused experts, whose inputs cannot be watched.
        NumericalError: a norm is NaN or infinite.
    """
    import torch

    if not rows:
        raise UsageError("there are no examples to take activations of")
    view = view or WeightView(subject.model)
    if any(matrix.kind == "experts" for matrix in view.values()):
        raise UsageError("the experts of this model are fused: their inputs cannot be watched; use another score")
    modules: dict[str, Any] = dict(subject.model.named_modules())
    squares: dict[str, torch.Tensor] = {}
    real: list[torch.Tensor] = []

    def watch(name: str) -> Callable[..., None]:
        def before(module: Any, args: tuple[torch.Tensor, ...]) -> None:
            inputs = args[0].detach().float()
            mask = real[0].to(inputs.device)
            inputs = inputs.reshape(*mask.shape, -1)
            total = (inputs * mask[..., None]).square_().sum((0, 1))
            squares[name] = squares[name] + total if name in squares else total

        return before

    handles = [modules[m.module].register_forward_pre_hook(watch(m.name)) for m in view.values()]
    try:
        with torch.no_grad():
            for batch in plan_batches(rows, subject.max_batch_tokens):
                trees = [rows[i] for i in batch]
                width = max(tree.tokens for tree in trees)
                real[:] = [torch.tensor([[i < tree.tokens for i in range(width)] for tree in trees])]
                response_losses(subject, trees)
                step(len(batch))
    finally:
        for handle in handles:
            handle.remove()
    norms = {name: total.sqrt() for name, total in squares.items()}
    for name, norm in norms.items():
        if not bool(norm.isfinite().all()):
            raise NumericalError(f"{name}: its inputs hold NaN or infinity; use --dtype float32")
    return norms
