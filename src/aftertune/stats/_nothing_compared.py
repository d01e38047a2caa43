"""A comparison in which nothing was compared: base and tuned are one model, or what was tuned is not in force."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aftertune.stats._verdict import Verdict

_MEND = "use --allow-identical if you mean it"
SAME_MODEL = (
    f"base and tuned are the same model and no number differs, so nothing was compared; check the paths, or {_MEND}"
)


def not_in_force(differing: Sequence[str]) -> str:
    """The reason for a verdict on two subjects that differ, but in no number.

    Args:
        differing: what differs, such as "weights".
    """
    what = " and ".join(differing)
    question = "is what was tuned in force? Check the paths"
    return f"base and tuned differ in their {what}, but no number does: {question}, or {_MEND}"


def nothing_compared(verdict: Verdict, reason: str) -> Verdict:
    """A verdict that does not pass for ``reason``; a finding that fails is not overruled."""
    if verdict.decision == "fail":
        return verdict
    return replace(verdict, decision="inconclusive", reasons=(reason, *verdict.reasons))


def still_nothing_compared(before: Verdict, after: Verdict) -> Verdict:
    """``after``, the same comparison decided anew, which does not pass either if ``before`` had nothing to compare."""
    reason = next((text for text in before.reasons if text.endswith(_MEND)), None)
    return after if reason is None or reason in after.reasons else nothing_compared(after, reason)
