"""What pruning before tuning is said to do in worlds where each claim is true, is false, or cannot be told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from aftertune.model import Subject
from aftertune.studies._prune_then_tune import _probes, prune_then_tune_claims, prune_then_tune_figures

MARGIN, TASK, KEEP = "preference.margin:others", "response.nll:task", "response.nll:keep"
SIZES = {MARGIN: 60, TASK: 24, KEEP: 10}
COUNTS, SEEDS = (4, 8), (0, 1, 2)
ARMS = ("tune", "pruned 4", "random 4", "pruned 8", "random 8")

Values = dict[str, dict[tuple[str, str], float]]


@pytest.fixture
def world(spread: Callable[[int, int], Any]) -> Callable[[Mapping[str, float]], Values]:
    """Every arm's margin after tuning is so much more than the plain arm's, give or take 0.4 by prompt, in each seed.

    The task's loss is 1 more in every pruned arm, whatever the margin does; before tuning each arm has other numbers.
    """

    def make(margin: Mapping[str, float]) -> Values:
        found: Values = {}
        for number, arm in enumerate(ARMS):
            shift = {MARGIN: margin.get(arm, 0.0), TASK: float(arm.startswith("pruned")), KEEP: 0.1 * number}
            own = {metric: 0.4 * spread(size, 10 * number + i) for i, (metric, size) in enumerate(SIZES.items())}
            for state in ("base", *map(str, SEEDS)):
                noise = 1000 + 10 * number + (0 if state == "base" else 1 + int(state))
                found[f"{arm} {state}"] = {
                    (metric, f"{metric} {i}"): (-2.0 - number if state == "base" else 1.0 + 0.1 * int(state))
                    + shift[metric]
                    + own[metric][i]
                    + 0.02 * spread(size, noise)[i]
                    for metric, size in SIZES.items()
                    for i in range(size)
                }
        return found

    return make


def outcomes(values: Values) -> dict[str, str]:
    figures = prune_then_tune_figures(values, ARMS, COUNTS, SEEDS)
    return {claim.text: claim.outcome for claim in prune_then_tune_claims(figures)}


LOWERS = "pruned {} units before tuning lowers the margin on other domains"
BEYOND = "More than {} random units do"


@pytest.mark.parametrize(
    ("pruned", "random", "lowers", "beyond"),
    [
        (-0.5, 0.0, "holds", "holds"),
        (-0.5, -0.5, "holds", "cannot be told"),
        (-0.5, -1.0, "holds", "does not hold"),
        (0.0, 0.0, "cannot be told", "cannot be told"),
        (0.0, 0.5, "cannot be told", "holds"),
        (0.5, 0.0, "does not hold", "does not hold"),
        (0.5, 1.0, "does not hold", "holds"),
    ],
)
def test_each_claim_is_told_as_the_world_is(
    world: Callable[..., Values], pruned: float, random: float, lowers: str, beyond: str
) -> None:
    """With 8 units it is as given, with 4 pruning helps and chance does not."""
    values = world({"pruned 8": pruned, "random 8": random, "pruned 4": -0.5, "random 4": 0.0})
    assert outcomes(values) == {
        LOWERS.format(4): "holds", LOWERS.format(8): lowers, BEYOND.format(4): "holds", BEYOND.format(8): beyond,
    }  # fmt: skip


def test_figures_are_those_of_plain_means_and_intervals_over_prompts(
    world: Callable[..., Values], by_prompt: Callable[..., Any]
) -> None:
    values = world({"pruned 4": -0.5, "random 4": -0.1, "pruned 8": -0.7, "random 8": 0.2})
    figures = prune_then_tune_figures(values, ARMS, COUNTS, SEEDS)

    def mean(name: str, metric: str) -> float:
        return float(np.mean([value for (m, _), value in values[name].items() if m == metric]))

    assert [arm["arm"] for arm in figures["arms"]] == list(ARMS)
    for arm in figures["arms"]:
        for metric in SIZES:
            assert arm["before"][metric] == pytest.approx(mean(f"{arm['arm']} base", metric))
            assert arm["after"][metric] == pytest.approx([mean(f"{arm['arm']} {seed}", metric) for seed in SEEDS])
    assert [row["arm"] for row in figures["differences"]] == list(ARMS[1:])
    assert [row["count"] for row in figures["beyond_random"]] == list(COUNTS)
    compared = [(row, row["arm"], "tune") for row in figures["differences"]]
    compared += [(row, f"pruned {row['count']}", f"random {row['count']}") for row in figures["beyond_random"]]
    for row, one, other in compared:
        for metric in (MARGIN, TASK):
            pairs = [(seed, f"{metric} {i}") for seed in SEEDS for i in range(SIZES[metric])]
            changes = [values[f"{one} {s}"][metric, i] - values[f"{other} {s}"][metric, i] for s, i in pairs]
            expected = by_prompt(changes, [item for _, item in pairs])
            expected.refuse(row[metric]["difference"], row[metric]["interval"])


def test_seeds_that_say_the_same_say_nothing_new(world: Callable[..., Values]) -> None:
    values = world({"pruned 4": -0.5, "random 4": -0.1})
    for arm in ARMS:
        for seed in SEEDS:
            values[f"{arm} {seed}"] = values[f"{arm} 0"]
    one, three = (prune_then_tune_figures(values, ARMS, COUNTS, seeds) for seeds in (SEEDS[:1], SEEDS))
    for key in ("differences", "beyond_random"):
        for alone, repeated in zip(one[key], three[key], strict=True):
            for metric in (MARGIN, TASK):
                assert repeated[metric]["interval"] == pytest.approx(alone[metric]["interval"], abs=1e-9)


def test_a_claim_shows_margin_and_task(world: Callable[..., Values]) -> None:
    figures = prune_then_tune_figures(world({"pruned 4": -0.5, "pruned 8": 0.2}), ARMS, COUNTS, SEEDS)
    rows = [row for row in figures["differences"] if row["arm"].startswith("pruned")] + figures["beyond_random"]
    for claim, row in zip(prune_then_tune_claims(figures), rows, strict=True):
        margin, task = row[MARGIN], row[TASK]
        assert claim.detail == (
            f"margin {margin['difference']:+.3f} [{margin['interval'][0]:+.3f}, {margin['interval'][1]:+.3f}], task loss "
            f"{task['difference']:+.3f} [{task['interval'][0]:+.3f}, {task['interval'][1]:+.3f}] nats per token"
        )
        assert task["difference"] == pytest.approx(1.0, abs=0.05)


def test_an_item_is_a_prompt_of_its_own(tiny_subject: Callable[[str], Subject]) -> None:
    """The study resamples items as prompts."""
    subject = tiny_subject("llama")
    for probe in _probes():
        questions = probe.build(subject)
        assert len({q.item for q in questions}) == len({q.cluster for q in questions}) == len(questions)
