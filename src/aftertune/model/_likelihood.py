"""Likelihoods of answers, with prompts shared where that gives the same numbers.

State-space layers and biases by distance ignore our mask or positions. Attention within a window or a chunk is
right only as long as no row reaches beyond it. A configuration shows neither reliably, so what counts is that
the numbers agree, at the size in question. Models that fail are scored without sharing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aftertune.errors import UsageError
from aftertune.model._prompt_batches import (
    Prediction,
    PromptAnswers,
    PromptBatches,
    lay_out,
    logits_only_at,
    predicting_logits,
)

if TYPE_CHECKING:
    import torch

    from aftertune.model._scorer import ChatSubject
    from aftertune.model._subject import Subject


# Largest difference of logits by position, root mean square over the vocabulary, in units of their spread. Half
# precision rounds the two ways of computing differently; a wrong mask is off by more (about 0.4 and up).
TOLERANCE = {"bfloat16": 0.3, "float16": 0.06}
FULL_TOLERANCE = 2e-3

SMALL_WIDTH, SMALL_DEPTH = 16, 13
_REACH = re.compile(r"(^|_)(window|chunk)(_size|_len|_length)?$")


def sharing_is_exact(subject: Subject) -> bool:
    """Try shared prompts on a small example: two cases in one batch, several responses, a common prefix.

    Raises:
        NumericalError: the model gives NaN.
    """
    pick = _tokens(subject, 24)
    cases = [
        PromptAnswers(pick[:8], (pick[8:12], pick[12:14])),
        PromptAnswers(pick[:6] + pick[14:17], (pick[17:20], pick[20:24])),
    ]
    places = [(i, j) for i, case in enumerate(cases) for j in range(len(case.responses))]
    return _agrees(subject, cases, [0, 1], places, _plain)


def sharing_reaches(subject: Subject, width: int, depth: int) -> bool:
    """Whether sharing stays exact for rows of ``width`` tokens with paths of ``depth`` tokens.

    What was exact for longer rows is taken to be so for shorter ones; else one row of the size is tried.

    Raises:
        NumericalError: the model gives NaN.
    """
    if width <= SMALL_WIDTH and depth <= SMALL_DEPTH:
        return True
    if width > _declared_reach(subject):
        return False
    for (wide, deep), exact in subject.trials.items():
        if exact and width <= wide and depth <= deep:
            return True
        if not exact and width >= wide and depth >= deep:
            return False
    subject.trials[width, depth] = exact = _exact_at(subject, width, depth)
    return exact


def _exact_at(subject: Subject, width: int, depth: int) -> bool:
    """Compare the last response of one long row, the first half of its prompt coming from the cache."""
    pick = _tokens(subject, width + 1)
    tail = min(8, depth - 1)
    start, half = depth - tail, (depth - tail) // 2
    prompt, last, filling = pick[:start], pick[start:depth], pick[depth:width]
    siblings = (filling[i : i + tail] for i in range(0, len(filling), tail))
    long = PromptAnswers(prompt, (*siblings, last))
    # Never computed: it is there to have something in common with.
    other = PromptAnswers((*prompt[:half], pick[width]), (last,))
    return _agrees(subject, [long, other], [0], [(0, len(long.responses) - 1)], _plain_and_lean)


def _agrees(
    subject: Subject,
    cases: Sequence[PromptAnswers],
    rows: Sequence[int],
    places: Sequence[tuple[int, int]],
    plain_pass: Callable[[Subject, tuple[int, ...], tuple[int, ...]], torch.Tensor],
) -> bool:
    """Whether laying out the cases of ``rows`` gives the same as plain passes at ``places`` (case, response)."""
    tolerance = TOLERANCE.get(subject.identity.dtype, FULL_TOLERANCE)
    try:
        prompts = PromptBatches(subject, cases, 10**9, sharing=True)
        found = {(p.case, p.response): p.logits for p in prompts.forward([prompts.parts[i] for i in rows], True)}
        for case, response in places:
            plain = plain_pass(subject, cases[case].prompt, cases[case].responses[response])
            difference = (found[case, response] - plain.to(found[case, response].device)).square().mean(-1).sqrt()
            if not float(difference.max()) <= tolerance * (float(plain.std()) + 1e-6):
                return False
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, NotImplementedError, MemoryError):
        return False
    return True


def _plain(subject: Subject, prompt: tuple[int, ...], response: tuple[int, ...]) -> torch.Tensor:
    """Logits that predict ``response``, from one row without mask, positions, cache or hook of ours."""
    import torch

    ids = torch.tensor([prompt + response], device=subject.device)
    with torch.no_grad():
        logits: torch.Tensor = subject.model(input_ids=ids, use_cache=False).logits[0]
    return logits[-len(response) - 1 : -1].float()


def _plain_and_lean(subject: Subject, prompt: tuple[int, ...], response: tuple[int, ...]) -> torch.Tensor:
    """The same without the memory for logits of the whole row; the small example has shown that this works."""
    import torch

    columns = torch.arange(-len(response) - 1, 0)
    with logits_only_at(subject, torch.zeros_like(columns), columns):
        return _plain(subject, prompt, response)


def _tokens(subject: Subject, count: int) -> tuple[int, ...]:
    vocabulary = subject.vocabulary
    return tuple(1 + (7919 * i) % (vocabulary - 1) for i in range(count))


def _declared_reach(subject: Subject) -> float:
    """The shortest window or chunk that the configuration names, under whichever name; infinite if none."""
    config = subject.model.config.get_text_config().to_dict()
    spans = [value for name, value in config.items() if _REACH.search(name) and type(value) is int and value > 0]
    return min(spans, default=float("inf"))


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


def refuse_overlong(subject: ChatSubject, cases: Sequence[PromptAnswers], names: Sequence[str]) -> None:
    """Refuse cases deeper than the model's context; nothing is ever truncated.

    Raises:
        UsageError: one does not fit; it is named.
    """
    for case, name in zip(cases, names, strict=True):
        if case.depth > subject.context:
            raise UsageError(
                f"{name}: takes {case.depth} tokens, the context of {subject.identity.spec} holds "
                f"{subject.context}; shorten or remove it"
            )


def score_batches(
    subject: Subject,
    cases: Sequence[PromptAnswers],
    *,
    max_batch_tokens: int | None = None,
    skip: Callable[[int, Sequence[int]], bool] = lambda batch, members: False,
) -> Iterator[tuple[int, list[int], dict[tuple[int, int], ResponseLikelihood]]]:
    """Score cases batch by batch.

    Args:
        subject: whose likelihoods.
        cases: prompts with their responses.
        max_batch_tokens: bound on the tokens of one pass; the subject's own if left out.
        skip: given a batch's number and case indices, whether it is known already. The batches depend on the
            cases and the bound alone.

    Yields:
        The batch's number, its case indices, and likelihoods by (case, response).
    """
    prompts = PromptBatches(subject, cases, max_batch_tokens)
    for number, batch in enumerate(prompts.batches):
        members = sorted({prompts.parts[i][0] for i in batch})
        if skip(number, members):
            continue
        yield number, members, {(p.case, p.response): likelihood(p) for p in prompts.predict(batch)}


def likelihood(prediction: Prediction) -> ResponseLikelihood:
    """The likelihood of one predicted response; sums in fp64 on the host."""
    logp = token_log_probabilities(prediction.logits, prediction.targets)
    return ResponseLikelihood(float(logp.double().sum() if logp.device.type != "mps" else logp.sum()), logp.numel())


def score(
    subject: Subject, cases: Iterable[PromptAnswers], *, max_batch_tokens: int | None = None
) -> list[list[ResponseLikelihood]]:
    """Likelihood of every response of every case, in the order given.

    Raises:
        UsageError: a case is longer than the model's context.
        NumericalError: the model gives NaN.
        MemoryExhausted: a single case does not fit in memory.
    """
    cases = list(cases)
    refuse_overlong(subject, cases, [f"example {i}" for i in range(1, len(cases) + 1)])
    found: dict[tuple[int, int], ResponseLikelihood] = {}
    for _, _, scores in score_batches(subject, cases, max_batch_tokens=max_batch_tokens):
        found.update(scores)
    return [[found[i, j] for j in range(len(case.responses))] for i, case in enumerate(cases)]


def response_losses(subject: Subject, rows: Sequence[PromptAnswers]) -> torch.Tensor:
    """Mean negative log-likelihood per response token of each row, differentiable.

    Logits are computed only where a response token is predicted.

    Args:
        subject: whose loss.
        rows: prompts with one response each.

    Returns:
        fp32 losses, shape (rows,), in nats per token.
    """
    import torch

    layout = lay_out(rows, 0)
    logits = predicting_logits(subject, layout).float()
    logp = token_log_probabilities(logits, layout.targets.to(logits.device))
    owner = layout.rows.to(logits.device)
    tokens = torch.bincount(owner, minlength=len(rows))
    return -torch.zeros(len(rows), device=logits.device).index_add(0, owner, logp) / tokens
