"""What a search for weights may claim, in worlds where each claim is true, is false, or is undecided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import TypeAdapter
from scipy import stats

from aftertune.locating import Proof
from aftertune.locating._readings import means, prove
from aftertune.locating._results import locate_claims, with_interval
from aftertune.runs import stored_as
from aftertune.stats import ClaimResult, Measurement

COUNT, BUDGET = 80, 0.05
HARM, NLL, TWIN, KEEP = "preference.margin:harm", "response.nll:harm", "response.nll:harm-twin", "response.nll:keep"
PROSE, CHOICE = "capability.log_perplexity", "capability.choice_probability"
OTHER, OTHER_NLL = "preference.margin:work", "response.nll:work"
LOOSE = 0.5  # how far single prompts stray from the mean effect

Moved = Mapping[str, float]


def spread(count: int, seed: int) -> NDArray[np.float64]:
    """Normal quantiles in random order: mean and skew are zero."""
    return np.random.default_rng(seed).permutation(stats.norm.ppf((np.arange(count) + 0.5) / count))


def readings(moved: Moved, edit: int, *, twins: bool = True, loose: float = LOOSE) -> list[Measurement]:
    """Every metric, moved by so much on average from what it was; ``edit`` 0 is the untouched model."""
    metrics = [NLL, TWIN, HARM, KEEP, PROSE, CHOICE, OTHER_NLL, f"{OTHER_NLL}-twin", OTHER]
    if not twins:
        metrics = [m for m in metrics if not m.endswith("-twin") and not m.startswith("preference")]
    rows = []
    for number, metric in enumerate(metrics):
        level, wide, stray = (0.6, 0.05, 0.02) if metric == CHOICE else (10.0, 1.0, 0.1)
        if metric not in (KEEP, PROSE, CHOICE):
            stray = loose
        values = level + wide * spread(COUNT, number) + (stray * spread(COUNT, 50 * edit + number) if edit else 0)
        rows += [
            Measurement("m", 0, metric, f"{metric} {i}", f"prompt {i}", float(v) + moved.get(metric, 0.0))
            for i, v in enumerate(values)
        ]
    return rows


def said(
    patch: Moved, controls: Mapping[str, Moved] | None = None, *, twins: bool = True, loose: float = LOOSE
) -> dict[str, ClaimResult]:
    others = {
        name: readings(moved, 2 + i, twins=twins, loose=loose)
        for i, (name, moved) in enumerate((controls or {}).items())
    }
    after = readings(patch, 1, twins=twins, loose=loose)
    proofs = prove(readings({}, 0, twins=twins, loose=loose), after, others)
    return {claim.text: claim for claim in locate_claims(proofs, BUDGET, twins=twins)}


FELL, KEPT = "The harm set's answers become less likely", "Utility is kept (losses within 0.1 nats per token)"
TOO = "work falls too, which was not attributed"


@pytest.mark.parametrize(("moved", "outcome"), [(-0.5, "holds"), (0.0, "inconclusive"), (0.5, "does not hold")])
def test_harm_falls_by_the_margin_where_there_are_twins(moved: float, outcome: str) -> None:
    """Whatever the losses do by themselves: a model that is broken finds everything unlikely."""
    for loss in (-1.0, 0.0, 1.0):
        assert said({HARM: moved, NLL: loss, TWIN: loss})[FELL].outcome == outcome


@pytest.mark.parametrize(("moved", "outcome"), [(0.5, "holds"), (0.0, "inconclusive"), (-0.5, "does not hold")])
def test_without_twins_harm_falls_where_its_loss_rises(moved: float, outcome: str) -> None:
    found = said({NLL: moved, OTHER_NLL: moved}, {"random": {}}, twins=False)
    assert (found[FELL].outcome, found[TOO].outcome) == (outcome, outcome)
    assert found["More than under the random control"].outcome == outcome


@pytest.mark.parametrize(
    ("patch", "random", "matched", "outcomes"),
    [
        (-0.5, 0.0, -0.1, ("holds", "holds", "holds")),
        (-0.5, -0.5, 0.0, ("holds", "inconclusive", "holds")),
        (-0.5, 0.0, -0.5, ("holds", "holds", "inconclusive")),
        (-0.5, -1.0, 0.0, ("holds", "does not hold", "holds")),
        (0.0, 0.5, 0.0, ("inconclusive", "holds", "inconclusive")),
        (0.5, 0.0, 1.0, ("does not hold", "does not hold", "holds")),
    ],
)
def test_a_control_is_beaten_where_the_patch_does_more(
    patch: float, random: float, matched: float, outcomes: tuple[str, ...]
) -> None:
    found = said({HARM: patch}, {"random": {HARM: random}, "content_matched": {HARM: matched}})
    texts = (FELL, "More than under the random control", "More than under the content-matched control")
    assert tuple(found[text].outcome for text in texts) == outcomes


@pytest.mark.parametrize(
    ("patch", "outcome"),
    [
        ({}, "holds"),
        ({KEEP: -1.0, PROSE: -1.0, CHOICE: 0.2}, "holds"),
        ({KEEP: 0.04, PROSE: 0.04, CHOICE: -0.02}, "holds"),
        ({KEEP: 0.3}, "does not hold"),
        ({PROSE: 0.3}, "does not hold"),
        ({CHOICE: -0.3}, "does not hold"),
        ({KEEP: 0.3, PROSE: -1.0, CHOICE: 0.2}, "does not hold"),
        ({KEEP: 0.1}, "inconclusive"),
        ({PROSE: 0.1}, "inconclusive"),
        ({CHOICE: -0.1}, "inconclusive"),
        ({HARM: 2.0, OTHER: 2.0, TWIN: 2.0}, "holds"),
    ],
)
def test_utility_is_kept_within_twice_the_budget(patch: Moved, outcome: str) -> None:
    assert said(patch, {"random": {KEEP: 9.0, PROSE: 9.0, CHOICE: -0.3}})[KEPT].outcome == outcome


@pytest.mark.parametrize(("moved", "outcome"), [(-0.5, "holds"), (0.0, "inconclusive"), (0.5, "does not hold")])
def test_another_harm_set_is_told_by_its_own_margin(moved: float, outcome: str) -> None:
    found = said({OTHER: moved, HARM: -0.5, OTHER_NLL: -1.0})
    assert found[TOO].outcome == outcome
    assert [text for text in found if "falls too" in text] == [TOO]


def test_a_proof_is_made_of_plain_differences_by_prompt() -> None:
    moved = {HARM: -0.5, KEEP: 0.02}
    before, after, other = readings({}, 0), readings(moved, 1), readings({HARM: -0.2}, 2)
    proofs = {proof.measure: proof for proof in prove(before, after, {"random": other})}

    def values(rows: list[Measurement], metric: str) -> NDArray[np.float64]:
        return np.array([m.value for m in rows if m.metric == metric])

    def refuse(differences: NDArray[np.float64], ends: Sequence[float]) -> None:
        """An interval narrower than the plain t interval, or far wider."""
        half, value = stats.t.ppf(0.975, COUNT - 1) * differences.std(ddof=1) / COUNT**0.5, differences.mean()
        beyond = 0.05 if metric == CHOICE else 0.75 * half  # a probability's may allow for the worst that was not seen
        assert 0.9 * half <= value - ends[0] <= half + beyond
        assert 0.9 * half <= ends[1] - value <= half + beyond

    for metric, proof in proofs.items():
        base, patch, random = (values(rows, metric) for rows in (before, after, other))
        control = proof.controls["random"]
        for found, expected in (
            (proof.before, base.mean()), (proof.after, patch.mean()), (control.after, random.mean()),
            (proof.difference, (patch - base).mean()), (control.difference, (random - base).mean()),
            (control.patch_minus_control, (patch - random).mean()), (proof.items, COUNT),
        ):  # fmt: skip
            assert found == pytest.approx(expected)
        for ends, differences in (
            (proof.interval, patch - base), (control.interval, random - base), (control.patch_minus_control_interval, patch - random),
        ):  # fmt: skip
            refuse(differences, ends)
        assert stored_as(Proof, TypeAdapter(Proof).dump_python(proof, mode="json")) == proof
    assert means(after)[HARM] == pytest.approx(9.5)


def test_a_second_answer_to_each_prompt_tells_nothing_new() -> None:
    """Two answers that move alike are one observation."""

    def proof(answers: int) -> Proof:
        before, after = ([
            Measurement("m", 0, NLL, f"{i} {k}", f"prompt {i}", 5.0 + side * stray)
            for i, stray in enumerate(0.4 * spread(40, 7)) for k in range(answers)
        ] for side in (0, 1))  # fmt: skip
        [found] = prove(before, after, {"random": before})
        return found

    one, two = proof(1), proof(2)
    assert (one.items, two.items) == (40, 80)
    assert two.interval == pytest.approx(one.interval, abs=1e-9)
    assert two.controls["random"].patch_minus_control_interval == pytest.approx(
        one.controls["random"].patch_minus_control_interval, abs=1e-9
    )


def test_a_claim_shows_the_numbers_it_rests_on() -> None:
    after, other = readings({HARM: -0.5}, 1), readings({HARM: -0.2}, 2)
    proofs = prove(readings({}, 0), after, {"random": other})
    made = {claim.text: claim.detail for claim in locate_claims(proofs, BUDGET, twins=True)}
    harm = next(p for p in proofs if p.measure == HARM)
    random = harm.controls["random"]
    assert made[FELL] == f"{HARM} {with_interval(harm.difference, harm.interval)}"
    assert made["More than under the random control"] == (
        f"patch minus control {with_interval(random.patch_minus_control, random.patch_minus_control_interval)}"
    )
    assert with_interval(0.1234, (-0.2, 1)) == "+0.123 [-0.200, +1.000]"
    assert [part.split()[0] for part in made[KEPT].split("; ")] == [KEEP, PROSE, CHOICE]
