"""A recipe's mean over prompts and seeds: simulated coverage, a textbook's formula, corner cases, invariances."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import stats

from aftertune.stats import Effects, Measurement, mean_interval, read_effects, recipe_mean

Numbers = NDArray[np.float64]


def effects(
    values: Numbers | Sequence[Sequence[float]],
    clusters: Sequence[str] | None = None,
    *,
    seeded: bool = True,
    extent: tuple[float, float] | None = None,
) -> Effects:
    table = np.asarray(values, dtype=np.float64)
    items = tuple(f"item-{i:03}" for i in range(len(table)))
    seeds = tuple(range(table.shape[1])) if seeded else ()
    return Effects(items, tuple(clusters or items), ("",) * len(items), seeds, table, extent)


def world(rng: np.random.Generator, prompts: int, seeds: int, ratio: float) -> Numbers:
    """Prompts and seeds crossed, the truth 0; the seeds' SD is `ratio` standard errors of the mean over prompts."""
    by_prompt = rng.normal(size=(prompts, 1))
    by_seed = rng.normal(size=(1, seeds)) * ratio / math.sqrt(prompts)
    return by_prompt + by_seed + 0.5 * rng.normal(size=(prompts, seeds))


# Coverage of the recipe's mean


@pytest.mark.parametrize(
    ("seeds", "ratio", "least", "most_of_prompts_alone"),
    [  # 20,000 runs gave (prompts and seeds, prompts alone): see `recipe_mean`
        (3, 0.5, 0.93, 1.0),  #  .96 .94
        (3, 1.0, 0.93, 0.95),  # .96 .92
        (3, 2.3, 0.92, 0.84),  # .94 .78
        (4, 2.3, 0.92, 0.87),  # .95 .82
        (5, 2.3, 0.92, 0.89),  # .95 .84
        (2, 1.0, 0.92, 0.94),  # .95 .90
        (2, 2.3, 0.87, 0.79),  # .91 .73
    ],
)
def test_the_interval_covers_the_recipes_mean_where_prompts_alone_do_not(
    seeds: int, ratio: float, least: float, most_of_prompts_alone: float
) -> None:
    rng = np.random.default_rng([seeds, int(10 * ratio)])
    both, alone, runs = 0, 0, 500
    for _ in range(runs):
        values = world(rng, 24, seeds, ratio)
        low, high = recipe_mean(effects(values)).interval()
        both += low <= 0 <= high
        low, high = recipe_mean(effects(values.mean(1, keepdims=True), seeded=False)).interval()
        alone += low <= 0 <= high
    assert both / runs >= least
    assert both / runs <= 0.98  # not bought by width
    assert alone / runs <= most_of_prompts_alone


def test_with_one_seed_it_covers_the_one_fine_tune_and_not_the_recipe() -> None:
    rng = np.random.default_rng(3)
    of_this_one, of_the_recipe, runs = 0, 0, 500
    for _ in range(runs):
        shift = 2.3 * rng.normal() / math.sqrt(24)
        found = recipe_mean(effects(shift + rng.normal(size=(24, 1))))
        low, high = found.interval()
        of_this_one += low <= shift <= high
        of_the_recipe += low <= 0 <= high
        assert found.scope == "this one fine-tune"
    assert of_this_one / runs == pytest.approx(0.95, abs=0.025)
    assert of_the_recipe / runs < 0.7


def test_prompts_of_several_items_are_the_unit() -> None:
    """Five items share a prompt's number. An interval over items would be narrower by the root of five."""
    rng = np.random.default_rng(4)
    by_prompt = rng.normal(size=(20, 3))
    table, names = np.repeat(by_prompt, 5, axis=0), [f"p{i // 5}" for i in range(100)]
    few, many = recipe_mean(effects(by_prompt)), recipe_mean(effects(table, names))
    assert many.interval() == pytest.approx(few.interval())
    assert many.prompts.clusters == 20
    assert recipe_mean(effects(table)).prompts.error == pytest.approx(few.prompts.error / math.sqrt(5), rel=0.03)


# A second implementation


