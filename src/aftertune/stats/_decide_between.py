"""The verdict on two measured subjects, which may be one: a green is for a difference that was looked at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from aftertune.stats._finding import Finding
from aftertune.stats._measurement import Measurement, base_metric
from aftertune.stats._metrics import likelihood_metrics
from aftertune.stats._nothing_compared import not_in_force, nothing_compared
from aftertune.stats._verdict import Verdict, decide

_DRIFT = "drift.kl"
_ALLOWED = "no number differs between base and tuned; --allow-identical lets the findings decide"
_UNSTEADY = "base and tuned are the same model, but some numbers differ: it does not give the same numbers twice here"


def decide_between(
    findings: Sequence[Finding],
    apart: Sequence[str],
    base: Sequence[Measurement],
    tuned: Sequence[Measurement],
    allow_identical: bool = False,
) -> Verdict:
    """The verdict over findings, where base and tuned may be one model.

    Args:
        findings: of the comparison.
        apart: in what the two subjects differ by their digests, in words; see `differing_digests`.
        base: every number of the base.
        tuned: every number of the tuned subject.
        allow_identical: let the findings decide whether or not anything differs.
    """
    verdict = decide(findings)
    if not _unmoved(base, tuned):
        return verdict if apart else _noting(verdict, _UNSTEADY)
    # Sampled answers may score alike by chance; that likelihoods agree to the last digit is no chance.
    if apart and not any(base_metric(m.metric) in {metric.id for metric in likelihood_metrics()} for m in tuned):
        return verdict
    if allow_identical:
        return _noting(verdict, _ALLOWED)
    return nothing_compared(verdict, not_in_force(apart)) if apart else decide(findings, identical=True)


def _noting(verdict: Verdict, note: str) -> Verdict:
    return replace(verdict, note="; ".join(filter(None, (verdict.note, note))))


def _unmoved(base: Sequence[Measurement], tuned: Sequence[Measurement]) -> bool:
    """Whether every number is the same bit for bit, those that are missing included."""
    before = {(m.metric, m.item): m.value for m in base}
    after = {(m.metric, m.item): m.value for m in tuned}
    for key in before.keys() | after.keys():
        # Drift has no number on the base, whose own is zero.
        then = before.get(key, 0.0 if key[0] == _DRIFT else None)
        now = after.get(key)
        if then is None or now is None or not (now == then or (math.isnan(now) and math.isnan(then))):
            return False
    return True
