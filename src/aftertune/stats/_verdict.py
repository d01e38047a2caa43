"""All findings together: pass, fail or inconclusive; and what to say where nothing was compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from aftertune.errors import ExitCode
from aftertune.stats._finding import Decision, Finding, WorstGroup, turn
from aftertune.stats._metrics import Measurement, base_metric, likelihood_metrics

_MEND_IDENTICAL = "use --allow-identical if you mean it"
SAME_MODEL = (
    "base and tuned are the same model and no number differs, so nothing was compared; check the paths, or "
    f"{_MEND_IDENTICAL}"
)


def not_in_force(differing: Sequence[str]) -> str:
    """The reason for a verdict on two subjects that differ, but in no number.

    Args:
        differing: what differs, such as "weights".
    """
    what = " and ".join(differing)
    question = "is what was tuned in force? Check the paths"
    return f"base and tuned differ in their {what}, but no number does: {question}, or {_MEND_IDENTICAL}"


def nothing_compared(verdict: Verdict, reason: str) -> Verdict:
    """A verdict that does not pass for ``reason``; a finding that fails is not overruled."""
    if verdict.decision == "fail":
        return verdict
    return replace(verdict, decision="inconclusive", reasons=(reason, *verdict.reasons))


def still_nothing_compared(before: Verdict, after: Verdict) -> Verdict:
    """``after``, the same comparison decided anew, which does not pass either if ``before`` had nothing to compare."""
    reason = next((text for text in before.reasons if text.endswith(_MEND_IDENTICAL)), None)
    return after if reason is None or reason in after.reasons else nothing_compared(after, reason)


_EXIT: dict[Decision, ExitCode] = {
    "pass": ExitCode.PASS,
    "fail": ExitCode.FAIL,
    "inconclusive": ExitCode.INCONCLUSIVE,
}

_ACCEPT = "or accept it with --allow-untestable (in a policy: untestable: allow)"
MORE_ITEMS = "with more items it could be"
"""What the note of a finding ends with whose items are too few for any change to be sure."""


@dataclass(frozen=True)
class Verdict:
    """Pass, fail or inconclusive, and why.

    Attributes:
        decision: fail if any deciding metric fails; pass if all pass; else inconclusive.
        reasons: one line for each deciding metric that did not pass, or why there is nothing to decide on.
        note: what a reader must know besides ("" for nothing).
    """

    decision: Decision
    reasons: tuple[str, ...]
    note: str = ""

    @property
    def exit_code(self) -> ExitCode:
        """0 pass, 1 fail, 3 inconclusive."""
        return _EXIT[self.decision]

    def noting(self, *notes: str) -> Verdict:
        """The same with more to know."""
        return replace(self, note="; ".join(filter(None, (self.note, *notes))))


def describe(finding: Finding) -> str:
    """One line: what happened to a metric."""
    if not finding.items:
        return f"{finding.metric} has no numbers to compare: {finding.decision} ({finding.note})"
    change = _change(finding.worse, finding.difference, finding.interval)
    text = f"{finding.metric} {change}, tolerance {finding.tolerance:g}: {finding.decision}"
    if finding.note:
        text += f" ({finding.note})"
    if finding.hides_a_group and finding.worst:
        text += f" ({describe_worst(finding.worst, finding.worse)})"
    if finding.decision == "inconclusive" and finding.clusters_needed:
        text += f" (about {finding.clusters_needed} prompts would settle it, there were {finding.clusters})"
    return text


def describe_worst(worst: WorstGroup, worse: str) -> str:
    """What happened to the worst group of a metric, with its simultaneous interval."""
    return f"worst in {worst.group}: {_change(worse, worst.difference, worst.interval)}, {worst.clusters} prompts"


def _change(worse: str, difference: float, interval: tuple[float, float]) -> str:
    """A change in words, with an interval that runs the same way."""
    found = turn(worse, difference, interval)
    if abs(found.value) < 0.0005:  # would be written as 0.000
        return f"is unchanged [{found.low:+.3f}, {found.high:+.3f}]"
    if worse in ("either", "unknown"):
        return f"changed by {found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
    if found.value < 0:
        return f"is better by {-found.value:.3f} [{0.0 - found.high:+.3f}, {0.0 - found.low:+.3f}]"
    return f"is worse by {found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def untestable_line(findings: Sequence[Finding]) -> str:
    """How many deciding metrics pass, which are not testable on this base, and the mend; "" where all are testable.

    The first thing to say of a verdict.
    """
    deciding = [f for f in findings if f.decides]
    names = [f.metric for f in deciding if f.decision == "not testable"]
    if not names:
        return ""
    passed = sum(f.decision == "pass" for f in deciding)
    verb = "is" if len(names) == 1 else "are"
    blocking = not any(f.decision == "fail" for f in deciding)  # a failure is to be mended first
    blind = [f for f in deciding if f.decision == "not testable" and f.stands_in_the_way]
    mends = [
        *(["ask more items"] if any(f.note.endswith(MORE_ITEMS) for f in blind) else []),
        *(["use a base that shows the behaviour"] if any(not f.note.endswith(MORE_ITEMS) for f in blind) else []),
    ]
    return (
        f"passes on {passed} of {len(deciding)} deciding metrics; {', '.join(names)} {verb} not testable on this base"
        + (f": {' or '.join(mends)}, {_ACCEPT}" if blocking and mends else "")
    )


def first_line(verdict: Verdict, findings: Sequence[Finding]) -> tuple[str, Verdict]:
    """What is to stand on the verdict's first line beside its decision, and the verdict with the rest.

    Args:
        verdict: of a comparison.
        findings: of the same.
    """
    first = untestable_line(findings)
    if not first:
        return "", verdict
    reasons = tuple(reason for reason in verdict.reasons if reason != first)
    return first, replace(verdict, reasons=reasons, note=verdict.note.removeprefix(first).removeprefix("; "))


def decide(findings: Sequence[Finding], *, identical: bool = False) -> Verdict:
    """The verdict over deciding findings.

    A fail if one fails, whatever the others say: no finding and no further set takes it back.

    Args:
        findings: of one comparison.
        identical: whether both subjects are one model and no number differs; such a comparison never passes.
    """
    if identical:
        return nothing_compared(decide(findings), SAME_MODEL)
    deciding = [f for f in findings if f.decides]
    if not deciding:
        return Verdict("inconclusive", ("no deciding metric was measured",))
    failed = tuple(describe(f) for f in deciding if f.decision == "fail")
    open_ = tuple(describe(f) for f in deciding if f.decision == "inconclusive")
    blind = tuple(describe(f) for f in deciding if f.decision == "not testable" and f.stands_in_the_way)
    line = untestable_line(deciding)
    if failed:
        return Verdict("fail", failed + blind + open_, line)
    if blind:
        return Verdict("inconclusive", (line, *blind, *open_))
    if open_:
        return Verdict("inconclusive", open_, line)
    # Where nothing could have failed, there is nothing to accept.
    passed = any(f.decision == "pass" for f in deciding)
    return Verdict("pass", (), line) if passed else Verdict("inconclusive", (line,))


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