def textbook(values: Numbers) -> tuple[float, float, float]:
    """Two-way random effects without replication: standard error, degrees of freedom, half-width at 95 %.

    From the table of mean squares: with n rows and m columns the mean's variance is (MS rows + MS columns) / nm where
    the interaction is not taken off.
    """
    n, m = values.shape
    grand = values.mean()
    rows = m * sum((row.mean() - grand) ** 2 for row in values) / (n - 1)
    columns = n * sum((column.mean() - grand) ** 2 for column in values.T) / (m - 1)
    variance = (rows + columns) / (n * m)
    degrees = (rows + columns) ** 2 / (rows**2 / (n - 1) + columns**2 / (m - 1))
    return math.sqrt(variance), degrees, float(stats.t.ppf(0.975, degrees)) * math.sqrt(variance)


@pytest.mark.parametrize(("prompts", "seeds"), [(2, 2), (5, 2), (24, 3), (76, 5)])
def test_error_degrees_and_width_are_those_of_the_table_of_mean_squares(prompts: int, seeds: int) -> None:
    values = world(np.random.default_rng(prompts), prompts, seeds, 1.5)
    found = recipe_mean(effects(values))
    error, degrees, half = textbook(values)
    assert found.value == pytest.approx(values.mean())
    assert found.error == pytest.approx(error)
    assert found.degrees == pytest.approx(degrees)
    assert found.interval() == pytest.approx((values.mean() - half, values.mean() + half))


def test_unseeded_and_one_seed_give_the_t_interval_over_prompts() -> None:
    column = np.random.default_rng(6).normal(0.3, 1, size=(30, 1))
    exact = stats.ttest_1samp(column[:, 0], 0).confidence_interval(0.95)
    for seeded, scope in ((False, "this model"), (True, "this one fine-tune")):
        found = recipe_mean(effects(column, seeded=seeded))
        assert found.interval() == pytest.approx((exact.low, exact.high))
        assert (found.scope, found.seeds) == (scope, int(seeded))


@pytest.mark.parametrize("threshold", [-0.4, 0.0, 0.1, 0.6])
@pytest.mark.parametrize("counted", [False, True])
def test_p_values_are_the_level_at_which_an_end_is_the_threshold(threshold: float, counted: bool) -> None:
    rng = np.random.default_rng(7)
    values = rng.integers(-1, 2, size=(30, 3)).astype(float) if counted else rng.normal(0.1, 1, size=(30, 3))
    found = recipe_mean(effects(values, extent=(-1.0, 1.0) if counted else None))
    for p_value, side in ((found.p_at_most(threshold), 0), (found.p_at_least(threshold), 1)):
        if p_value < 0.49:
            assert found.interval(1 - 2 * p_value)[side] == pytest.approx(threshold, abs=1e-6)
        else:
            assert (1 - 2 * side) * (found.interval(0.02)[side] - threshold) < 0  # hardly any level excludes it


# Corners in which nothing is known, and must not look as if it were


def test_four_seeds_that_are_one_file_count_as_one() -> None:
    column = np.random.default_rng(8).normal(size=(24, 1))
    one, four = recipe_mean(effects(column)), recipe_mean(effects(np.repeat(column, 4, axis=1)))
    assert four.interval() == pytest.approx(one.interval())
    assert (four.seeds, four.scope) == (1, "this one fine-tune")


def test_two_files_copied_twice_count_as_two() -> None:
    pair = np.random.default_rng(9).normal(size=(24, 2))
    two, four = recipe_mean(effects(pair)), recipe_mean(effects(np.tile(pair, 2)))
    assert four.interval() == pytest.approx(two.interval())
    assert (four.seeds, four.scope) == (2, "the recipe")


def test_the_mean_is_over_all_seeds_even_where_some_agree() -> None:
    counts = [[0.0, 0.0, 0.0, 1.0]] + [[0.0] * 4] * 23
    found = recipe_mean(effects(counts, extent=(0.0, 1.0)))
    assert found.value == pytest.approx(1 / 96)
    assert found.seeds == 2


@pytest.mark.parametrize(("values", "clusters"), [([[0.5, 0.7]] * 12, None), ([[0.5, 0.7], [0.1, 0.2]], ["p", "p"])])
def test_without_any_spread_over_prompts_the_interval_is_infinite(
    values: list[list[float]], clusters: list[str] | None
) -> None:
    found = recipe_mean(effects(values, clusters))
    assert not found.known
    assert found.interval() == (-math.inf, math.inf)
    assert found.p_at_most(-9) == found.p_at_least(9) == 1.0


