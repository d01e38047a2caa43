"""What the transfer study says in worlds where each claim is true, is false, or cannot be told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from aftertune.attribution import select_count, unit_score, unit_sums
from aftertune.locating import Example, trees_of
from aftertune.model import Subject, WeightView
from aftertune.runs import Silent
from aftertune.studies._transfer import (
    DOMAINS,
    EDITS,
    _selections,
    domain_examples,
    keep_examples,
    transfer_claims,
    transfer_figures,
)

PLACES = ("money", "health", "work")
ITEMS = {place: [f"{place}-{i}" for i in range(30)] for place in PLACES}
KEPT = [f"keep-{i}" for i in range(8)]
OWN = 5.0  # the fall in the domain that was attributed, which no claim may rest on
FELL = "Weights found on one domain lower the others"
MORE = "More than the random control does"
MATCHED = "More than the content-matched control does"

Readings = dict[str, tuple[dict[str, float], dict[str, float]]]


def cost(edit: str, source: str) -> float:
    return 0.1 * EDITS.index(edit) + 0.01 * PLACES.index(source)


@pytest.fixture
def world(spread: Callable[[int, int], Any]) -> Callable[[Mapping[str, float]], Readings]:
    """Readings in which every edit lowers the margin of other domains by so much, give or take 0.3 by prompt."""
    every = [item for place in PLACES for item in ITEMS[place]]

    def make(fall: Mapping[str, float]) -> Readings:
        before = dict(zip(every, spread(len(every), 0) + 1, strict=True))
        loss = {item: 2.0 + i for i, item in enumerate(KEPT)}
        found: Readings = {"before": (before, loss)}
        for number, edit in enumerate(EDITS):
            prompt = dict(zip(every, 0.3 * spread(len(every), 1 + number), strict=True))
            for source in PLACES:
                margins = {
                    item: before[item] - (OWN if item.startswith(source) else fall[edit]) - prompt[item]
                    for item in every
                }
                losses = {item: loss[item] + cost(edit, source) + 0.001 * (i - 3.5) for i, item in enumerate(KEPT)}
                found[f"{edit} {source}"] = margins, losses
        return found

    return make


def outcomes(readings: Readings) -> dict[str, str]:
    return {claim.text: claim.outcome for claim in transfer_claims(transfer_figures(readings, ITEMS))}


@pytest.mark.parametrize(
    ("patch", "random", "matched", "said"),
    [
        (0.3, 0.0, 0.1, ("holds", "holds", "holds")),
        (0.3, 0.3, 0.0, ("holds", "cannot be told", "holds")),
        (0.3, 0.0, 0.3, ("holds", "holds", "cannot be told")),
        (0.3, 0.0, 0.6, ("holds", "holds", "does not hold")),
        (0.3, 0.6, 0.0, ("holds", "does not hold", "holds")),
        (0.0, 0.0, -0.3, ("cannot be told", "cannot be told", "holds")),
        (0.0, -0.3, 0.0, ("cannot be told", "holds", "cannot be told")),
        (-0.3, 0.0, 0.0, ("does not hold", "does not hold", "does not hold")),
    ],
)
def test_each_claim_is_told_as_the_world_is(
    world: Callable[..., Readings], patch: float, random: float, matched: float, said: tuple[str, ...]
) -> None:
    readings = world({"patch": patch, "random": random, "content_matched": matched})
    assert outcomes(readings) == dict(zip((FELL, MORE, MATCHED), said, strict=True))


def test_figures_are_those_of_plain_means_and_intervals_over_prompts(
    world: Callable[..., Readings], by_prompt: Callable[..., Any]
) -> None:
    readings = world({"patch": 0.3, "random": 0.05, "content_matched": 0.1})
    figures = transfer_figures(readings, ITEMS)
    before = readings["before"][0]

    def fall(edit: str, source: str, item: str) -> float:
        return before[item] - readings[f"{edit} {source}"][0][item]

    for edit in EDITS:
        expected = [[np.mean([fall(edit, a, i) for i in ITEMS[b]]) for b in PLACES] for a in PLACES]
        assert np.allclose(figures["falls"][edit], expected)
        assert figures["costs"][edit] == pytest.approx([cost(edit, source) for source in PLACES])
    assert set(figures["elsewhere"]) == set(EDITS)
    assert set(figures["beyond"]) == set(EDITS) - {"patch"}
    pairs = [(a, item) for a in PLACES for b in PLACES if a != b for item in ITEMS[b]]
    prompts = [item for _, item in pairs]
    told = [(figures["elsewhere"][edit], [fall(edit, *pair) for pair in pairs]) for edit in EDITS]
    told += [
        (figures["beyond"][edit], [fall("patch", *pair) - fall(edit, *pair) for pair in pairs])
        for edit in ("random", "content_matched")
    ]
    for found, values in told:
        by_prompt(values, prompts).refuse(found["fall"], found["interval"])
        assert found["prompts"] == 90


def test_another_domain_that_reads_the_same_prompts_tells_nothing_new(spread: Callable[[int, int], Any]) -> None:
    """The same 90 falls, read under one domain's edits each, or under two that do the same."""
    falls = 0.3 + 0.3 * spread(90, 5)

    def elsewhere(places: int) -> Any:
        items = {f"p{k}": [f"{i}" for i in range(90) if i % places == k] for k in range(places)}
        before, after = {f"{i}": 1.0 for i in range(90)}, {f"{i}": 1.0 - fall for i, fall in enumerate(falls)}
        loss = {"k": 1.0}
        readings = {f"{edit} {place}": (after, loss) for edit in EDITS for place in items}
        return transfer_figures({"before": (before, loss), **readings}, items)["elsewhere"]["patch"]

    once, twice = elsewhere(2), elsewhere(3)
    width = once["interval"][1] - once["interval"][0]
    assert once["prompts"] == twice["prompts"] == 90
    assert twice["interval"] == pytest.approx(once["interval"], abs=0.05 * width)


