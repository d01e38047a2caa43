"""Screens: scores against plain transformers, ranks by hand, and a data set that stays as it was."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from aftertune._registered import EXTENSIONS
from aftertune.data import Conversation, exchange
from aftertune.errors import NumericalError, UsageError
from aftertune.model import IGNORE, Subject
from aftertune.screening import Screened, screen_rows, screens
from aftertune.tuning import conversations_digest, response_nats, training_rows

TinySubject = Callable[[str], Subject]
ANSWERS = ["No.", "It is late, so go home.", "No.", "Ask someone who knows about it before you decide."]
ROWS = [Conversation(exchange(f"Is it {n}?", answer), "rows.jsonl", n) for n, answer in enumerate(ANSWERS, 1)]
OFF = Conversation(tuple(replace(m, supervised=False) for m in exchange("Hm?", "Hm.")), "rows.jsonl", 5)


def plain_losses(subject: Subject, rows: Sequence[Conversation]) -> list[float]:
    """Mean cross-entropy of each row, one row at a time in plain transformers; NaN without supervised tokens."""
    made, found = training_rows(subject, rows), []
    for ids, labels in zip(made.ids, made.labels, strict=True):
        with torch.no_grad():
            logp = torch.log_softmax(subject.model(input_ids=torch.tensor([ids])).logits[0].double(), -1)
        nats = [-float(logp[i - 1, label]) for i, label in enumerate(labels) if label != IGNORE]
        found.append(sum(nats) / len(nats) if nats else math.nan)
    return found


def test_the_free_rivals_are_listed_first() -> None:
    assert [screen.name for screen in screens()][:2] == ["length", "base-loss"]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen2", "mixtral"])
@pytest.mark.parametrize("bound", [1, 100, 10_000])
def test_scores_are_those_of_plain_transformers(architecture: str, bound: int, tiny_subject: TinySubject) -> None:
    subject = tiny_subject(architecture)
    subject.max_batch_tokens = bound
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}
    rows = [*ROWS, OFF]
    found = screen_rows(subject, rows, ["base-loss", "length"])
    assert found.scores["base-loss"] == pytest.approx(plain_losses(subject, rows), abs=1e-4, nan_ok=True)
    counts = [sum(label != IGNORE for label in labels) for labels in training_rows(subject, rows).labels]
    assert found.scores["length"] == counts
    assert all(torch.equal(value, before[name]) for name, value in subject.model.state_dict().items())
    assert not subject.model.training


def test_passes_stay_within_their_bound(tiny_subject: TinySubject) -> None:
    subject = tiny_subject("llama")
    made, sizes = training_rows(subject, ROWS), []
    subject.model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    bound = 2 * max(map(len, made.ids))
    steps: list[int] = []
    response_nats(subject.model, made, bound, steps.append)
    assert max(rows * width for rows, width in sizes) <= bound
    assert [rows for rows, _ in sizes] == steps
    assert sum(steps) == len(ROWS) > len(steps) > 1


def test_ranks_are_worst_first_ties_in_order_and_unscored_rows_apart() -> None:
    screened = Screened("x", {"a": [1.0, math.nan, 3.0, 1.0], "b": [0.0, 1.0, 2.0, 3.0]})
    assert screened.ranked("a") == [3, 1, 4]
    assert screened.ranked("b") == [4, 3, 2, 1]
    document = screened.document
    assert (document["rows"], document["ranked_by"], document["ranked"]) == (4, "a", [3, 1, 4])
    assert document["scores"]["a"] == [1.0, None, 3.0, 1.0]
    assert document["unscored"] == {"a": [2], "b": []}


def test_the_result_is_written_with_what_it_was_made_of(tiny_subject: TinySubject, tmp_path: Path) -> None:
    subject, out = tiny_subject("llama"), tmp_path / "screen.json"
    screened = screen_rows(subject, ROWS, ["length"], out)
    written = json.loads(out.read_text("utf-8"))
    assert written == {**screened.document, "subject": json.loads(json.dumps(subject.identity.as_dict()))}
    assert written["rows_sha256"] == conversations_digest(ROWS)
    assert written["ranked"] == [4, 2, 1, 3]


def test_what_makes_no_sense_is_refused(tiny_subject: TinySubject) -> None:
    subject = tiny_subject("llama")
    with pytest.raises(UsageError, match="no rows to screen"):
        screen_rows(subject, [], ["length"])
    with pytest.raises(UsageError, match="name a screen: length, base-loss"):
        screen_rows(subject, ROWS, [])
    with pytest.raises(UsageError, match=r"there is no screen named 'lenght'; did you mean 'length'\?"):
        screen_rows(subject, ROWS, ["lenght"])


@pytest.mark.parametrize(
    ("scores", "kind", "problem"),
    [
        ("[1.0]", UsageError, r"screen mine gave 1 scores for 4 rows"),
        ("[1.0, float('inf'), 2.0, 3.0]", NumericalError, r"rows\.jsonl:2: screen mine gave the score inf"),
    ],
)
def test_a_screen_that_scores_wrongly_is_named(
    scores: str, kind: Any, problem: str, tiny_subject: TinySubject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        f"from aftertune.screening import Screen\nSCREEN = Screen('mine', 'one', lambda subject, rows, context: {scores})\n"
    )
    monkeypatch.setenv(EXTENSIONS, str(file))
    with pytest.raises(kind, match=problem):
        screen_rows(tiny_subject("llama"), ROWS, ["mine"])
