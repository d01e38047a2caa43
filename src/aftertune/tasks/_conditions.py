"""Questions asked under several conditions: a system prompt each, or words of the user's before the question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from inspect_ai import Task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import Scorer

from aftertune.errors import UsageError
from aftertune.tasks._asked import digest
from aftertune.tasks._questions import Form, Question
from aftertune.tasks._sampled_task import sampled_task
from aftertune.tasks._turns import turns

PAPER = "https://arxiv.org/abs/2502.17424"
ALL = "all"


class Item(NamedTuple):
    """One question under one condition.

    Attributes:
        id: unique in its set.
        cluster: shared by one question under all conditions.
        condition: its name.
        wording: the question, as a judge reads it.
        before: what the user says before it, a space at its end.
        system: the system prompt, if any.
        truth: what is known of the right answer.
        form: the form of answer asked for.
    """

    id: str
    cluster: str
    condition: str
    wording: str
    before: str = ""
    system: str | None = None
    truth: str = ""
    form: Form = "text"

    def sample(self) -> Sample:
        """As Inspect asks it; tables by category are by condition."""
        return Sample(
            id=self.id,
            input=turns(self.before + self.wording, self.system),
            metadata={
                "question": self.cluster,
                "cluster": self.cluster,
                "category": self.condition,
                "wording": self.wording,
                "form": self.form,
                **({"truth": self.truth} if self.truth else {}),
            },
        )


def of_published(questions: Sequence[Question], truth: str = "") -> list[Item]:
    """Questions in the published form, where every entry is a condition; wordings of the same rank take turns.

    Args:
        questions: of a YAML file: ids are conditions, paraphrases what is asked.
        truth: what is known of the right answer to each.
    """
    first: dict[str, str] = {}
    longest = max(len(question.paraphrases) for question in questions)
    return [
        Item(
            id=f"{question.id}.{number}",
            cluster=first.setdefault(wording, f"question-{len(first) + 1}"),
            condition=question.id,
            wording=wording,
            system=question.system,
            truth=truth,
            form=question.form,
        )
        for number in range(1, longest + 1)
        for question in questions
        for wording in question.paraphrases[number - 1 : number]
    ]


def under(items: Sequence[Item], conditions: Sequence[str]) -> list[Item]:
    """Items under some conditions; under every one where "all" is among the names.

    Raises:
        UsageError: an unknown condition, or none.
    """
    known = list(dict.fromkeys(item.condition for item in items))
    wanted = known if ALL in conditions else conditions
    for name in wanted:
        if name not in known:
            raise UsageError(f"condition {name!r} is unknown; there are {ALL}, {', '.join(known)}")
    if not wanted:
        raise UsageError(f"conditions names none; there are {ALL}, {', '.join(known)}")
    return [item for item in items if item.condition in wanted]


def conditions_task(
    name: str,
    source: str,
    items: Sequence[Item],
    scorer: Scorer,
    *,
    samples: int,
    max_tokens: int,
    temperature: float,
    seed: int,
) -> Task:
    """Ask the items and have every answer called true or false by a judge (Betley et al. 2025).

    Args:
        name: of the task.
        source: where its questions come from.
        items: what is asked.
        scorer: gives ``false``.
        samples: answers to each.
        max_tokens: per answer.
        temperature: of the subject.
        seed: of sampling.

    Raises:
        UsageError: fewer samples than one.
    """
    if samples < 1:
        raise UsageError("samples is at least 1")
    rows = [item.sample() for item in items]
    return sampled_task(
        f"{name}/{source}",
        rows,
        scorer,
        judged=True,
        samples=samples,
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
        headline="false",
        metadata={"paper": PAPER, "questions": source, "asked_sha256": digest(rows)},
    )
