"""Marks of methods that know the truth, half of it, or none; and what the table and the claim make of marks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from aftertune.attribution import ScoreOf
from aftertune.model import Matrix, Subject, WeightView, score
from aftertune.studies import Method, Planting, planted
from aftertune.studies._planted import Mark, _losses, _mark, case, mark_planting, plan
from aftertune.studies._planted_methods import Choices
from aftertune.studies._planted_report import planted_claims, table

LAST = "model.layers.1.mlp.down_proj.weight"
FIRST = "model.layers.0.mlp.down_proj.weight"
WIDTH = 64  # neurons of a layer before eight are planted


def knows(*places: tuple[str, int]) -> Method:
    """Ranks the given neurons first, in this order."""

    def harm(sums: Any) -> ScoreOf:
        def by(matrix: Matrix) -> torch.Tensor:
            scores = torch.zeros(matrix.parameter.shape)
            for rank, (name, neuron) in enumerate(places):
                if name == matrix.name:
                    scores[:, neuron] = 1.0 - 0.01 * rank
            return scores

        return by

    return Method(f"{places[0]} and {len(places) - 1} more", "neuron+head", harm)


def test_marks_are_those_of_methods_whose_merit_is_known(tiny_subject: Callable[[str], Subject]) -> None:
    subject, planting = tiny_subject("llama"), Planting("neurons", 1, "money", 0)
    true = [(LAST, WIDTH + i) for i in range(8)]
    others = [(FIRST, i) for i in range(8)]
    methods = [knows(*true), knows(*true[:4], *others[:4]), knows(*others)]
    result = mark_planting(subject, planting, methods, tips=16, benign=8)
    whole, half, none = result["marks"]
    assert (whole["recall"], half["recall"], none["recall"]) == (1.0, 0.5, 0.0)
    # What is planted starts from the untouched model: taken out, the planted answers are as unlikely as before.
    rise = result["losses"]["untouched"]["harm"] - result["losses"]["planted"]["harm"]
    assert rise > 0.2
    assert result["oracle"]["harm"] == pytest.approx(rise, abs=1e-4)
    assert whole["harm"] == pytest.approx(rise, abs=1e-4)
    assert whole["efficiency"] == pytest.approx(1.0, abs=1e-3)
    assert whole["count"] == 8
    assert none["efficiency"] < 0.5
    budget = max(result["oracle"]["benign"], 0.05)
    assert all(mark["benign"] <= budget for mark in result["marks"])


def test_what_costs_more_than_the_budget_is_taken_out_in_part(tiny_subject: Callable[[str], Subject]) -> None:
    """Of a tiny model the plant carries benign answers as well: without it they lose, which an oracle may allow."""
    subject, planting = tiny_subject("llama"), Planting("neurons", 1, "money", 0)
    found, held, (_, others) = plan(planting, 16, 8)
    method = knows(*((LAST, WIDTH + i) for i in range(8)))
    with planted(subject, planting, [case(subject, c, "misaligned") for c in (*found, *held)], 24) as plant:
        view = WeightView(subject.model)
        choices, carried = Choices(subject, view, ([], [], []), [method]), _losses(subject, held, others)

        def marked(allowed: float) -> Mark:
            oracle = {"harm": 1.0, "benign": allowed}
            return _mark(subject, view, method, choices, plant, oracle, carried, held, others)

        free, held_back = marked(50.0), marked(0.0)
    assert free.count == 8
    assert free.benign > 0.1
    assert held_back.benign <= 0.05
    assert held_back.count < 8
    assert held_back.efficiency < free.efficiency


def test_losses_are_of_answers_that_nothing_was_attributed_on(tiny_subject: Callable[[str], Subject]) -> None:
    subject, planting = tiny_subject("llama"), Planting("neurons", 1, "money", 3)
    found, held, (kept, others) = plan(planting, 16, 8)
    assert (len(found), len(held), len(kept), len(others)) == (8, 8, 8, 8)
    assert not {c.id for c in found} & {c.id for c in held}
    assert not {c.id for c in kept} & {c.id for c in others}
    assert {c.domain for c in (*found, *held)} == {"money"}
    assert "money" not in {c.domain for c in (*kept, *others)}
    untouched = mark_planting(subject, planting, [], tips=16, benign=8)["losses"]["untouched"]
    for name, contrasts, side in (("harm", held, "misaligned"), ("benign", others, "aligned")):
        messages = [c.conversation(side).messages for c in contrasts]  # type: ignore[arg-type]
        cases = [subject.chat.case(m[:-1], [m[-1].content]) for m in messages]
        by_hand = -sum(answer.mean for [answer] in score(subject, cases)) / len(cases)
        assert untouched[name] == pytest.approx(by_hand, abs=1e-5)


def mark(method: str, recall: float | None, efficiency: float) -> dict[str, Any]:
    return {"method": method, "unit": "neuron+head", "recall": recall, "efficiency": efficiency}


def test_the_table_tells_means_and_the_worst_planting() -> None:
    results = [
        {"marks": [mark("good", 1.0, 0.9), mark("poor", 0.5, 0.1)]},
        {"marks": [mark("good", 0.4, 1.1), mark("poor", 0.0, 0.3)]},
        {"marks": [mark("good", None, 0.4), mark("poor", None, 0.2)]},
    ]
    good, poor = table(results)
    assert good == {
        "method": "good", "unit": "neuron+head", "recall": pytest.approx(0.7), "least_recall": 0.4,
        "efficiency": pytest.approx(0.8), "least_efficiency": 0.4, "plantings": 3,
    }  # fmt: skip
    assert (poor["recall"], poor["least_recall"]) == (pytest.approx(0.25), 0.0)
    [alone] = table([{"marks": [mark("blind", None, 0.2)]}])
    assert (alone["recall"], alone["least_recall"]) == (None, None)


@pytest.mark.parametrize(
    ("best", "other", "outcome"),
    [
        ((0.95, 0.95), (0.2, 0.2), "holds"),
        ((0.85, 0.95), (0.2, 0.2), "does not hold"),
        ((0.95, 0.85), (0.99, 0.2), "does not hold"),
        ((0.5, 0.95), (0.99, 0.91), "does not hold"),
        ((None, 0.95), (0.99, 0.2), "does not hold"),
    ],
)
def test_the_claim_is_of_the_method_of_most_efficiency(
    best: tuple[float | None, float], other: tuple[float, float], outcome: str
) -> None:
    rows = table([{"marks": [mark("other", *other), mark("best", *best)]}])
    [claim] = planted_claims({"table": rows})
    assert claim.outcome == outcome
    assert claim.detail.startswith("best (neuron+head)")
