"""What dissociation is said of planted readings: what fell, beyond which control, and what stayed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from aftertune.stats import Measurement, find_metric
from aftertune.studies._dissociation import KNOWN, PRODUCED, _compared, dissociation_claims
from aftertune.verbs import Measuring

COUNT = 80
FELL = "The patch lowers the preference for the worse answers"
BEYOND = "It lowers it more than as many random units"
METRICS = (PRODUCED, *KNOWN)


@pytest.fixture
def world(spread: Callable[[int, int], Any], tmp_path: Path) -> Callable[..., dict[str, Measuring]]:
    """The three states, each metric moved by so much on average under each edit; all is known before by 2."""

    def make(patch: Mapping[str, float], random: Mapping[str, float]) -> dict[str, Measuring]:
        states: dict[str, Mapping[str, float]] = {"before": {}, "patch": patch, "random": random}
        found = {}
        for number, (state, moved) in enumerate(states.items()):
            rows = []
            for m, metric in enumerate(METRICS):
                prompt, noise = spread(COUNT, m), 0.1 * spread(COUNT, 100 + 10 * m + number)
                rows += [
                    Measurement(
                        "x", 0, metric, f"i{i}", f"prompt {i}", 2 + prompt[i] + noise[i] + moved.get(metric, 0.0)
                    )
                    for i in range(COUNT)
                ]
            found[state] = Measuring({}, tuple(rows), 0, tmp_path)
        return found

    return make


def outcomes(asked: Mapping[str, Measuring]) -> dict[str, str]:
    return {claim.text: claim.outcome for claim in dissociation_claims(_compared(asked))}


@pytest.mark.parametrize(
    ("patch", "random", "fell", "beyond"),
    [
        (-0.5, 0.0, "holds", "holds"),
        (-0.5, -0.5, "holds", "cannot be told"),
        (-0.5, -1.0, "holds", "does not hold"),
        (0.0, 0.0, "cannot be told", "cannot be told"),
        (0.0, 0.5, "cannot be told", "holds"),
        (0.5, 0.0, "does not hold", "does not hold"),
    ],
)
def test_a_fall_is_told_as_the_world_is(
    world: Callable[..., dict[str, Measuring]], patch: float, random: float, fell: str, beyond: str
) -> None:
    said = outcomes(world({PRODUCED: patch}, {PRODUCED: random}))
    assert (said[FELL], said[BEYOND]) == (fell, beyond)


@pytest.mark.parametrize("metric", KNOWN)
def test_what_stays_is_told_of_the_patch_alone(world: Callable[..., dict[str, Measuring]], metric: str) -> None:
    found = find_metric(metric)
    assert found is not None
    text, far = f"{metric} stays within its margin", 4 * found.margin
    assert outcomes(world({}, {}))[text] == "holds"
    assert outcomes(world({metric: -far}, {}))[text] == "does not hold"
    assert outcomes(world({metric: -found.margin}, {}))[text] == "cannot be told"
    assert outcomes(world({}, {metric: -far}))[text] == "holds"
    others = {other: -far for other in METRICS if other != metric}
    assert outcomes(world(others, {}))[text] == "holds"


def test_numbers_are_plain_differences_of_the_two_states_they_name(
    world: Callable[..., dict[str, Measuring]], by_prompt: Callable[..., Any]
) -> None:
    asked = world({PRODUCED: -0.5}, {PRODUCED: -0.2})
    document = _compared(asked)

    def values(state: str) -> dict[str, float]:
        return {m.item: m.value for m in asked[state].measurements if m.metric == PRODUCED}

    for key, base, edit in (
        ("patch", "before", "patch"), ("random", "before", "random"), ("patch_beyond_random", "random", "patch"),
    ):  # fmt: skip
        row = next(f for f in document[key] if f["metric"] == PRODUCED)
        before, after = values(base), values(edit)
        by_prompt([after[i] - before[i] for i in before], list(before)).refuse(row["difference"], row["interval"])
    assert {row["metric"] for row in document["before"]} == set(METRICS)
    assert all(row["value"] == pytest.approx(2.0, abs=0.01) for row in document["before"])
