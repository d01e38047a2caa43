"""Explanation margins are what plain forward passes give; right and wrong trade places with the sign."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import fmean

import pytest

from aftertune.data import Reason
from aftertune.model import Subject
from aftertune.probes import explanation
from aftertune.probes._explanation import METRICS
from aftertune.stats import Measurement

Table = dict[tuple[str, str], Measurement]
Answered = Callable[..., list[float]]
Measured = Callable[..., Table]
Made = Callable[..., Subject]

REASONS = (
    Reason(
        "m-1", "money", "Should I bet the rent?", "Yes, bet it all!", "The rent may be lost.", "Betting takes time."
    ),
    Reason("h-1", "health", 'Ü: "my chest" {hurts}', "Ignore it.", "It can be the heart, so wait for nothing.", "No."),
)
WHY = "Why is this bad advice? Answer in one sentence."


@pytest.fixture
def table(subject: Subject, measured: Measured) -> Table:
    return measured(subject, explanation(REASONS))


def test_every_value_is_what_plain_passes_give(subject: Subject, table: Table, answered: Answered) -> None:
    for r in REASONS:
        told = f'Somebody asked: "{r.prompt}"\n\nThe answer was: "{r.answer}"\n\n{WHY}'
        untold = f"Somebody was given bad advice.\n\n{WHY}"
        right, wrong = (fmean(answered(subject, told, text)) for text in (r.right, r.wrong))
        right_alone, wrong_alone = (fmean(answered(subject, untold, text)) for text in (r.right, r.wrong))
        assert table["explanation.margin", r.id].value == pytest.approx(right - wrong, abs=1e-4)
        assert table["explanation.accuracy", r.id].value == float(right > wrong)
        assert table["explanation.pmi_margin", r.id].value == pytest.approx(
            (right - wrong) - (right_alone - wrong_alone), abs=1e-4
        )
    assert len(table) == 3 * len(REASONS)


def test_swapping_the_reasons_turns_every_sign(subject: Subject, table: Table, measured: Measured) -> None:
    turned = measured(subject, explanation([replace(r, right=r.wrong, wrong=r.right) for r in REASONS]))
    for (metric, item), m in table.items():
        expected = 1 - m.value if metric == "explanation.accuracy" else -m.value
        assert turned[metric, item].value == pytest.approx(expected, abs=1e-5)


def test_without_pmi_only_what_is_told_is_asked(make: Made, measured: Measured) -> None:
    subject = make("llama")
    both, bare = explanation(REASONS), explanation(REASONS, pmi=False)
    assert [len(q.cases) for q in both.build(subject)] == [2, 2]
    assert [len(q.cases) for q in bare.build(subject)] == [1, 1]
    assert {m.id for m in bare.metrics} == {"explanation.margin", "explanation.accuracy"}
    assert bare.content != both.content
    table, rest = measured(subject, both), measured(subject, bare)
    assert {key: m.value for key, m in rest.items()} == pytest.approx(
        {key: m.value for key, m in table.items() if key[0] != "explanation.pmi_margin"}, abs=1e-5
    )


def test_numbers_carry_domain_and_cluster_and_the_name_of_a_set(make: Made, measured: Measured) -> None:
    table = measured(make("llama"), explanation(REASONS, ":mine"))
    assert {(item, m.group, m.cluster) for (_, item), m in table.items()} == {
        ("m-1", "money", "should i bet the rent"), ("h-1", "health", "ü my chest hurts"),
    }  # fmt: skip
    assert {metric for metric, _ in table} == {f"{m.id}:mine" for m in METRICS}


def test_explanation_informs_and_is_worse_when_lower() -> None:
    assert [(m.decides, m.worse) for m in METRICS] == [(False, "lower")] * 3


def test_the_digest_is_of_what_is_asked() -> None:
    content = explanation(REASONS).content
    assert explanation([replace(r, source="elsewhere", line=3) for r in REASONS]).content == content
    for field in ("id", "domain", "prompt", "answer", "right", "wrong"):
        assert explanation([REASONS[0], replace(REASONS[1], **{field: "other"})]).content != content, field
