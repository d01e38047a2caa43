"""All findings together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from aftertune.errors import ExitCode
from aftertune.stats._finding import Decision, Finding, WorstGroup, turn
from aftertune.stats._nothing_compared import SAME_MODEL, nothing_compared

_EXIT: dict[Decision, ExitCode] = {
    "pass": ExitCode.PASS,
    "fail": ExitCode.FAIL,
    "inconclusive": ExitCode.INCONCLUSIVE,
}

_MEND = "use a base that shows the behaviour, or accept it with --allow-untestable (in a policy: untestable: allow)"


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
    blocking = any(f.decision == "not testable" and f.stands_in_the_way for f in deciding)
    blocking = blocking and not any(f.decision == "fail" for f in deciding)  # a failure is to be mended first
    return (
        f"passes on {passed} of {len(deciding)} deciding metrics; {', '.join(names)} {verb} not testable on this base"
        + (f": {_MEND}" if blocking else "")
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
