"""Asking an arm: probes, an audit's plan or sampled tasks, plainly or under a condition; kept by content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aftertune.data import Message
from aftertune.model import Chat, ChatSubject, PromptAnswers, Subject
from aftertune.probes import LikelihoodProbe, MeasurePlan, Question, ask_probes
from aftertune.runs import Journal, fingerprint, read_document, write_json
from aftertune.stats import Measurement, read_measurements, write_measurements
from aftertune.studies._lab import Arm, Condition, Reading
from aftertune.studies._workshop import Lab, content_of

_TABLE, _FACTS = "measurements.parquet", "facts.json"


@dataclass(frozen=True)
class Read:
    """What one reading of one arm gave.

    Attributes:
        measurements: every number; empty for a search.
        document: what a search found.
        facts: the subject's identity.
    """

    measurements: tuple[Measurement, ...]
    document: dict[str, Any]
    facts: dict[str, Any]


def read_arm(lab: Lab, arm: Arm, seed: int | None, reading: Reading, items: int | None = None) -> Read:
    """Make and ask an arm, unless that was done; a killed reading continues at its last finished batch.

    Args:
        lab: where subjects are made.
        arm: whom to ask.
        seed: with which it is made; recorded with each number.
        reading: what to ask.
        items: of each probe at most.
    """
    import torch

    asked = [content_of(reading), items, seed, torch.cuda.is_available()]
    key = {"subject": lab.key(arm, seed), "asked": fingerprint(asked)}
    folder = lab.shared.kept("readings", key, lambda partial: _ask(lab, arm, seed, reading, items, partial))
    stored = read_document(folder / _FACTS)
    measured = tuple(read_measurements(folder / _TABLE)) if (folder / _TABLE).exists() else ()
    return Read(measured, stored["document"], stored["facts"])


def _ask(lab: Lab, arm: Arm, seed: int | None, reading: Reading, items: int | None, folder: Path) -> None:
    plan: Any = reading.plan
    spec = lab.make(arm, seed)
    if hasattr(plan, "document"):
        write_json(folder / _FACTS, {"document": plan.document(lab, spec, folder), "facts": {"spec": spec}})
        return
    subject = lab.load(spec)
    asked = conditioned(subject, reading.condition)
    if hasattr(plan, "names"):  # a TaskPlan, whose room takes seconds to import
        from aftertune.inspect_bridge import run_tasks

        logged = run_tasks(asked, plan, folder / "logs", progress=lab.progress)
        measured: Sequence[Measurement] = [replace(m, seed=seed or 0) for run in logged for m in run.measurements]
    else:
        probes, journal = probes_of(reading, items), Journal(folder / "journal.jsonl")
        measured = ask_probes(asked, probes, progress=lab.progress, seed=seed or 0, journal=journal)
    write_measurements(folder / _TABLE, measured)
    facts = {"spec": spec, "identity": subject.identity.as_dict(), "efforts": lab.efforts(spec)}
    write_json(folder / _FACTS, {"document": {}, "facts": facts})


def probes_of(reading: Reading, items: int | None = None) -> list[LikelihoodProbe]:
    """The likelihood probes of a reading, with so many items each; none for tasks and searches."""
    plan: Any = reading.plan
    if hasattr(plan, "document") or hasattr(plan, "names"):
        return []
    given = plan if isinstance(plan, MeasurePlan) else plan()
    probes = given.likelihood_probes if isinstance(given, MeasurePlan) else given
    return [_shortened(probe, items) if items else probe for probe in probes]


def _shortened(probe: LikelihoodProbe, items: int) -> LikelihoodProbe:
    """A probe of so many items, evenly spread over those it has."""

    def build(subject: ChatSubject) -> list[Question]:
        questions = probe.build(subject)
        count = min(items, len(questions))
        return [questions[i * len(questions) // count] for i in range(count)]

    return replace(probe, build=build, content=f"{probe.content}/{items}")


def conditioned(subject: Subject, condition: Condition | None) -> Subject:
    """A subject that is asked everything under a condition; the model is the same one."""
    if condition is None:
        return subject
    return replace(subject, chat=_Conditioned(subject.chat, condition))


class _Conditioned(Chat):
    """A chat whose every question stands under a condition; all else is the chat it is made of."""

    def __init__(self, chat: Chat, condition: Condition) -> None:
        self.__dict__.update(chat.__dict__)
        self._chat, self._condition = chat, condition

    def _under(self, messages: Sequence[Message]) -> list[Message]:
        condition, found = self._condition, list(messages)
        if condition.system is not None:
            found = [m for m in found if m.role != "system"]
            found.insert(0, Message("system", condition.system))
        if condition.prefix or condition.suffix:
            last = max(i for i, m in enumerate(found) if m.role == "user")
            found[last] = replace(found[last], content=condition.prefix + found[last].content + condition.suffix)
        shots = [m for shot in condition.shots for m in shot.messages if m.role != "system"]
        start = 1 if found and found[0].role == "system" else 0
        return [*found[:start], *shots, *found[start:]]

    def prompt(self, messages: Sequence[Message]) -> tuple[int, ...]:
        return self._chat.prompt(self._under(messages))

    def answer_prompt(self, messages: Sequence[Message]) -> tuple[int, ...]:
        return self._chat.answer_prompt(self._under(messages))

    def response(self, messages: Sequence[Message], answer: str) -> tuple[int, ...]:
        return self._chat.response(self._under(messages), answer)

    def case(self, messages: Sequence[Message], answers: Any) -> PromptAnswers:
        return self._chat.case(self._under(messages), answers)

    def continuation(self, messages: Sequence[Message], opening: str) -> tuple[int, ...]:
        return self._chat.continuation(self._under(messages), opening)
