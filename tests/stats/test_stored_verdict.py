"""A stored verdict that contradicts its own findings is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aftertune.stats import (
    Finding,
    Measurement,
    Policy,
    SinceBaseline,
    Verdict,
    changes_since,
    compare,
    decide,
    decide_since,
    refuse_contradiction,
)


def findings(preference: float, refusal: float = 0.9, policy: Policy | None = None) -> list[Finding]:
    rows, moved = [], []
    for metric, level, change in (("preference.margin", 0.0, preference), ("refusal.harmful", refusal, 0.0)):
        for i in range(160):
            rows.append(Measurement("b", 0, metric, f"i{i}", f"p{i}", level, group=f"g{i % 2}"))
            moved.append(replace(rows[-1], value=level + change + 0.1 * (i % 3 - 1) * (metric == "preference.margin")))
    return compare(rows, moved, policy)


WORLDS = [
    (findings(0.0), "pass"),
    (findings(0.5), "fail"),
    (findings(0.1), "inconclusive"),
    (findings(0.0, 0.01), "inconclusive"),
    (findings(0.0, 0.01, Policy(untestable="allow")), "pass"),
    (findings(0.5, 0.01), "fail"),
]


@pytest.mark.parametrize(("found", "decision"), WORLDS)
def test_what_was_decided_from_findings_is_taken(found: list[Finding], decision: str) -> None:
    verdict = decide(found)
    assert verdict.decision == decision
    read = [Finding.from_dict(f.as_dict()) for f in found]
    allowed = any(f.allowed for f in found)
    refuse_contradiction(verdict, read, policy=Policy(untestable="allow" if allowed else "block"))
    refuse_contradiction(verdict, read)


@pytest.mark.parametrize(("found", "decision"), WORLDS)
@pytest.mark.parametrize("said", ["pass", "fail", "inconclusive"])
def test_another_word_above_the_findings_is_refused(found: list[Finding], decision: str, said: Any) -> None:
    if said == decision:
        return
    edited = Verdict(said, ())
    with pytest.raises(ValueError, match=f"it says {said}, its findings make it {decision}"):
        refuse_contradiction(edited, found)


def test_a_model_compared_with_itself_is_inconclusive_above_findings_that_pass() -> None:
    refuse_contradiction(Verdict("inconclusive", ("base and tuned are the same model",)), findings(0.0))
    with pytest.raises(ValueError, match="its findings make it pass"):
        refuse_contradiction(Verdict("inconclusive", ()), findings(0.0))
    with pytest.raises(ValueError, match="its findings make it fail"):
        refuse_contradiction(Verdict("inconclusive", ("the same model",)), findings(0.5))


@pytest.mark.parametrize(
    ("start", "edit", "says"),
    [
        (0.5, {"decision": "pass"}, "is pass, but its interval"),
        (0.5, {"decision": "inconclusive"}, "make it fail"),
        (0.5, {"decision": "not testable"}, "is not testable, but its interval"),
        (0.5, {"decision": "not testable", "allowed": True}, "is not testable, but its interval"),
        (0.1, {"decision": "pass"}, "is pass, but its interval"),
        (0.1, {"decision": "fail"}, "do not make it one"),
        (0.0, {"decision": "fail"}, "do not make it one"),
        (0.0, {"decision": "inconclusive"}, "make it pass"),
        (0.0, {"allowed": True}, "allowed as if"),
        (0.5, {"p_value": 0.9}, "p-value"),
        (0.5, {"tolerance": 5.0, "decision": "pass"}, "has the tolerance 5, the policy 0.1"),
        (0.5, {"decides": False}, "informs, by the policy it does not"),
        (0.5, {"worse": "lower", "decision": "pass"}, "damage is higher"),
        (0.0, {"clusters": 3}, "fewer than the policy's 10"),
        (0.0, {"items": 0}, "make it no pass"),
    ],
)
def test_an_edited_finding_is_refused(start: float, edit: dict[str, Any], says: str) -> None:
    found = findings(start)
    edited = [replace(found[0], **edit), *found[1:]]
    with pytest.raises(ValueError, match=says) as caught:
        refuse_contradiction(decide(edited), edited, policy=Policy())
    assert str(caught.value).startswith("preference.margin ")
    assert len(str(caught.value).splitlines()) == 1


def test_a_group_that_stood_in_the_way_cannot_be_edited_into_a_pass() -> None:
    rows = [Measurement("b", 0, "preference.margin", f"i{i}", f"p{i}", 0.0, group=f"g{i % 8}") for i in range(160)]
    moved = [replace(m, value=0.5 * (m.group == "g3") + 0.01 * (i % 3 - 1)) for i, m in enumerate(rows)]
    found = compare(rows, moved)
    assert found[0].decision == "inconclusive"
    refuse_contradiction(decide(found), found)
    edited = [replace(found[0], decision="pass", note=""), *found[1:]]
    with pytest.raises(ValueError, match="make it no pass"):
        refuse_contradiction(decide(edited), edited)


def test_allowing_that_the_policy_does_not_is_refused() -> None:
    found = findings(0.0, 0.01, Policy(untestable="allow"))
    with pytest.raises(ValueError, match="allowed though not testable"):
        refuse_contradiction(decide(found), found, policy=Policy())


@pytest.fixture
def held() -> Callable[..., tuple[list[Finding], SinceBaseline, Verdict]]:
    def make(then: float, now: float) -> tuple[list[Finding], SinceBaseline, Verdict]:
        before, found = findings(then), findings(now)
        since = SinceBaseline("earlier", "new", changes_since(before, found))
        return found, since, decide_since(decide(found), found, since)

    return make


def test_what_a_baseline_excused_is_taken_and_what_it_did_not_is_not(
    held: Callable[..., tuple[list[Finding], SinceBaseline, Verdict]],
) -> None:
    found, since, verdict = held(0.5, 0.5)
    assert verdict.decision == "pass"
    refuse_contradiction(verdict, found, SinceBaseline.from_dict(since.as_dict()))
    found, since, verdict = held(0.0, 0.5)
    assert verdict.decision == "fail"
    refuse_contradiction(verdict, found, since)
    with pytest.raises(ValueError, match="it says pass"):
        refuse_contradiction(Verdict("pass", ()), found, since)
    forged = replace(since, changes=tuple(replace(c, after="pass", state="fixed") for c in since.changes))
    with pytest.raises(ValueError, match="but not in its row"):
        refuse_contradiction(verdict, found, forged)


def test_names_from_a_file_are_spelled_out() -> None:
    found = [replace(findings(0.5)[0], metric="preference.margin:\x1b[31m", decision="pass")]
    with pytest.raises(ValueError, match="make it no pass") as caught:
        refuse_contradiction(decide(found), found)
    assert str(caught.value).isprintable()


def test_every_decision_of_random_numbers_agrees_with_itself() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        n = int(rng.integers(4, 30))
        rows = [Measurement("b", 0, "traits.yes_bias", f"i{i}", f"p{i}", 0.0, group=f"g{i % 2}") for i in range(n)]
        level = rng.normal(0, 3)
        moved = [replace(m, value=float(level + rng.normal(0, 2))) for m in rows]
        found = compare(rows, moved)
        refuse_contradiction(decide(found), found, policy=Policy())
