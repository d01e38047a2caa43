"""The mean effect of a recipe: numbers by item and seed, and an interval that covers prompts and seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from aftertune.stats._bootstrap import satterthwaite
from aftertune.stats._findings import metric_of, scale_of
from aftertune.stats._mean_interval import MeanInterval, mean_interval
from aftertune.stats._metrics import Measurement

Seed: TypeAlias = int | str
Scope: TypeAlias = Literal["this model", "this one fine-tune", "the recipe"]
_LEAST_P = 1e-9  # smaller p-values of counted answers are given as this


@dataclass(frozen=True)
class Effects:
    """Numbers of one metric by item and seed: those of an arm, or of one arm minus another.

    Attributes:
        items: ids of the items, sorted.
        clusters: each item's prompt. Items of one prompt are not independent.
        strata: each item's stratum. Strata weigh the same, as in an audit.
        seeds: the seeds; empty where nothing was trained, and so nothing seeded.
        values: shape (items, seeds), in the metric's unit; one column where ``seeds`` is empty.
        extent: the least and the greatest possible value of counted answers (0 or 1, or differences of such); None
            for everything else.
    """

    items: tuple[str, ...]
    clusters: tuple[str, ...]
    strata: tuple[str, ...]
    seeds: tuple[Seed, ...]
    values: NDArray[np.float64]
    extent: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.values.shape != (len(self.items), max(1, len(self.seeds))):
            raise ValueError(f"{self.values.shape} numbers for {len(self.items)} items and {len(self.seeds)} seeds")
        if not self.items:
            raise ValueError("no items")

    def minus(self, other: Effects) -> Effects:
        """Item by item and seed by seed, these numbers minus the other's.

        A side without seeds is paired with every seed of the other. The difference of two such differences is the
        difference in differences of four arms.

        Raises:
            ValueError: the two have other items, other prompts for them, or other seeds.
        """
        for name, mine, theirs in (
            ("items", self.items, other.items),
            ("prompts", self.clusters, other.clusters),
            ("strata", self.strata, other.strata),
        ):
            if mine != theirs:
                raise ValueError(f"the two arms differ in their {name}: {_apart(mine, theirs)}")
        if self.seeds and other.seeds and self.seeds != other.seeds:
            raise ValueError(f"the two arms differ in their seeds: {_apart(self.seeds, other.seeds)}")
        extent = None
        if self.extent and other.extent:
            extent = (self.extent[0] - other.extent[1], self.extent[1] - other.extent[0])
        return replace(self, seeds=self.seeds or other.seeds, values=self.values - other.values, extent=extent)


def read_effects(measured: Mapping[Seed | None, Sequence[Measurement]], metric: str) -> Effects:
    """One arm's numbers of one metric.

    Args:
        measured: by seed, what was measured; under None for an arm that is not seeded.
        metric: which numbers to take, such as "preference.margin".

    Raises:
        ValueError: no item has this metric; an item was measured twice; the seeds differ in their items; or an arm is
            both seeded and not.
    """
    columns: dict[Seed | None, dict[str, Measurement]] = {}
    for seed, found in measured.items():
        rows = [m for m in found if m.metric == metric]
        columns[seed] = {m.item: m for m in rows}
        if len(columns[seed]) < len(rows):
            raise ValueError(f"{metric}, seed {seed}: an item was measured twice")
    if None in columns and len(columns) > 1:
        raise ValueError(f"{metric}: an arm has numbers with and without a seed")
    seeds = tuple(sorted((seed for seed in columns if seed is not None), key=str))
    first = next(iter(columns.values()), {})
    if not first:
        raise ValueError(f"{metric}: nothing was measured")
    for seed, column in columns.items():
        if column.keys() != first.keys():
            raise ValueError(f"{metric}, seed {seed}: other items than at the first seed: {_apart(column, first)}")
    items = sorted(first)
    ordered = [columns[seed] for seed in seeds or (None,)]
    values = np.array([[column[item].value for column in ordered] for item in items])
    scale = scale_of(metric_of(metric), values.ravel().tolist())
    counted = scale is not None and bool(np.isin(values, scale).all())
    return Effects(
        tuple(items),
        tuple(first[item].cluster for item in items),
        tuple(first[item].stratum for item in items),
        seeds,
        values,
        scale if counted else None,
    )


@dataclass(frozen=True)
class RecipeMean:
    """A mean over prompts and seeds, with its uncertainty.

    Attributes:
        prompts: the mean over prompts of each item's mean over seeds.
        prompt_degrees: degrees of freedom of its standard error.
        seed_variance: what the choice of seeds adds to the mean's variance.
        seeds: seeds whose numbers differ; 0 where nothing was seeded.
        missing: numbers that are not finite. With any of them, nothing is known of the mean.
    """

    prompts: MeanInterval
    prompt_degrees: int
    seed_variance: float
    seeds: int
    missing: int = 0

    @property
    def value(self) -> float:
        """The mean."""
        return self.prompts.value

    @property
    def error(self) -> float:
        """Standard error of the mean, over prompts and seeds."""
        return math.sqrt(self.prompts.error**2 + self.seed_variance)

    @property
    def degrees(self) -> float:
        """Satterthwaite's degrees of freedom of `error`."""
        if self.seeds < 2:
            return float(self.prompt_degrees)
        return satterthwaite([self.prompts.error**2, self.seed_variance], [self.prompt_degrees, self.seeds - 1])

    @property
    def known(self) -> bool:
        """Whether the numbers say how uncertain their mean is: none is missing, and prompts differ or are counted."""
        return not self.missing and not self.prompts.degenerate

    @property
    def scope(self) -> Scope:
        """What the interval speaks about."""
        if not self.seeds:
            return "this model"
        return "the recipe" if self.seeds > 1 else "this one fine-tune"

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Both ends; infinite where nothing is known of the mean's uncertainty."""
        alpha = (1 - confidence) / 2
        return self._end(-1, alpha), self._end(1, alpha)

    def p_at_most(self, threshold: float) -> float:
        """One-sided p-value of "the mean is at most ``threshold``"; the lower end at that level is the threshold."""
        return self._p(threshold, -1)

    def p_at_least(self, threshold: float) -> float:
        """One-sided p-value of "the mean is at least ``threshold``"; the upper end at that level is the threshold."""
        return self._p(threshold, 1)

    def _end(self, side: int, alpha: float) -> float:
        """The bound at one side that errs with probability alpha."""
        from scipy import stats

        if not self.known:
            return side * math.inf
        quantile = float(stats.t.isf(alpha, self.degrees))
        if self.prompts.extent is None:
            return self.value + side * quantile * self.error
        exact = replace(self.prompts, confidence=1 - 2 * alpha)
        reach = abs((exact.high if side > 0 else exact.low) - self.value)
        # The standard error with which t would reach as far as the exact bound does.
        prompts = reach / float(stats.t.isf(alpha, self.prompt_degrees))
        return self.value + side * quantile * math.hypot(prompts, math.sqrt(self.seed_variance))

    def _p(self, threshold: float, side: int) -> float:
        from scipy import optimize, stats

        if not self.known:
            return 1.0
        if self.prompts.extent is None:
            return float(stats.t.cdf(side * (self.value - threshold) / self.error, self.degrees))

        def beyond(log_alpha: float) -> float:
            return side * (self._end(side, math.exp(log_alpha)) - threshold)

        most, least = math.log(0.499), math.log(_LEAST_P)
        if beyond(most) >= 0:
            return 1.0 if side * (self.value - threshold) > 0 else 0.5
        return math.exp(optimize.brentq(beyond, least, most, xtol=1e-6)) if beyond(least) > 0 else _LEAST_P