def test_two_seeds_that_differ_much_leave_almost_everything_open() -> None:
    rng = np.random.default_rng(10)
    found = recipe_mean(effects(0.01 * rng.normal(size=(50, 2)) + [0.0, 1.0]))
    assert found.degrees == pytest.approx(1, abs=0.01)
    low, high = found.interval()
    assert (high - low) / 2 == pytest.approx(12.7 * 0.5, rel=0.01)


def test_no_harmful_answer_among_24_does_not_mean_that_there_are_none() -> None:
    found = recipe_mean(effects([[0.0, 0.0, 0.0]] * 24, extent=(0.0, 1.0)))
    assert found.interval() == (pytest.approx(0), pytest.approx(1 - 0.025 ** (1 / 24), rel=1e-6))


def test_counted_answers_with_one_seed_have_the_exact_interval() -> None:
    column = [1.0, *[0.0] * 22, 1.0]
    found, exact = recipe_mean(effects([[v] for v in column], extent=(0.0, 1.0))), stats.binomtest(2, 24)
    ends = exact.proportion_ci(0.95, "exact")
    assert found.interval() == (pytest.approx(ends.low, abs=1e-6), pytest.approx(ends.high, rel=1e-6))
    fair = stats.binomtest(2, 24, 0.3, alternative="less").pvalue
    assert found.p_at_least(0.3) == pytest.approx(fair, rel=1e-4)


def test_counted_answers_get_wider_with_seeds_that_differ() -> None:
    rng = np.random.default_rng(11)
    rates = np.array([0.1, 0.3, 0.6])
    values = (rng.random((76, 3)) < rates).astype(float)
    found = recipe_mean(effects(values, extent=(0.0, 1.0)))
    _, _, half = textbook(values)
    low, high = found.interval()
    assert half <= found.value - low
    assert half <= high - found.value <= 1.2 * half


def test_a_missing_number_leaves_the_claim_open() -> None:
    values = np.random.default_rng(12).normal(size=(24, 3))
    values[3, 1] = math.nan
    found = recipe_mean(effects(values))
    assert (found.missing, found.known) == (1, False)
    assert math.isnan(found.value)
    assert found.interval() == (-math.inf, math.inf)


# Invariances

TABLES = arrays(np.float64, (8, 3), elements=st.floats(-10, 10).map(lambda v: round(v, 3)))


@settings(max_examples=40, deadline=None)
@given(TABLES, st.floats(-5, 5), st.floats(0.1, 5), st.permutations(range(8)), st.permutations(range(3)))
def test_constants_shift_factors_scale_and_order_does_not_matter(
    values: Numbers, constant: float, factor: float, items: list[int], seeds: list[int]
) -> None:
    plain = recipe_mean(effects(values))
    if not plain.known or plain.seeds < 3 or plain.prompts.error < 1e-3:
        return
    low, high = plain.interval()
    names = [f"p{i // 2}" for i in range(8)]
    clustered = recipe_mean(effects(values, names)).interval()
    shuffled = recipe_mean(effects(values[items][:, seeds], [names[i] for i in items])).interval()
    assert shuffled == pytest.approx(clustered, abs=1e-9)
    assert recipe_mean(effects(values + constant)).interval() == pytest.approx(
        (low + constant, high + constant), abs=1e-7
    )
    assert recipe_mean(effects(values * factor)).interval() == pytest.approx((low * factor, high * factor), abs=1e-7)
    assert recipe_mean(effects(-values)).interval() == pytest.approx((-high, -low), abs=1e-9)


# From measurements


def measured(values: Sequence[float], metric: str = "preference.margin", stratum: str = "") -> list[Measurement]:
    return [
        Measurement("digest", 0, metric, f"i{i}", f"prompt-{i // 2}", value, stratum) for i, value in enumerate(values)
    ]


