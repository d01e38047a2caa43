"""Claims that were fixed beforehand, put to the test: one rule for all studies, with Holm's correction over a study."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass as checked_dataclass

from aftertune.stats._bootstrap import holm
from aftertune.stats._recipes import Effects, RecipeMean, Scope, recipe_mean

Expect: TypeAlias = Literal["lower", "higher", "within"]
Outcome: TypeAlias = Literal["holds", "does not hold", "inconclusive"]


def _today(outcome: object) -> object:
    """An outcome in today's words; the first versions stored another for *inconclusive*."""
    return "inconclusive" if outcome == "cannot be told" else outcome


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class ClaimResult:
    """A sentence that was put to the test.

    Attributes:
        text: the sentence.
        outcome: whether it holds.
        detail: the numbers behind it, for people ("" for none).
        metric: what was measured.
        value: the estimated effect, in the metric's unit.
        low: lower end of its interval; None where no interval can be given.
        high: upper end.
        p_value: one-sided, of the nearer of the two outcomes, with Holm's correction over the study's claims.
        prompts: independent prompts behind it.
        seeds: seeds behind it whose numbers differ; 0 where nothing was seeded.
        scope: what the interval speaks about.
    """

    text: str
    outcome: Annotated[Outcome, BeforeValidator(_today)]
    detail: str = ""
    metric: str | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    prompts: int | None = None
    seeds: int | None = None
    scope: Scope | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, without the fields that are None."""
        found: dict[str, Any] = _RESULT.dump_python(self, mode="json", exclude_none=True)
        return found

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> ClaimResult:
        """Read what `as_dict` gave.

        Raises:
            ValueError: an unknown key, a missing one, or a value of the wrong kind.
        """
        return _RESULT.validate_python(dict(stored))


_RESULT = TypeAdapter(ClaimResult)


def decide_claim(expect: Expect, low: float, high: float, tolerance: float = 0.0) -> Outcome:
    """What an interval says about a claim.

    ================  ===========================  ======================================
    the effect is     *holds* where                *does not hold* where
    ================  ===========================  ======================================
    "lower"           high < −tolerance            low ≥ −tolerance
    "higher"          low > tolerance              high ≤ tolerance
    "within"          −tolerance < low and         low ≥ tolerance or
                      high < tolerance             high ≤ −tolerance
    ================  ===========================  ======================================

    Anything else is *inconclusive*. "within" is two one-sided tests (Schuirmann 1987), each at the level of the
    interval's end: 2.5 % for 95 %. The usual 5 % would need a second, 90 % interval beside the one that is shown.

    Raises:
        ValueError: the tolerance is negative, or 0 for "within", which then could never hold.
    """
    if not (tolerance > 0 if expect == "within" else tolerance >= 0) or not math.isfinite(tolerance):
        raise ValueError(f'a tolerance of {tolerance} for "{expect}": give one above 0 for "within", else 0 or more')
    if expect == "lower":
        holds, fails = high < -tolerance, low >= -tolerance
    elif expect == "higher":
        holds, fails = low > tolerance, high <= tolerance
    else:
        holds, fails = -tolerance < low and high < tolerance, low >= tolerance or high <= -tolerance
    return "holds" if holds else "does not hold" if fails else "inconclusive"


@dataclass(frozen=True)
class ClaimTest:
    """A claim fixed beforehand, and what was then measured.

    Attributes:
        text: the sentence.
        metric: what was measured.
        effects: the arm minus what it is compared with, by item and seed.
        expect: the side on which the mean effect is claimed to lie.
        tolerance: by how much at least ("lower", "higher") or at most ("within"), in the metric's unit.
    """

    text: str
    metric: str
    effects: Effects
    expect: Expect
    tolerance: float = 0.0


def decide_claims(tests: Sequence[ClaimTest], confidence: float = 0.95) -> list[ClaimResult]:
    """Decide all claims of a study, in the order given.

    Every claim gets the interval of `recipe_mean` at ``confidence``, uncorrected, and the outcome of `decide_claim`.
    Its p-value is the smaller of those of its two outcomes: the greatest one-sided level that leaves it undecided. (For
    "within" the p-value of *holds* is the larger of two one-sided ones.) An outcome stands if the p-value survives
    Holm's correction over all claims at (1 − confidence) / 2; otherwise the claim is *inconclusive*. So the
    probability that any claim of the study is decided wrongly is at most 2.5 % at 95 %. Both outcomes are tested, of
    which only one can be wrong. Holm's steps are proven to allow for that where claims are independent (Shaffer 1980,
    Annals of Statistics 8:1342); the first step, Bonferroni's, needs no such condition.
    """
    means = [recipe_mean(test.effects) for test in tests]
    adjusted = holm([_p_value(test, mean) for test, mean in zip(tests, means, strict=True)])
    return [
        _decided(test, mean, p_value, len(tests), confidence)
        for test, mean, p_value in zip(tests, means, adjusted, strict=True)
    ]


def _p_value(test: ClaimTest, mean: RecipeMean) -> float:
    above, below = mean.p_at_most, mean.p_at_least  # p-values of "it lies above", "it lies below"
    limit = test.tolerance
    if test.expect == "lower":
        return min(below(-limit), above(-limit))
    if test.expect == "higher":
        return min(above(limit), below(limit))
    return min(max(above(-limit), below(limit)), above(limit), below(-limit))


def _decided(test: ClaimTest, mean: RecipeMean, p_value: float, claims: int, confidence: float) -> ClaimResult:
    low, high = mean.interval(confidence)
    level = (1 - confidence) / 2
    outcome = decide_claim(test.expect, low, high, test.tolerance)
    notes = [_numbers(test, mean, low, high)]
    if outcome != "inconclusive" and p_value > level:
        outcome = "inconclusive"
        notes.append(f"not sure enough for one of {claims} claims: p {p_value:.2g} by Holm, {level:g} allowed")
    seeds = len(test.effects.seeds)
    if mean.seeds < seeds and not mean.missing:
        notes.append(f"the {seeds} seeds count as {mean.seeds}, since some give the same numbers")
    return ClaimResult(
        text=test.text,
        outcome=outcome,
        detail="; ".join(notes),
        metric=test.metric,
        value=None if mean.missing else mean.value,
        low=low if mean.known else None,
        high=high if mean.known else None,
        p_value=p_value,
        prompts=mean.prompts.clusters,
        seeds=mean.seeds,
        scope=mean.scope,
    )


def _numbers(test: ClaimTest, mean: RecipeMean, low: float, high: float) -> str:
    if mean.missing:
        return f"{mean.missing} of {test.effects.values.size} numbers are missing"
    counted = f"{mean.prompts.clusters} prompt{'s' if mean.prompts.clusters != 1 else ''}"
    if not mean.known:
        return f"{mean.value:+.3g}, the same for {counted}: nothing is known of the spread"
    if mean.seeds:
        counted += f" and {mean.seeds} seed{'s' if mean.seeds > 1 else ''}"
    return f"{mean.value:+.3g} [{low:+.3g}, {high:+.3g}] over {counted}"