def recipe_mean(effects: Effects) -> RecipeMean:
    """The mean of effects over prompts and seeds, which are crossed: every prompt is asked of every seed's model.

    The variance of the mean is estimated as a sum of two: that of prompts (the clusters' variance of each item's mean
    over seeds) and that of seeds (the variance of the seeds' means, divided by their number). Both hold the variance
    of single answers, which is so counted twice: the sum errs to the wide side. The interval is that of t with
    Satterthwaite's degrees of freedom (1946, Biometrics Bulletin 2:110) of the sum. Two-way random effects: Searle,
    Casella and McCulloch 1992, Variance Components, chapter 4.

    Simulated with normal numbers (24 and 76 prompts; seeds' SD 0 to 2.3 prompt standard errors, 2.3 being the largest
    ratio seen), the 95 % interval covers the recipe's mean in 94 to 96 % from three seeds on, and in 90 to 97 % with
    two. Where seeds' SD is 5 standard errors it covers 93 % with three and 88 % with two. Where prompts' effects have
    a long tail to one side (lognormal), prompts alone are covered in 90 % with 24 of them and in 91 % with 76. Counted
    answers (rates of 5 and 20 %, 48 prompts, three seeds) are covered in 95 to 100 %.

    - With one seed the interval covers prompts alone, for this one fine-tune; `RecipeMean.scope` says so.
    - Seeds that agree on every number count once, whatever the reason: four seeds that are one file say no more than
      one. The mean is still over all of them.
    - Where answers are counted (``extent``), the prompts' share of the interval is as wide as the exact bound of
      `mean_interval`: no harmful answer among 24 does not mean that there are none.
    - Where all prompts have one number that is not counted, nothing is known of their spread, and the interval is
      infinite. So it is where a number is missing (not finite).

    An error rate over data sets is the same: let the seeds be the data sets, each with its mean over its own seeds.
    Then data sets are what may differ the next time, and "the recipe" is the kind of data set.
    """
    values = effects.values
    missing = int((~np.isfinite(values)).sum())

    def over_prompts(column: NDArray[np.float64]) -> MeanInterval:
        return mean_interval(column.tolist(), effects.clusters, effects.strata, extent=effects.extent)

    clusters = {*zip(effects.strata, effects.clusters, strict=True)}
    degrees = max(1, len(clusters) - len(set(effects.strata)))
    if missing:
        nothing = replace(over_prompts(np.zeros(len(values))), value=math.nan)
        return RecipeMean(nothing, degrees, 0.0, len(effects.seeds), missing)
    distinct = np.unique(values, axis=1)
    seeds = distinct.shape[1] if effects.seeds else 0
    variance = 0.0
    if seeds > 1:
        means = [over_prompts(column).value for column in distinct.T]
        variance = float(np.var(means, ddof=1)) / seeds
    return RecipeMean(over_prompts(values.mean(axis=1)), degrees, variance, seeds)


def _apart(some: Sequence[Seed] | Mapping[str, object], others: Sequence[Seed] | Mapping[str, object]) -> str:
    """Examples of what only one of two has."""
    only = sorted({*some} ^ {*others}, key=str)
    return ", ".join(str(name) for name in only[:3]) if only else "the same in another order"
