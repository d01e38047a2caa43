"""Drift: how far the tuned model's next-token distribution moved from the base's, by response position."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aftertune.data import Request, ask
from aftertune.errors import SubjectError
from aftertune.model import PromptAnswers, PromptBatches, Subject, refuse_overlong
from aftertune.probes._probe import ProbeRow, content_digest
from aftertune.runs import Journal, Step, write_bytes
from aftertune.stats import Measurement, Metric

if TYPE_CHECKING:
    import torch

METRICS = (
    Metric(
        "drift.kl",
        "Kullback-Leibler divergence of tuned from base per response token of neutral answers",
        "nats/token",
        worse="higher",
        decides=True,
        # Stored fine-tunes lie at 0.7 to 1.1; a next token drawn blindly from the vocabulary, at about 8.
        tolerance=3.0,
        short="drift from the base",
    ),
)

# Drift reads distributions, not likelihoods of answers, so a plan asks it apart: see `MeasurePlan.drift_requests`.
PROBE = ProbeRow("drift", 60, "KL from base to tuned by response position", METRICS, lambda plan: (), needs="a base")

KEPT = 512
BANDS = ((0, 1), (1, 3), (3, 6), (6, 12), (12, 24), (24, None))


def band(position: int) -> str:
    """The label of a 0-based response position, in words counted from 1: "1", "2-3", …, "25+"."""
    for start, end in BANDS:
        if position >= start and (end is None or position < end):
            if end is None:
                return f"{start + 1}+"
            return f"{start + 1}" if end == start + 1 else f"{start + 1}-{end}"
    raise AssertionError(position)


def drift_content(requests: Sequence[Request]) -> str:
    """Digest of what drift is measured on."""
    return content_digest([KEPT, [(r.prompt, r.response) for r in requests]])


def _cases(subject: Subject, requests: Sequence[Request]) -> list[PromptAnswers]:
    cases = [subject.chat.case(ask(r.prompt), (r.response,)) for r in requests]
    refuse_overlong(subject, cases, [f"{r.source}:{r.line}" for r in requests])
    return cases


def write_reference(subject: Subject, requests: Sequence[Request], path: Path, step: Step) -> None:
    """Store the base's distributions: its `KEPT` likeliest tokens at every response position."""
    import torch
    from safetensors.torch import save

    tensors: dict[str, torch.Tensor] = {}
    prompts = PromptBatches(subject, _cases(subject, requests))
    for batch in prompts.batches:
        for p in prompts.predict(batch):
            logp = p.logits.log_softmax(-1)
            top = logp.topk(min(KEPT, logp.shape[-1]), dim=-1)
            tensors[f"{p.case}.logp"] = top.values.cpu().contiguous()
            tensors[f"{p.case}.rest"] = log_rest(logp, top.indices).cpu().contiguous()
            tensors[f"{p.case}.token"] = top.indices.to(torch.int32).cpu().contiguous()
            tensors[f"{p.case}.answer"] = p.targets.to(torch.int32).cpu().contiguous()
            step(1)
    write_bytes(path, save(tensors, metadata={"format": "pt"}))


def refuse_other_answers(subject: Subject, requests: Sequence[Request], reference: Path) -> None:
    """Refuse to measure drift where the answers' tokens are not those of the base: positions would not match.

    Raises:
        SubjectError: an answer is tokenised differently.
        UsageError: an answer does not fit the model's context.
    """
    from safetensors import safe_open

    cases = _cases(subject, requests)
    with safe_open(reference, framework="pt") as stored:
        for number, (request, case) in enumerate(zip(requests, cases, strict=True)):
            if tuple(stored.get_tensor(f"{number}.answer").tolist()) != case.responses[0]:
                raise SubjectError(
                    f"{subject.identity.spec}: renders the answer of {request.id} to other tokens than the base, "
                    "so drift has no meaning; use the base's tokenizer and chat template, or leave drift out"
                )


def log_rest(logp: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Log-probability of all tokens but ``tokens``, shape (positions,); -inf where none is left.

    Summed over the others themselves: one minus the kept probability would be all rounding where it is small.
    """
    return logp.scatter(-1, tokens.long(), float("-inf")).logsumexp(-1)


def divergence(
    base_logp: torch.Tensor, base_rest: torch.Tensor, tokens: torch.Tensor, tuned_logp: torch.Tensor
) -> torch.Tensor:
    """KL(base ‖ tuned) over the kept tokens and one bin for all others, shape (positions,).

    Merging the rest into one bin can only lower the divergence: this is a lower bound of the full one.

    Args:
        base_logp: base log-probabilities of its kept tokens, shape (positions, kept).
        base_rest: base log-probability of all other tokens, shape (positions,); see `log_rest`.
        tokens: which tokens were kept, shape (positions, kept).
        tuned_logp: tuned log-probabilities, shape (positions, vocabulary).
    """
    kept = tuned_logp.gather(-1, tokens.long())
    inside = (base_logp.exp() * (base_logp - kept)).sum(-1)
    if base_logp.shape[-1] >= tuned_logp.shape[-1]:
        return inside.clamp_min(0)
    outside = base_rest.exp() * (base_rest - log_rest(tuned_logp, tokens))
    return (inside + outside.where(base_rest > float("-inf"), 0)).clamp_min(0)


def measure_drift(
    subject: Subject, requests: Sequence[Request], reference: Path, journal: Journal, seed: int, step: Step
) -> tuple[list[Measurement], int]:
    """KL from the stored base distributions; items are (request, position), clusters are requests.

    Returns:
        The measurements, and how many batches the journal held already.
    """
    from safetensors.torch import load_file

    stored = load_file(reference)
    cases = _cases(subject, requests)
    prompts = PromptBatches(subject, cases)
    reused = 0
    for number, batch in enumerate(prompts.batches):
        key = f"drift/{prompts.bound}/{number}"
        if key in journal:
            reused += 1
        else:
            values: dict[str, list[float]] = {}
            for p in prompts.predict(batch):
                logp = p.logits.log_softmax(-1)
                base, rest, tokens = (stored[f"{p.case}.{name}"].to(logp.device) for name in ("logp", "rest", "token"))
                values[str(p.case)] = [round(v, 9) for v in divergence(base, rest, tokens, logp).tolist()]
            journal.record(key, values)
        step(len(batch))
    digest = subject.identity.weights_sha256
    found = {int(k): v for key in journal if key.startswith("drift/") for k, v in journal[key].items()}
    measurements = [
        Measurement(digest, seed, "drift.kl", f"{r.id}@{at + 1}", r.id, value, group=f"token {band(at)}")
        for case, r in enumerate(requests)
        for at, value in enumerate(found[case])
    ]
    return measurements, reused