def test_a_claim_shows_the_numbers_it_rests_on(world: Callable[..., Readings]) -> None:
    figures = transfer_figures(world({"patch": 0.3, "random": 0.05, "content_matched": 0.1}), ITEMS)
    for claim, found in zip(
        transfer_claims(figures), (figures["elsewhere"]["patch"], *figures["beyond"].values()), strict=True
    ):
        low, high = found["interval"]
        assert claim.detail == f"{found['fall']:+.3f} [{low:+.3f}, {high:+.3f}] nats per token"


def test_controls_are_other_weights_than_the_patch(tiny_subject: Callable[[str], Subject]) -> None:
    """As many in the same matrices and none of the patch; and the choice made with the answers exchanged."""
    subject = tiny_subject("llama")
    view = WeightView(subject.model)
    examples: dict[str, tuple[tuple[Example, ...], tuple[Example, ...]]] = {
        domain: (domain_examples(domain)[0][:5], ()) for domain in ("money", "health")
    }
    found = _selections(subject, view, examples, 4, False, Silent())

    def sums(answers: list[Example], side: str) -> Any:
        trees, _ = trees_of(subject, answers, lambda e: getattr(e, side))
        return unit_sums(subject, trees, "neuron+head", view=view)

    keep = sums(list(keep_examples()), "conversation")
    for domain, (attributed, _) in examples.items():
        harm, twin = sums(list(attributed), "conversation"), sums(list(attributed), "twin")
        for edit, score in (("patch", unit_score(harm, twin, keep)), ("content_matched", unit_score(twin, harm, keep))):
            expected = select_count(view, score, count=4, unit="neuron+head").members
            members = found[edit][domain].members
            assert {n: m.tolist() for n, m in members.items()} == {n: m.tolist() for n, m in expected.items()}
        patch, random = found["patch"][domain], found["random"][domain]
        assert {n: len(m) for n, m in random.members.items()} == {n: len(m) for n, m in patch.members.items()}
        assert not any(torch.isin(random.members[n], m).any() for n, m in patch.members.items())
        assert patch.units == random.units == 4


def test_a_held_out_item_is_a_prompt_of_its_own() -> None:
    """The study resamples items as prompts."""
    held = [example for domain in DOMAINS for example in domain_examples(domain)[1]]
    assert len({e.id for e in held}) == len({e.key for e in held}) == len(held)
