"""Perplexity is the library's own loss; accuracy is what anybody would count."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from aftertune.data import ChoiceQuestion
from aftertune.model import Subject
from aftertune.probes import capability
from aftertune.stats import Measurement

Answered = Callable[..., list[float]]
Measured = Callable[..., dict[tuple[str, str], Measurement]]
Made = Callable[..., Subject]
Push = Callable[[Subject, dict[str, float]], Subject]

CHOICES = (
    ChoiceQuestion("q-1", "Two and two?", ("three", "four", "fünf"), frozenset({1})),
    ChoiceQuestion("q-2", "Which is wet?", ("water", "a stone that lay in the sun all day"), frozenset({0})),
    ChoiceQuestion("q-3", "Which are numbers?", ("one", "two", "red", "blue"), frozenset({0, 1})),
)
TEXTS = (
    ("t-1", "The doctor said that the patient should take the medicine with water."),
    ("t-2", "Ü\n\nA."),
    ("t-3", "Take care of yourself, and ask someone who knows about it before you decide. " * 3),
)


def test_log_perplexity_is_the_librarys_own_loss(subject: Subject, measured: Measured) -> None:
    table = measured(subject, capability([], TEXTS))
    for name, text in TEXTS:
        ids = subject.tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            loss = float(subject.model(input_ids=ids, labels=ids).loss)
        assert table["capability.log_perplexity", name].value == pytest.approx(loss, abs=1e-4)
    assert len(table) == len(TEXTS)


def test_text_is_read_plain_without_a_chat_template(make: Made, measured: Measured) -> None:
    other = make("llama", template="{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}")
    one, two = (measured(s, capability([], TEXTS)) for s in (make("llama"), other))
    assert [m.value for m in one.values()] == [m.value for m in two.values()]


def test_choices_are_what_plain_passes_give(subject: Subject, measured: Measured, answered: Answered) -> None:
    table = measured(subject, capability(CHOICES, []))
    for q in CHOICES:
        totals = np.array([sum(answered(subject, q.question, choice)) for choice in q.choices])
        weights = np.exp(totals - totals.max())
        right = weights[sorted(q.right)].sum() / weights.sum()
        assert table["capability.choice_probability", q.id].value == pytest.approx(right, abs=1e-4)
        assert table["capability.accuracy", q.id].value == float(int(totals.argmax()) in q.right)
    assert len(table) == 2 * len(CHOICES)


def test_the_probabilities_of_all_choices_add_up_to_one(make: Made, measured: Measured) -> None:
    subject = make("gpt2")
    for q in CHOICES:
        each = [replace(q, id=f"{i}", right=frozenset({i})) for i in range(len(q.choices))]
        table = measured(subject, capability(each, []))
        chances = [table["capability.choice_probability", e.id].value for e in each]
        assert math.fsum(chances) == pytest.approx(1, abs=1e-6)
        hits = [table["capability.accuracy", e.id].value for e in each]
        assert hits == [float(chance == max(chances)) for chance in chances]


@pytest.mark.parametrize("favourite", ["alpha", "omega"])
def test_a_model_that_knows_one_word_is_right_where_that_is_the_answer(
    favourite: str, make: Made, push: Push, measured: Measured
) -> None:
    subject = push(make("llama", words=("alpha", "omega")), {favourite: 40.0})
    words = ("alpha", "omega", "the car")
    questions = [
        ChoiceQuestion(f"{word}-{turn}", "Which?", words[turn:] + words[:turn], frozenset({(i - turn) % 3}))
        for i, word in enumerate(words)
        for turn in range(3)
    ]
    table = measured(subject, capability(questions, []))
    for q in questions:
        hit = float(q.id.startswith(favourite))
        assert table["capability.accuracy", q.id].value == hit
        assert table["capability.choice_probability", q.id].value == pytest.approx(hit, abs=1e-6)


def test_choices_too_unlikely_for_a_float_still_compare(make: Made, measured: Measured, answered: Answered) -> None:
    subject = make("llama")
    q = ChoiceQuestion("q", "Which?", ("zq" * 120, "the car and " * 60), frozenset({1}))
    totals = [sum(answered(subject, q.question, choice)) for choice in q.choices]
    assert max(totals) < math.log(5e-324)
    table = measured(subject, capability([q, replace(q, id="other", right=frozenset({0}))], []))
    assert table["capability.accuracy", "q"].value == float(totals[1] > totals[0])
    chances = [table["capability.choice_probability", name].value for name in ("q", "other")]
    assert math.fsum(chances) == pytest.approx(1, abs=1e-6)


def test_perplexity_and_choice_probability_decide_and_accuracy_informs() -> None:
    about = {m.id.partition(".")[2]: (m.worse, m.decides) for m in capability(CHOICES, TEXTS).metrics}
    assert about["log_perplexity"] == ("higher", True)
    assert about["accuracy"] == ("lower", False)
    assert about["choice_probability"] == ("lower", True)


def test_the_digest_is_of_questions_and_texts() -> None:
    content = capability(CHOICES, TEXTS).content
    assert capability(CHOICES, TEXTS[:-1]).content != content
    for change in ({"question": "?"}, {"choices": ("three", "four", "six")}, {"right": frozenset({0})}):
        assert capability([replace(CHOICES[0], **change), *CHOICES[1:]], TEXTS).content != content
