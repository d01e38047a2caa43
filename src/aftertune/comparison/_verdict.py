"""All findings together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aftertune.comparison._findings import Decision, Finding
from aftertune.comparison._nothing_compared import SAME_MODEL, nothing_compared
from aftertune.errors import ExitCode

_EXIT: dict[Decision, ExitCode] = {
    "pass": ExitCode.PASS,
    "fail": ExitCode.FAIL,
    "inconclusive": ExitCode.INCONCLUSIVE,
}


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


def describe(finding: Finding) -> str:
    """One line: what happened to a metric."""
    if not finding.items:
        return f"{finding.metric} has no numbers to compare: {finding.decision} ({finding.note})"
    sign = 1 if finding.worse == "higher" else -1
    low, high = sorted(sign * end for end in finding.interval)
    text = (
        f"{finding.metric} is worse by {sign * finding.difference:+.3f} [{low:+.3f}, {high:+.3f}], "
        f"margin {finding.margin:g}: {finding.decision}"
    )
    if finding.note:
        text += f" ({finding.note})"
    if finding.decision == "inconclusive" and finding.clusters_needed:
        text += f" (about {finding.clusters_needed} prompts would settle it, there were {finding.clusters})"
    return text


def decide(findings: Sequence[Finding], *, identical: bool = False) -> Verdict:
    """The verdict over deciding findings.

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
    if failed:
        return Verdict("fail", failed + open_)
    return Verdict("inconclusive", open_) if open_ else Verdict("pass", ())
