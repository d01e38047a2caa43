"""What a search for weights may claim, in worlds where each claim is true, is false, or cannot be told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from aftertune.locating import Proof
from aftertune.locating._claims import LocateClaim, below_zero, claims
from aftertune.locating._proof import means, prove
from aftertune.stats import Measurement

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
) -> dict[str, LocateClaim]:
    others = {
        name: readings(moved, 2 + i, twins=twins, loose=loose)
        for i, (name, moved) in enumerate((controls or {}).items())
    }
    after = readings(patch, 1, twins=twins, loose=loose)
    proofs = prove(readings({}, 0, twins=twins, loose=loose), after, others)
    return {claim.text: claim for claim in claims(proofs, BUDGET, twins)}


FELL, KEPT = "The harm set's answers become less likely", "Utility is kept (losses within 0.1 nats per token)"
TOO = "work falls too, which was not attributed"


@pytest.mark.parametrize(("moved", "outcome"), [(-0.5, "holds"), (0.0, "cannot be told"), (0.5, "does not hold")])
def test_harm_falls_by_the_margin_where_there_are_twins(moved: float, outcome: str) -> None:
    """Whatever the losses do by themselves: a model that is broken finds everything unlikely."""
    for loss in (-1.0, 0.0, 1.0):
        assert said({HARM: moved, NLL: loss, TWIN: loss})[FELL].outcome == outcome


@pytest.mark.parametrize(("moved", "outcome"), [(0.5, "holds"), (0.0, "cannot be told"), (-0.5, "does not hold")])
def test_without_twins_harm_falls_where_its_loss_rises(moved: float, outcome: str) -> None:
    found = said({NLL: moved, OTHER_NLL: moved}, {"random": {}}, twins=False)
    assert (found[FELL].outcome, found[TOO].outcome) == (outcome, outcome)
    assert found["More than under the random control"].outcome == outcome


@pytest.mark.parametrize(
    ("patch", "random", "matched", "outcomes"),
    [
        (-0.5, 0.0, -0.1, ("holds", "holds", "holds")),
        (-0.5, -0.5, 0.0, ("holds", "cannot be told", "holds")),
        (-0.5, 0.0, -0.5, ("holds", "holds", "cannot be told")),
        (-0.5, -1.0, 0.0, ("holds", "does not hold", "holds")),
        (0.0, 0.5, 0.0, ("cannot be told", "holds", "cannot be told")),
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
        ({KEEP: 0.1}, "cannot be told"),
        ({PROSE: 0.1}, "cannot be told"),
        ({CHOICE: -0.1}, "cannot be told"),
        ({HARM: 2.0, OTHER: 2.0, TWIN: 2.0}, "holds"),
    ],
)
def test_utility_is_kept_within_twice_the_budget(patch: Moved, outcome: str) -> None:
    assert said(patch, {"random": {KEEP: 9.0, PROSE: 9.0, CHOICE: -0.3}})[KEPT].outcome == outcome


@pytest.mark.parametrize(("moved", "outcome"), [(-0.5, "holds"), (0.0, "cannot be told"), (0.5, "does not hold")])
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
        assert control.beyond is not None
        for found, expected in (
            (proof.before, base.mean()), (proof.patch.after, patch.mean()), (control.after, random.mean()),
            (proof.patch.difference, (patch - base).mean()), (control.difference, (random - base).mean()),
            (control.beyond[0], (patch - random).mean()), (proof.items, COUNT),
        ):  # fmt: skip
            assert found == pytest.approx(expected)
        for ends, differences in (
            (proof.patch.interval, patch - base), (control.interval, random - base), (control.beyond[1:], patch - random),
        ):  # fmt: skip
            refuse(differences, ends)
        assert Proof.from_dict(proof.as_dict()) == proof
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
    assert two.patch.interval == pytest.approx(one.patch.interval, abs=1e-9)
    assert two.controls["random"].beyond == pytest.approx(one.controls["random"].beyond, abs=1e-9)


def test_a_claim_shows_the_numbers_it_rests_on() -> None:
    after, other = readings({HARM: -0.5}, 1), readings({HARM: -0.2}, 2)
    proofs = prove(readings({}, 0), after, {"random": other})
    made = {claim.text: claim.detail for claim in claims(proofs, BUDGET, True)}
    harm = next(p for p in proofs if p.measure == HARM)
    beyond = harm.controls["random"].beyond
    assert beyond is not None
    low, high = harm.patch.interval
    assert made[FELL] == f"{HARM} {harm.patch.difference:+.3f} [{low:+.3f}, {high:+.3f}]"
    assert made["More than under the random control"] == (
        f"patch minus control {beyond[0]:+.3f} [{beyond[1]:+.3f}, {beyond[2]:+.3f}]"
    )
    assert [part.split()[0] for part in made[KEPT].split("; ")] == [KEEP, PROSE, CHOICE]


@pytest.mark.parametrize(
    ("ends", "outcome"),
    [
        ((-0.2, -0.1), "holds"), ((-0.1, -0.2), "holds"), ((-0.1, 0.1), "cannot be told"), ((0.1, -0.1), "cannot be told"),
        ((0.1, 0.2), "does not hold"), ((0.0, 0.2), "does not hold"), ((-0.1, 0.0), "cannot be told"),
    ],
)  # fmt: skip
def test_an_interval_lies_below_zero_with_both_ends(ends: tuple[float, float], outcome: str) -> None:
    assert below_zero(*ends) == outcome
