"""Log-likelihoods of responses: what every judge-free measure stands on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aftertune.errors import UsageError
from aftertune.model._forest import Forest, Prediction
from aftertune.model._trees import Tree

if TYPE_CHECKING:
    import torch

    from aftertune.model._subject import Subject


@dataclass(frozen=True)
class ResponseLikelihood:
    """log p(response | prompt), in nats.

    Attributes:
        total: summed over the response's tokens.
        tokens: how many tokens that is (the end-of-turn token included, where the response holds it).
    """

    total: float
    tokens: int

    @property
    def mean(self) -> float:
        """Nats per token."""
        return self.total / self.tokens


def token_log_probabilities(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Log p of each target, fp32: logits of shape (n, vocabulary), targets (n,) → (n,)."""
    chosen = logits.gather(-1, targets[:, None]).squeeze(-1)
    return chosen - logits.logsumexp(-1)


def refuse_overlong(subject: Subject, trees: Sequence[Tree], names: Sequence[str]) -> None:
    """Refuse trees deeper than the model's context; nothing is ever truncated.

    Raises:
        UsageError: one does not fit; it is named.
    """
    for tree, name in zip(trees, names, strict=True):
        if tree.depth > subject.context:
            raise UsageError(
                f"{name}: takes {tree.depth} tokens, the context of {subject.identity.spec} holds "
                f"{subject.context}; shorten or remove it"
            )


def score_batches(
    subject: Subject,
    trees: Sequence[Tree],
    *,
    max_batch_tokens: int | None = None,
    skip: Callable[[int, Sequence[int]], bool] = lambda batch, members: False,
) -> Iterator[tuple[int, list[int], dict[tuple[int, int], ResponseLikelihood]]]:
    """Score trees batch by batch.

    Args:
        subject: whose likelihoods.
        trees: prompts with their responses.
        max_batch_tokens: bound on the tokens of one pass; the subject's own if left out.
        skip: given a batch's number and tree indices, whether it is known already. The batches depend on the
            trees and the bound alone.

    Yields:
        The batch's number, its tree indices, and likelihoods by (tree, response).
    """
    forest = Forest(subject, trees, max_batch_tokens)
    for number, batch in enumerate(forest.batches):
        members = sorted({forest.pieces[i][0] for i in batch})
        if skip(number, members):
            continue
        yield number, members, {(p.tree, p.response): likelihood(p) for p in forest.predict(batch)}


def likelihood(prediction: Prediction) -> ResponseLikelihood:
    """The likelihood of one predicted response; sums in fp64 on the host."""
    logp = token_log_probabilities(prediction.logits, prediction.targets)
    return ResponseLikelihood(float(logp.double().sum() if logp.device.type != "mps" else logp.sum()), logp.numel())


def score(
    subject: Subject, trees: Iterable[Tree], *, max_batch_tokens: int | None = None
) -> list[list[ResponseLikelihood]]:
    """Likelihood of every response of every tree, in the order given.

    Raises:
        UsageError: a tree is longer than the model's context.
        NumericalError: the model gives NaN.
        MemoryExhausted: a single tree does not fit in memory.
    """
    trees = list(trees)
    refuse_overlong(subject, trees, [f"example {i}" for i in range(1, len(trees) + 1)])
    found: dict[tuple[int, int], ResponseLikelihood] = {}
    for _, _, scores in score_batches(subject, trees, max_batch_tokens=max_batch_tokens):
        found.update(scores)
    return [[found[i, j] for j in range(len(tree.responses))] for i, tree in enumerate(trees)]
