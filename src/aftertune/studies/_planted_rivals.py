"""Published and simple rivals of our scores that only the planted benchmark needs: Wanda, magnitude, random.

They rank single weights, by one number for each weight; `ranked_within` compares weights of one row or one matrix
only, as Wanda and Wei et al. 2024 do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from aftertune.attribution import ScoreOf, seeded_by_name
from aftertune.errors import NumericalError, UsageError
from aftertune.model import Matrix, PromptAnswers, Subject, WeightView, plan_batches, response_losses

if TYPE_CHECKING:
    import torch


def magnitude_score(matrix: Matrix) -> torch.Tensor:
    """``|w|``: the simplest rival."""
    return matrix.parameter.detach().float().abs()


def random_score(seed: int) -> ScoreOf:
    """Uniform random scores, the same for the same seed, name and shape: what chance finds."""
    import torch

    def score(matrix: Matrix) -> torch.Tensor:
        generator = seeded_by_name(seed, matrix.name)
        return torch.rand(matrix.parameter.shape, generator=generator) + torch.finfo(torch.float32).tiny

    return score


def wanda_score(norms: Mapping[str, torch.Tensor]) -> ScoreOf:
    """``|w| · ‖x‖``: a weight's size times the norm of its input (Sun et al. 2024, Wanda).

    Args:
        norms: of the inputs, by matrix name; see `input_norms`.
    """

    def score(matrix: Matrix) -> torch.Tensor:
        norm = norms[matrix.name]
        weights = matrix.parameter.detach().to(norm).abs()
        return weights * (norm[:, None] if matrix.kind == "conv1d" else norm)

    return score


def ranked_within(score: ScoreOf, within: Literal["row", "matrix"]) -> ScoreOf:
    """A score's rank within each output row, or each matrix, so that every one gives the same share of its weights.

    Values are the share of the row or matrix that ranks lower (ties go to the lower index), and of equal ranks in
    different rows the larger score comes first. Scores that are not positive become 0, which is never chosen.
    """
    import torch

    def rank(matrix: Matrix) -> torch.Tensor:
        scores = score(matrix).float()
        turned = within == "row" and matrix.kind == "conv1d"  # stored (in, out)
        rows = scores.T if turned else scores
        rows = rows.reshape(-1, rows.shape[-1] if within == "row" else rows.numel())
        order = rows.sort(dim=-1, descending=True, stable=True).indices
        ranks = torch.empty_like(rows).scatter_(-1, order, torch.arange(rows.shape[-1]).to(rows).expand_as(rows))
        largest = scores.max().clamp(min=torch.finfo(torch.float32).tiny)
        shares = (rows.shape[-1] - 1 - ranks + rows / largest) / rows.shape[-1]
        shares = torch.where(rows > 0, shares, 0.0)
        return shares.reshape(scores.T.shape).T if turned else shares.reshape(scores.shape)

    return rank


def input_norms(
    subject: Subject,
    rows: Sequence[PromptAnswers],
    *,
    view: WeightView | None = None,
) -> dict[str, torch.Tensor]:
    """The L2 norm of every matrix's inputs over all tokens of a set, in one pass without gradients.

    Sun et al. 2024 take the norm over the calibration tokens; so do we, padding left out.

    Args:
        subject: whose activations.
        rows: prompts with one response each; the response's last token is not read by the model.
        view: the matrices; all editable ones if left out.

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
                cases = [rows[i] for i in batch]
                width = max(case.tokens for case in cases)
                real[:] = [torch.tensor([[i < case.tokens for i in range(width)] for case in cases])]
                response_losses(subject, cases)
    finally:
        for handle in handles:
            handle.remove()
    norms = {name: total.sqrt() for name, total in squares.items()}
    for name, norm in norms.items():
        if not bool(norm.isfinite().all()):
            raise NumericalError(f"{name}: its inputs hold NaN or infinity; use --dtype float32")
    return norms