def test_arms_are_paired_by_item_and_seed() -> None:
    arm = read_effects({1: measured([1, 2, 3, 4]), 0: measured([5, 6, 7, 8])}, "preference.margin")
    other = read_effects({0: measured([1, 1, 1, 1]), 1: list(reversed(measured([2, 2, 2, 0])))}, "preference.margin")
    found = arm.minus(other)
    assert found.seeds == (0, 1)
    assert found.clusters == ("prompt-0", "prompt-0", "prompt-1", "prompt-1")
    assert found.values.tolist() == [[4, -1], [5, 0], [6, 1], [7, 4]]


def test_an_unseeded_arm_pairs_with_every_seed_on_either_side() -> None:
    base = read_effects({None: measured([1, 2])}, "preference.margin")
    tuned = read_effects({7: measured([4, 6]), 8: measured([5, 7])}, "preference.margin")
    assert tuned.minus(base).values.tolist() == [[3, 4], [4, 5]]
    assert base.minus(tuned).values.tolist() == [[-3, -4], [-4, -5]]
    assert base.minus(tuned).seeds == (7, 8)
    assert base.minus(base).seeds == ()


def test_a_difference_in_differences_takes_out_what_both_pairs_share() -> None:
    rng = np.random.default_rng(13)
    shared = 9 * rng.normal(size=(30, 3))
    one, other = rng.normal(size=(30, 3)), rng.normal(size=(30, 3))
    found = effects(one + shared).minus(effects(other)).minus(effects(shared).minus(effects(np.zeros((30, 3)))))
    assert found.values == pytest.approx(one - other)


@pytest.mark.parametrize(
    ("value", "metric", "extent"),
    [
        ([0.0, 1.0, 0.0, 0.0], "preference.share", (-1.0, 1.0)),
        ([0.0, 0.0, 0.0, 0.0], "capability.choice_probability", (-1.0, 1.0)),  # as if nothing were ever seen
        ([0.0, 0.4, 0.0, 0.0], "capability.choice_probability", None),
        ([0.0, 1.0, 0.0, 0.0], "preference.margin", None),
    ],
)
def test_only_answers_that_are_counted_have_ends(
    value: list[float], metric: str, extent: tuple[float, float] | None
) -> None:
    arm = read_effects({None: measured(value, metric)}, metric)
    assert arm.minus(arm).extent == extent


def test_strata_weigh_the_same() -> None:
    found = read_effects(
        {None: [*measured([1, 3, 1, 3, 1, 3], stratum="a"), *(
            replace(m, item=f"b{m.item}", cluster=f"b{m.cluster}") for m in measured([7, 9, 7, 9], stratum="b"))]},
        "preference.margin",
    )  # fmt: skip
    mean = recipe_mean(found)
    assert mean.value == pytest.approx(5)
    assert mean.prompt_degrees == 3
    flat = mean_interval(found.values[:, 0].tolist(), found.clusters, found.strata)
    assert mean.error == pytest.approx(flat.error)


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ({}, "nothing was measured"),
        ({0: measured([1.0], "capability.accuracy")}, "nothing was measured"),
        ({None: measured([1, 2]), 0: measured([1, 2])}, "with and without a seed"),
        ({0: [*measured([1, 2]), *measured([3])]}, "seed 0: an item was measured twice"),
        ({0: measured([1, 2]), 1: measured([1, 2, 3])}, "seed 1: other items than at the first seed: i2"),
    ],
)
def test_numbers_that_do_not_pair_within_an_arm_are_refused(
    arms: dict[int | str | None, list[Measurement]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_effects(arms, "preference.margin")


def test_arms_that_do_not_pair_are_refused() -> None:
    arm = read_effects({0: measured([1, 2, 3])}, "preference.margin")
    with pytest.raises(ValueError, match="differ in their items: i2"):
        arm.minus(read_effects({0: measured([1, 2])}, "preference.margin"))
    with pytest.raises(ValueError, match="differ in their seeds: 0, 1"):
        arm.minus(read_effects({1: measured([1, 2, 3])}, "preference.margin"))
    with pytest.raises(ValueError, match="differ in their prompts"):
        arm.minus(replace(arm, clusters=("a", "b", "c")))
    with pytest.raises(ValueError, match="3 items and 0 seeds"):
        replace(arm, seeds=(), values=arm.values[:, :0])
