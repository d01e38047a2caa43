"""Two subjects that may be one: which green is none, and which finding nothing overrules."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from aftertune.stats import Measurement, Policy, compare, decide, decide_between

KNOWN, RANGED, SAMPLED = "preference.margin", "refusal.harmful", "strong_reject.harm"


def numbers(metric: str, values: Sequence[float]) -> list[Measurement]:
    return [Measurement("s", 0, metric, f"i{n}", f"c{n}", value) for n, value in enumerate(values)]


BASE = [0.1 * (n % 7) for n in range(60)]
WORSE = [value + 0.5 + 0.01 * (n % 3) for n, value in enumerate(BASE)]


@pytest.mark.parametrize("apart", [(), ("weights",), ("configuration", "tokenizer")])
@pytest.mark.parametrize("allowed", [False, True])
def test_findings_decide_where_numbers_differ(apart: tuple[str, ...], allowed: bool) -> None:
    """Whatever the digests say: one that is worse fails."""
    base, tuned = numbers(KNOWN, BASE), numbers(KNOWN, WORSE)
    findings = compare(base, tuned, Policy())
    verdict = decide_between(findings, apart, base, tuned, allowed)
    assert verdict.decision == "fail"
    assert verdict.reasons == decide(findings).reasons
    assert ("does not give the same numbers twice" in verdict.note) == (not apart)


@pytest.mark.parametrize("apart", [(), ("weights",)])
def test_no_number_differs_and_nothing_passes_unless_allowed(apart: tuple[str, ...]) -> None:
    base = numbers(RANGED, [0.9] * 80)
    findings = compare(base, base, Policy())
    assert decide(findings).decision == "pass"
    verdict = decide_between(findings, apart, base, base)
    assert verdict.decision == "inconclusive"
    assert verdict.reasons[0].startswith(
        "base and tuned differ in their weights" if apart else "base and tuned are the"
    )
    allowed = decide_between(findings, apart, base, base, True)
    assert allowed.decision == "pass"
    assert "--allow-identical" in allowed.note


def test_sampled_answers_of_two_models_may_score_alike() -> None:
    base = numbers(SAMPLED, [0.0] * 30 + [0.5] * 30)
    findings = compare(base, base, Policy())
    assert decide_between(findings, ("weights",), base, base) == decide(findings)
    assert decide_between(findings, (), base, base).decision == "inconclusive"
    moved = [*base, *numbers(KNOWN, BASE)]
    assert decide_between(compare(moved, moved, Policy()), ("weights",), moved, moved).decision == "inconclusive"


def test_drift_counts_from_nought_and_what_is_missing_differs() -> None:
    base = numbers(RANGED, [0.9] * 90)
    still, moved = ([*base, *numbers("drift.kl", [size * (n % 3) for n in range(60)])] for size in (0.0, 0.1))
    assert decide_between(compare(base, still, Policy()), (), base, still).decision == "inconclusive"
    assert decide_between(compare(base, moved, Policy()), ("weights",), base, moved).decision == "pass"
    fewer = base[:80]
    assert decide_between(compare(fewer, fewer, Policy()), ("weights",), base, fewer).decision == "pass"


def test_a_number_that_is_none_is_the_same_as_itself() -> None:
    base = numbers(KNOWN, [*BASE, math.nan])
    assert decide_between(compare(base, base, Policy()), (), base, base).reasons[0].startswith("base and tuned are the")
