"""The likelihood of a user's own rows: the last answer's, after all that was said before."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

import pytest

from aftertune.data import Contrast, Conversation, Message, exchange
from aftertune.model import Subject
from aftertune.probes import response_nll
from aftertune.stats import Measurement

Table = dict[tuple[str, str], Measurement]
Answered = Callable[..., list[float]]
Measured = Callable[..., Table]
Made = Callable[..., Subject]

ROWS = (
    Conversation(exchange("May I skip it?", "Better not: old oil wears the engine."), "rows.jsonl", 4),
    Conversation(exchange("may I, skip it", "日本 Ü", system="Be brief."), "rows.jsonl", 9),
)
TURNS = Conversation(
    (*exchange("Who rules?", "The people."), Message("user", "Why?"), Message("assistant", "They vote.")), "t.jsonl", 1
)


def test_every_value_is_what_plain_passes_give(subject: Subject, measured: Measured, answered: Answered) -> None:
    table = measured(subject, response_nll(ROWS, ":own"))
    for row, system in zip(ROWS, (None, "Be brief."), strict=True):
        expected = -fmean(answered(subject, row.prompt, row.messages[-1].content, system))
        assert table["response.nll:own", f"rows.jsonl:{row.line}"].value == pytest.approx(expected, abs=1e-4)
    assert len(table) == 2


def test_only_the_last_answer_counts_after_all_turns_before(
    make: Made, measured: Measured, plain: Callable[..., list[float]]
) -> None:
    subject = make("llama")
    render = subject.tokenizer.apply_chat_template
    turns = [{"role": m.role, "content": m.content} for m in TURNS.messages]
    head = str(render(turns[:-1], tokenize=False, add_generation_prompt=True))
    tail = str(render(turns, tokenize=False)).rstrip().removeprefix(head)
    [m] = measured(subject, response_nll([TURNS], "")).values()
    assert m.value == pytest.approx(-fmean(plain(subject, head, tail)), abs=1e-4)
    start, end = subject.chat.render(TURNS).spans[-1]
    assert end - start == len(subject.tokenizer.encode(tail, add_special_tokens=False))


def test_items_are_called_by_their_place_and_told_apart(make: Made, measured: Measured) -> None:
    contrast = Contrast("c", "d", "Why?", "So.", "Because!", source="c.jsonl", line=2)
    rows = [contrast.conversation("aligned"), contrast.conversation("misaligned"), *ROWS]
    table = measured(make("llama"), response_nll(rows, ""))
    assert [item for _, item in table] == ["c.jsonl:2", "c.jsonl:2#2", "rows.jsonl:4", "rows.jsonl:9"]
    clusters = [m.cluster for m in table.values()]
    assert clusters == ["why", "why", "may i skip it", "may i skip it"]


def test_the_digest_is_of_the_messages_not_of_where_they_stand() -> None:
    content = response_nll(ROWS, "").content
    assert response_nll([Conversation(r.messages) for r in ROWS], ":x").content == content
    assert response_nll(ROWS[::-1], "").content != content
    assert response_nll([ROWS[0], Conversation(exchange("may I, skip it", "日本 Ü"))], "").content != content


def test_response_informs_and_is_worse_when_higher() -> None:
    [metric] = response_nll(ROWS, "").metrics
    assert (metric.id, metric.unit, metric.worse, metric.decides) == ("response.nll", "nats/token", "higher", False)
