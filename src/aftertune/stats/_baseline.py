"""What changed since an earlier audit: new, fixed and persistent findings, and a verdict on the new ones alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from aftertune.errors import spelled_out
from aftertune.stats._finding import Finding, FindingDecision, turn, with_tolerance
from aftertune.stats._verdict import Verdict, decide, untestable_line

State = Literal["new", "fixed", "persistent"]
FailOn = Literal["any", "new"]

_SEVERITY: dict[FindingDecision, int] = {"pass": 0, "not testable": 1, "inconclusive": 2, "fail": 3}


@dataclass(frozen=True)
class Change:
    """A deciding metric that does not pass now, or did not pass in the baseline.

    Attributes:
        metric: its id.
        state: "new" where it does not pass now and passed in the baseline or was not decided on there;
            "persistent" where it does not pass now and did not then; "fixed" where it passes now and did not then.
        before: the decision in the baseline; None where there was none.
        after: the decision now.
        worse_before: the worsening in the baseline, in the metric's unit; None where there was no number.
        worse_after: the worsening now, likewise.
        grown: interval of the worsening now minus the worsening then; None where it is not known.
        tolerance: of the metric and of what it may grow by.
    """

    metric: str
    state: State
    before: FindingDecision | None
    after: FindingDecision
    worse_before: float | None = None
    worse_after: float | None = None
    grown: tuple[float, float] | None = None
    tolerance: float = 0.0

    @property
    def excusable(self) -> bool:
        """Persistent, no graver than in the baseline, and surely not worse than there by more than the tolerance.

        What was inconclusive there and fails now is not excused, nor what may have grown by more.
        """
        if self.state != "persistent" or self.before is None or self.grown is None:
            return False
        return _SEVERITY[self.after] <= _SEVERITY[self.before] and self.grown[1] < self.tolerance

    @property
    def text(self) -> str:
        """The decision and the worsening, now and before."""
        before = f"was {self.before}" if self.before else "was not decided on"
        then = "" if self.worse_before is None else f" at {self.worse_before:+.3f}"
        now = "" if self.worse_after is None else f" at {self.worse_after:+.3f}"
        grown = f", grown by [{self.grown[0]:+.3f}, {self.grown[1]:+.3f}]" if self.grown else ""
        return f"{self.after}{now}, {before}{then}{grown}"


def changes_since(baseline: Sequence[Finding], now: Sequence[Finding]) -> tuple[Change, ...]:
    """The deciding metrics of ``now`` that do not pass, or did not pass in ``baseline``, in the order of ``now``.

    Args:
        baseline: findings of an earlier audit under the same policy.
        now: findings of this audit.
    """
    then = {f.metric: f for f in baseline if f.decides}
    changes = []
    for finding in now:
        if not finding.decides:
            continue
        before = then.get(finding.metric)
        bad_before = before is not None and before.stands_in_the_way
        if not finding.stands_in_the_way and not bad_before:
            continue
        state: State = "persistent" if bad_before else "new"
        changes.append(
            Change(
                finding.metric,
                state if finding.stands_in_the_way else "fixed",
                before.decision if before else None,
                finding.decision,
                _worsening(before) if before else None,
                _worsening(finding),
                _grown(before, finding) if before else None,
                finding.tolerance,
            )
        )
    return tuple(changes)


def _worsening(finding: Finding) -> float | None:
    if finding.items == 0 or not math.isfinite(finding.difference):
        return None
    return finding.worsening.value


def _grown(then: Finding, now: Finding) -> tuple[float, float] | None:
    """Interval of the worsening now minus the worsening then; None where it is not known.

    The very same numbers are the same model on the same items: no growth. Where a group stands in the way now, it is
    the growth of that group, if that is the larger.
    """
    if then.worse != now.worse or _worsening(then) is None or _worsening(now) is None:
        return None
    if (then.difference, then.interval, then.items, then.worst) == (now.difference, now.interval, now.items, now.worst):
        return 0.0, 0.0
    grown = _growth(now.worse, then.difference, then.interval, now.difference, now.interval)
    if not now.hides_a_group or now.worst is None or grown is None:
        return grown
    if then.worst is None or then.worst.group != now.worst.group:
        return None
    of_group = _growth(now.worse, then.worst.difference, then.worst.interval, now.worst.difference, now.worst.interval)
    return None if of_group is None else max(grown, of_group, key=lambda interval: interval[1])


def _growth(
    worse: str, then: float, then_interval: tuple[float, float], now: float, now_interval: tuple[float, float]
) -> tuple[float, float] | None:
    """Interval of the growth of a worsening, from an estimate and an interval on either side.

    The distances of either end from its estimate are added as roots of squares (MOVER: Zou and Donner 2008, Statistics
    in Medicine 27:1693), as if the two were independent. They share the base and mostly the items, which makes this
    too wide rather than too narrow. Where either direction may be damage, it is the growth away from the base.
    """
    if worse in ("either", "unknown"):
        worse = "higher" if now >= 0 else "lower"
    a, b = turn(worse, now, now_interval), turn(worse, then, then_interval)
    value = a.value - b.value
    low = value - math.hypot(a.value - a.low, b.high - b.value)
    high = value + math.hypot(a.high - a.value, b.value - b.low)
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None


@dataclass(frozen=True)
class SinceBaseline:
    """An audit held against an earlier one.

    Attributes:
        run: the folder of the earlier audit, as it was named.
        fail_on: "any" where every finding decides; "new" where excusable ones are ignored.
        changes: what changed, and what did not get better.
        unmeasured: deciding metrics that did not pass in the baseline and were not measured now.
    """

    run: str
    fail_on: FailOn
    changes: tuple[Change, ...]
    unmeasured: tuple[str, ...] = ()

    def of(self, state: State) -> tuple[Change, ...]:
        """The changes of one state."""
        return tuple(c for c in self.changes if c.state == state)

    def change(self, metric: str) -> Change | None:
        """What is to be said of a metric, if anything."""
        return next((c for c in self.changes if c.metric == metric), None)

    @property
    def let_through(self) -> tuple[Change, ...]:
        """What does not decide the verdict, though it does not pass."""
        return tuple(c for c in self.changes if c.excusable) if self.fail_on == "new" else ()

    @property
    def tally(self) -> str:
        """How many of each state."""
        return ", ".join(f"{len(self.of(state))} {state}" for state in get_args(State))

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        states = {
            state: [
                {k: list(v) if k == "grown" and v else v for k, v in asdict(c).items() if k != "state"}
                for c in self.of(state)
            ]
            for state in get_args(State)
        }
        return {"run": self.run, "fail_on": self.fail_on, **states, "unmeasured": list(self.unmeasured)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> SinceBaseline:
        """Back from `as_dict`."""
        changes = tuple(_change(state, change) for state in get_args(State) for change in fields[state])
        return cls(fields["run"], fields["fail_on"], changes, tuple(fields["unmeasured"]))


def _change(state: State, fields: Mapping[str, Any]) -> Change:
    grown = fields.get("grown")
    fields = with_tolerance(fields)
    return Change(**{**fields, "state": state, "grown": None if grown is None else (grown[0], grown[1])})


def decide_since(verdict: Verdict, findings: Sequence[Finding], since: SinceBaseline) -> Verdict:
    """The verdict with excused metrics counted as passed, and a note that names them.

    Args:
        verdict: over all findings.
        findings: of the same comparison.
        since: what changed since the baseline.
    """
    notes = [verdict.note]
    excused = since.let_through if verdict.decision != "pass" else ()
    if excused:
        names = {c.metric for c in excused}
        rest = [replace(f, decision="pass") if f.metric in names else f for f in findings]
        # The new verdict counts anew what passes beside what is not testable.
        notes = [verdict.note.removeprefix(untestable_line(findings)).removeprefix("; ")]
        verdict = decide(rest)
        notes.insert(0, verdict.note)
        told = "; ".join(f"{c.metric} ({c.text})" for c in excused)
        notes.append(spelled_out(f"let through by --fail-on new, no better in the baseline {since.run}: {told}"))
    if since.unmeasured:
        told = ", ".join(since.unmeasured)
        notes.append(spelled_out(f"did not pass in the baseline {since.run} and was not measured now: {told}"))
    return replace(verdict, note="; ".join(filter(None, notes)))
