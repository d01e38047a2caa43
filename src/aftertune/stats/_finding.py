"""A finding: base against tuned on one metric, and the rule that decides it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from aftertune.runs import stored_as

Decision = Literal["pass", "fail", "inconclusive"]
"""Of a verdict."""

FindingDecision = Literal["pass", "fail", "inconclusive", "not testable"]
"""Of one metric; "not testable" where a pass would say nothing, since this base has nothing to lose."""


@dataclass(frozen=True)
class Worsening:
    """A change turned so that more is worse; where either direction may be damage, the change itself.

    Attributes:
        value: the estimate.
        low: lower end of its interval.
        high: upper end.
    """

    value: float
    low: float
    high: float


def turn(worse: str, difference: float, interval: tuple[float, float]) -> Worsening:
    """Tuned minus base as a worsening.

    Args:
        worse: the direction of damage, see `aftertune.stats.Worse`.
        difference: tuned minus base.
        interval: of the difference.
    """
    low, high = interval
    if worse == "lower":  # adding zero turns -0.0 into 0.0
        return Worsening(0.0 - difference, 0.0 - high, 0.0 - low)
    return Worsening(difference, low, high)


def surely_beyond(worse: str, worsening: Worsening, tolerance: float) -> bool:
    """Whether a whole interval lies on the bad side of the tolerance, or of either tolerance."""
    if worse in ("either", "unknown"):
        return worsening.low > tolerance or worsening.high < -tolerance
    return worsening.low > tolerance


def judge(worse: str, worsening: Worsening, tolerance: float) -> Decision:
    """The decision that an interval and a tolerance make by themselves.

    Pass: the interval lies within the tolerance. Fail: it lies wholly beyond. Where nobody has said which direction
    is damage, a fall fails as it would in most tasks, and a rise stays open: it may be one of harm.

    Args:
        worse: the direction of damage.
        worsening: estimate and interval.
        tolerance: above 0.
    """
    two_sided = worse in ("either", "unknown")
    if worsening.high < tolerance and (not two_sided or worsening.low > -tolerance):
        return "pass"
    if worse == "unknown":
        return "fail" if worsening.high < -tolerance else "inconclusive"
    return "fail" if surely_beyond(worse, worsening, tolerance) else "inconclusive"


@dataclass(frozen=True)
class WorstGroup:
    """The part of a metric's items that is most surely worse.

    Attributes:
        group: its label: a domain, a category.
        difference: tuned minus base on its items.
        interval: of the difference; simultaneous over all groups that were looked at (Bonferroni), because this one
            was picked among them.
        clusters: independent prompts in it.
        groups: how many groups were looked at: those with enough prompts.
    """

    group: str
    difference: float
    interval: tuple[float, float]
    clusters: int
    groups: int

    def surely(self, worse: str) -> float:
        """By how much it is worse at least, as far as its interval says; in either direction where both may be damage.

        Args:
            worse: the direction of damage.
        """
        worsening = turn(worse, self.difference, self.interval)
        return max(worsening.low, -worsening.high) if worse in ("either", "unknown") else worsening.low


@dataclass(frozen=True)
class Finding:
    """Base against tuned on one metric.

    Attributes:
        metric: id, with ``:STEM`` for a user's set and ``/GROUP`` for a breakdown.
        base: the base's mean.
        tuned: the tuned model's mean.
        difference: tuned minus base.
        interval: of the difference, at the policy's confidence.
        tolerance: tolerated worsening.
        decision: of this metric by itself; breakdowns and informing metrics have one too, without effect.
        decides: whether the verdict depends on it.
        worse: the direction of damage, see `aftertune.stats.Worse`.
        items: items compared.
        clusters: independent prompts among them.
        p_value: one-sided, of "no worse than the tolerance", of this metric alone: at most (1 - confidence) / 2 exactly
            where the interval lies beyond the tolerance.
        clusters_needed: for an inconclusive finding, prompts that would settle it in four of five runs if the
            difference stays; None where more prompts would not, or where it cannot be said.
        note: why, where the decision needs a word.
        worst: of a deciding metric with a breakdown, the group that is most surely worse.
        allowed: whether the policy lets a metric stand that is not testable on this base.
    """

    metric: str
    base: float
    tuned: float
    difference: float
    interval: tuple[float, float]
    tolerance: float
    decision: FindingDecision
    decides: bool
    worse: str
    items: int
    clusters: int
    p_value: float
    clusters_needed: int | None = None
    note: str = ""
    worst: WorstGroup | None = None
    allowed: bool = False

    @property
    def worsening(self) -> Worsening:
        """The difference turned so that more is worse."""
        return turn(self.worse, self.difference, self.interval)

    @property
    def hides_a_group(self) -> bool:
        """Whether a group is surely worse than the tolerance of the whole."""
        return self.worst is not None and self.worst.surely(self.worse) > self.tolerance

    @property
    def stands_in_the_way(self) -> bool:
        """Whether the verdict cannot be a pass because of it."""
        if not self.decides or self.decision == "pass":
            return False
        return not (self.decision == "not testable" and self.allowed)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, with the difference as a worsening too."""
        fields = {**asdict(self), "interval": list(self.interval), "worsening": asdict(self.worsening)}
        if self.worst:
            fields["worst"]["interval"] = list(self.worst.interval)
        return fields

    @classmethod
    def from_dict(cls, fields: Any) -> Finding:
        """Back from `as_dict`.

        Raises:
            ValueError: a field is missing, unknown or of another type; a number is NaN or infinite.
        """
        if not isinstance(fields, Mapping):
            raise ValueError(f"a finding is a {type(fields).__name__}")
        return stored_as(cls, {k: v for k, v in with_tolerance(fields).items() if k != "worsening"})


def with_tolerance(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Fields as they are stored now, from a document that called the tolerance "margin"."""
    if "margin" not in fields or "tolerance" in fields:
        return fields
    return {"tolerance" if name == "margin" else name: value for name, value in fields.items()}


@dataclass(frozen=True)
class Summary:
    """One subject's mean on one metric."""

    metric: str
    value: float
    interval: tuple[float, float]
    items: int
    clusters: int
