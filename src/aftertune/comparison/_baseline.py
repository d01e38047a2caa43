"""What changed since an earlier audit: new, fixed and persistent findings, and a verdict on the new ones alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from aftertune.comparison._findings import Decision, Finding
from aftertune.comparison._verdict import Verdict, decide
from aftertune.errors import spelled_out

State = Literal["new", "fixed", "persistent"]
FailOn = Literal["any", "new"]

_SEVERITY: dict[Decision, int] = {"pass": 0, "inconclusive": 1, "fail": 2}


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
    """

    metric: str
    state: State
    before: Decision | None
    after: Decision
    worse_before: float | None = None
    worse_after: float | None = None

    @property
    def excusable(self) -> bool:
        """Persistent and no graver than in the baseline: what was inconclusive there and fails now is not."""
        if self.state != "persistent" or self.before is None:
            return False
        return _SEVERITY[self.after] <= _SEVERITY[self.before]

    @property
    def text(self) -> str:
        """The decision and the worsening, now and before."""
        before = f"was {self.before}" if self.before else "was not decided on"
        then = "" if self.worse_before is None else f" at {self.worse_before:+.3f}"
        now = "" if self.worse_after is None else f" at {self.worse_after:+.3f}"
        return f"{self.after}{now}, {before}{then}"


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
        bad_before = before is not None and before.decision != "pass"
        if finding.decision == "pass" and not bad_before:
            continue
        state: State = "fixed" if finding.decision == "pass" else "persistent" if bad_before else "new"
        changes.append(
            Change(
                finding.metric,
                state,
                before.decision if before else None,
                finding.decision,
                _worsening(before) if before else None,
                _worsening(finding),
            )
        )
    return tuple(changes)


def _worsening(finding: Finding) -> float | None:
    if finding.items == 0 or not math.isfinite(finding.difference):
        return None
    return finding.difference if finding.worse == "higher" else -finding.difference + 0.0


@dataclass(frozen=True)
class SinceBaseline:
    """An audit held against an earlier one.

    Attributes:
        run: the folder of the earlier audit, as it was named.
        fail_on: "any" where every finding decides; "new" where excusable ones are let through.
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
            state: [{k: v for k, v in asdict(c).items() if k != "state"} for c in self.of(state)]
            for state in get_args(State)
        }
        return {"run": self.run, "fail_on": self.fail_on, **states, "unmeasured": list(self.unmeasured)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> SinceBaseline:
        """Back from `as_dict`."""
        changes = tuple(Change(state=state, **change) for state in get_args(State) for change in fields[state])
        return cls(fields["run"], fields["fail_on"], changes, tuple(fields["unmeasured"]))


def decide_since(verdict: Verdict, findings: Sequence[Finding], since: SinceBaseline) -> Verdict:
    """The verdict with what is let through counted as passed, and a note that says so.

    Args:
        verdict: over all findings.
        findings: of the same comparison.
        since: what changed since the baseline.
    """
    notes = [verdict.note] if verdict.note else []
    excused = since.let_through if verdict.decision != "pass" else ()
    if excused:
        names = {c.metric for c in excused}
        rest = [replace(f, decision="pass") if f.metric in names else f for f in findings]
        verdict = decide(rest)
        told = "; ".join(f"{c.metric} ({c.text})" for c in excused)
        notes.append(spelled_out(f"let through by --fail-on new, no better in the baseline {since.run}: {told}"))
    if since.unmeasured:
        told = ", ".join(since.unmeasured)
        notes.append(spelled_out(f"did not pass in the baseline {since.run} and was not measured now: {told}"))
    return Verdict(verdict.decision, verdict.reasons, "; ".join(notes))
