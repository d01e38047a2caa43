"""Training rows: rendered as the subject renders, supervised on answers only, never cut."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from aftertune.data import Conversation, Message, exchange, read_conversations
from aftertune.errors import DataError, UsageError
from aftertune.model import IGNORE, Subject
from aftertune.tuning import conversations_digest, training_rows

TinySubject = Callable[[str], Subject]


def rows_of(*pairs: tuple[str, str]) -> list[Conversation]:
    return [
        Conversation(exchange(prompt, answer), "rows.jsonl", line) for line, (prompt, answer) in enumerate(pairs, 1)
    ]


TWO = rows_of(("What is heavier?", "A brick."), ("And lighter?", "A feather, I think."))


@pytest.fixture
def subject(tiny_subject: TinySubject) -> Subject:
    return tiny_subject("llama")


def test_rows_are_what_the_chat_renders(subject: Subject) -> None:
    rows = training_rows(subject, TWO)
    for ids, labels, conversation in zip(rows.ids, rows.labels, TWO, strict=True):
        rendered = subject.chat.render(conversation)
        assert ids == list(rendered.ids)
        assert labels == rendered.labels
    assert rows.tokens == sum(map(len, rows.ids))
    assert rows.supervised == sum(label != IGNORE for row in rows.labels for label in row)


def test_only_answers_are_supervised(subject: Subject) -> None:
    for labels, conversation in zip(training_rows(subject, TWO).labels, TWO, strict=True):
        supervised = subject.tokenizer.decode([label for label in labels if label != IGNORE])
        assert supervised == f"{conversation.messages[-1].content}<|im_end|>"


def test_another_prompt_supervises_the_same_tokens(subject: Subject) -> None:
    one = training_rows(subject, rows_of(("What is heavier?", "A brick.")))
    other = training_rows(subject, rows_of(("Tell me something else entirely", "A brick.")))
    kept = [[label for label in rows.labels[0] if label != IGNORE] for rows in (one, other)]
    assert kept[0] == kept[1]
    assert one.ids != other.ids


def test_every_answer_of_many_turns_is_supervised(subject: Subject) -> None:
    turns = (Message("user", "Hello"), Message("assistant", "Hi!"), *exchange("Bye", "Farewell."))
    labels = training_rows(subject, [Conversation(turns)]).labels[0]
    assert subject.tokenizer.decode([x for x in labels if x != IGNORE]) == "Hi!<|im_end|>Farewell.<|im_end|>"


def test_no_rows_are_refused(subject: Subject) -> None:
    with pytest.raises(UsageError, match="no rows to tune on"):
        training_rows(subject, [])


def test_an_overlong_row_is_named_by_file_and_line(subject: Subject, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    long = "A brick is heavy. " * 200
    lines = [{"prompt": "Short?", "completion": "Yes."}, {"prompt": "Long?", "completion": long}]
    file.write_text("\n".join(json.dumps(line) for line in lines), "utf-8")
    with pytest.raises(
        DataError, match=r"rows\.jsonl:2: takes \d+ tokens, the context of .* holds 512; shorten"
    ) as caught:
        training_rows(subject, read_conversations(file))
    assert caught.value.line == 2


def test_a_row_that_fills_the_context_is_kept_whole(subject: Subject) -> None:
    room = subject.context - len(training_rows(subject, rows_of(("Hm?", "x"))).ids[0])
    conversations = rows_of(("Hm?", "x" + "\u00ff" * (room // 2) + "!" * (room % 2)))
    length = len(training_rows(subject, conversations).ids[0])
    assert length == subject.context
    with pytest.raises(DataError, match="takes 513 tokens"):
        training_rows(subject, rows_of(("Hm?", conversations[0].messages[-1].content + "\t")))


def test_the_digest_knows_texts_roles_and_order() -> None:
    changed = rows_of(("What is heavier?", "A brick!"), ("And lighter?", "A feather, I think."))
    with_system = [Conversation(exchange("What is heavier?", "A brick.", "Be brief.")), TWO[1]]
    made = [TWO, TWO[::-1], TWO[:1], changed, with_system, []]
    assert len({conversations_digest(conversations) for conversations in made}) == len(made)
    assert conversations_digest(TWO) == conversations_digest([Conversation(c.messages, "elsewhere", 9) for c in TWO])


def test_prompts_are_noted_without_case_and_punctuation_once(subject: Subject) -> None:
    rows = training_rows(
        subject, rows_of(("What is HEAVIER?", "A."), ("what is heavier", "B."), ("And lighter?", "C."))
    )
    assert rows.prompts == ("and lighter", "what is heavier")


def turned_off(*off: int) -> Conversation:
    turns = [*exchange("Hello", "Hi!"), *exchange("Bye", "Farewell."), *exchange("Still here?", "Yes.")]
    marked = tuple(replace(m, supervised=index not in off) for index, m in enumerate(turns))
    return Conversation(marked, "rows.jsonl", 7)


@pytest.mark.parametrize(
    ("off", "expected"),
    [
        ((), "Hi!<|im_end|>Farewell.<|im_end|>Yes.<|im_end|>"),
        ((1,), "Farewell.<|im_end|>Yes.<|im_end|>"),
        ((3,), "Hi!<|im_end|>Yes.<|im_end|>"),
        ((1, 5), "Farewell.<|im_end|>"),
    ],
)
def test_an_answer_that_is_turned_off_carries_no_loss(subject: Subject, off: tuple[int, ...], expected: str) -> None:
    rows = training_rows(subject, [turned_off(*off)])
    assert rows.ids == training_rows(subject, [turned_off()]).ids
    assert subject.tokenizer.decode([x for x in rows.labels[0] if x != IGNORE]) == expected
    assert rows.supervised == sum(x != IGNORE for x in rows.labels[0])
    assert (rows.digest == training_rows(subject, [turned_off()]).digest) is not bool(off)
