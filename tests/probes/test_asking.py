"""Asking probes of a subject in memory gives the numbers of a run, follows the weights, and can be resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aftertune.data import Contrast, Reason, Request
from aftertune.errors import UsageError
from aftertune.model import Subject
from aftertune.probes import MeasurePlan, ask_probes, explanation, measure_subject, preference, recognition
from aftertune.runs import Journal
from aftertune.stats import Measurement

Made = Callable[..., Subject]
Push = Callable[[Subject, dict[str, float]], Subject]

CONTRASTS = [Contrast(f"c-{n}", "d", f"Question {n}?", f"Good {n}.", f"Bad {n}! " * n) for n in range(1, 5)]
REASONS = [Reason(f"r-{n}", "d", f"Why {n}?", "So.", f"It is {n}.", f"It was {n}.") for n in range(3)]
HARMFUL, HARMLESS = (
    [Request(f"{side}-{n}", "misc", f"{side} {n}?", ".") for n in range(2)] for side in ("bad", "fine")
)
PROBES = [preference(CONTRASTS), recognition(CONTRASTS, HARMFUL, HARMLESS), explanation(REASONS)]


def values(measurements: tuple[Measurement, ...]) -> dict[tuple[str, str], float]:
    return {(m.metric, m.item): m.value for m in measurements}


def passes_of(subject: Subject) -> list[int]:
    assert subject.shares_prompts_within(500, 500) == subject.shares_prompts
    passes: list[int] = []
    subject.model.register_forward_hook(lambda *_: passes.append(1))
    return passes


@pytest.mark.parametrize("architecture", ["llama", "mamba"])
def test_the_numbers_are_those_of_a_run(
    architecture: str, make: Made, probing: Callable[..., MeasurePlan], tmp_path: Path
) -> None:
    asked = ask_probes(make(architecture), PROBES, seed=5)
    assert asked == measure_subject(make(architecture), probing(*PROBES), tmp_path, seed=5).measurements
    assert {m.seed for m in asked} == {5}
    assert ask_probes(make(architecture), []) == ()


def test_an_edit_of_the_weights_is_seen_at_once(make: Made, push: Push) -> None:
    subject = make("llama", words=("Good", "Bad"))
    before = values(ask_probes(subject, PROBES[:1]))
    push(subject, {"Bad": 4.0, "Good": -4.0})
    after = values(ask_probes(subject, PROBES[:1]))
    assert all(after["preference.margin", c.id] > before["preference.margin", c.id] + 0.1 for c in CONTRASTS)


def test_a_journal_serves_its_own_prefix_and_no_other(make: Made, tmp_path: Path) -> None:
    subject = make("llama")
    subject.max_batch_tokens = 300
    passes = passes_of(subject)
    path = tmp_path / "journal.jsonl"
    first = ask_probes(subject, PROBES, journal=Journal(path), prefix="before/")
    needed = len(passes)
    assert needed > 5
    assert all(key.startswith("before/") for key in Journal(path))
    assert ask_probes(subject, PROBES, journal=Journal(path), prefix="before/") == first
    assert len(passes) == needed
    assert ask_probes(subject, PROBES, journal=Journal(path), prefix="after/") == first
    assert len(passes) == 2 * needed


def test_an_interrupted_journal_goes_on(make: Made, tmp_path: Path) -> None:
    subject = make("llama")
    subject.max_batch_tokens = 300
    whole = ask_probes(subject, PROBES)
    journal, kept = Journal(tmp_path / "journal.jsonl"), 4

    def record(key: str, value: Any, once: Callable[[str, Any], None] = journal.record) -> None:
        if len(journal) == kept:
            raise KeyboardInterrupt
        once(key, value)

    journal.record = record  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        ask_probes(subject, PROBES, journal=journal)
    again = Journal(tmp_path / "journal.jsonl")
    assert len(again) == kept
    assert ask_probes(subject, PROBES, journal=again) == whole


def test_two_probes_of_one_name_are_refused_before_any_pass(make: Made) -> None:
    subject = make("llama")
    passes = passes_of(subject)
    with pytest.raises(UsageError, match="2 probes are called preference; give each a suffix of its own"):
        ask_probes(subject, [PROBES[0], PROBES[2], preference(CONTRASTS[:1])])
    assert passes == []
    assert len(ask_probes(subject, [PROBES[0], preference(CONTRASTS[:1], ":one")])) == 15


def test_an_item_that_does_not_fit_is_named_before_any_pass(make: Made) -> None:
    subject = make("gpt2")
    passes = passes_of(subject)
    long = Reason("r", "d", "Why?", "word " * 600, "So.", "Or so.", "mine.jsonl", 7)
    with pytest.raises(UsageError, match=r"^mine\.jsonl:7: takes \d+ tokens"):
        ask_probes(subject, [PROBES[0], explanation([long])])
    assert passes == []
