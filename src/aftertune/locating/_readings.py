"""What an edit is measured by: the same items before, after and under every control; and its record in a journal."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aftertune.data import read_choice_questions, read_rows, shipped_path
from aftertune.errors import OutputError
from aftertune.locating._results import Control, Proof
from aftertune.locating._sets import Example, texts_digest
from aftertune.model import ChatSubject, Subject
from aftertune.probes import LikelihoodProbe, Question, ask_probes, capability, content_digest
from aftertune.runs import Journal, RunFolder, explain_storage, fingerprint
from aftertune.stats import Measurement, Policy, compare, find_metric, measurement_fields

NEUTRAL_SELECTION = 6
NEUTRAL_HELD_OUT = 20
CHOICES_HELD_OUT = 80


class Readings:
    """Measurements of models under edits, kept in a journal by content: a killed run measures nothing twice.

    Args:
        file: the journal; its folder must exist.
    """

    def __init__(self, file: Path) -> None:
        self.journal = Journal(file)

    def under(
        self,
        subject: Subject,
        probes: Sequence[LikelihoodProbe],
        edit: Mapping[str, Any],
        block: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    ) -> tuple[Measurement, ...]:
        """Everything the probes ask, with an edit in force; the weights are as before afterwards.

        Args:
            subject: a model as it was loaded.
            probes: what to ask.
            edit: what the edit is made of, as JSON values; together with the model and the probes it must decide the
                numbers.
            block: makes the edit for a ``with`` block; only called where the journal does not know the numbers.
        """
        key = self.key(subject, probes, edit)
        if key not in self.journal:
            with block():
                measured = ask_probes(subject, probes)
            self.journal.record(key, [measurement_fields(m) for m in measured])
        return tuple(Measurement(**fields) for fields in self.journal[key])

    def key(self, subject: Subject, probes: Sequence[LikelihoodProbe], edit: Mapping[str, Any]) -> str:
        """By which the journal knows a measurement."""
        return fingerprint({"subject": subject.content, "edit": edit, "probes": [p.content for p in probes]})


def answers_probe(name: str, examples: Sequence[Example]) -> LikelihoodProbe:
    """Losses of the answers (and twins) of examples, and the preference between the two.

    Metrics: ``response.nll:NAME``, and with twins ``response.nll:NAME-twin`` and ``preference.margin:NAME``.
    """

    def reader(twin: bool) -> Callable[..., Mapping[str, float]]:
        def read(likelihoods: Sequence[Sequence[object]]) -> Mapping[str, float]:
            answers = [-one.mean for one in likelihoods[0]]  # type: ignore[attr-defined]
            values = {f"response.nll:{name}": answers[0]}
            if twin:
                values[f"response.nll:{name}-twin"] = answers[1]
                values[f"preference.margin:{name}"] = answers[1] - answers[0]
            return values

        return read

    def build(subject: ChatSubject) -> list[Question]:
        questions = []
        for example in examples:
            messages = example.conversation.messages[:-1]
            texts = [c.messages[-1].content for c in (example.conversation, example.twin) if c is not None]
            case = subject.chat.case(messages, texts)
            group = example.contrast.domain if example.contrast else ""
            questions.append(
                Question(example.id, example.key, (case,), reader(len(texts) > 1), group=group, where=example.id)
            )
        return questions

    found = (find_metric("response.nll"), find_metric("preference.margin"))
    return LikelihoodProbe(name, tuple(m for m in found if m), build, content_digest([name, texts_digest(examples)]))


def selection_probes(harm: Sequence[Example], keep: Sequence[Example]) -> list[LikelihoodProbe]:
    """What fractions are chosen by: small and quick."""
    return [answers_probe("harm", harm), answers_probe("keep", keep), capability([], _neutral()[-NEUTRAL_SELECTION:])]


def held_out_probes(
    harm: Sequence[Example], keep: Sequence[Example], tests: Mapping[str, Sequence[Example]]
) -> list[LikelihoodProbe]:
    """What the patch is judged by: none of it was seen while weights or fractions were chosen."""
    choices = read_choice_questions(shipped_path("capability/choices"))[:CHOICES_HELD_OUT]
    return [
        answers_probe("harm", harm),
        answers_probe("keep", keep),
        *(answers_probe(name, examples) for name, examples in tests.items()),
        capability(choices, _neutral()[:NEUTRAL_HELD_OUT]),
    ]


def _neutral() -> list[tuple[str, str]]:
    return [(row.text("id"), row.text("text")) for row in read_rows(shipped_path("capability/neutral"))]


def prove(
    before: Sequence[Measurement], after: Sequence[Measurement], controls: Mapping[str, Sequence[Measurement]]
) -> list[Proof]:
    """Every measure before, after and under each control, paired by item, prompts resampled together."""
    policy = Policy()
    patched = {f.metric: f for f in compare(before, after, policy) if "/" not in f.metric}
    others = {name: {f.metric: f for f in compare(before, rows, policy)} for name, rows in controls.items()}
    beyond = {name: {f.metric: f for f in compare(rows, after, policy)} for name, rows in controls.items()}
    proofs = []
    for metric, finding in patched.items():
        effects = {}
        for name in controls:
            alone, less = others[name][metric], beyond[name][metric]
            effects[name] = Control(alone.tuned, alone.difference, alone.interval, less.difference, less.interval)
        proofs.append(
            Proof(metric, finding.base, finding.tuned, finding.difference, finding.interval, finding.items, effects)
        )
    return proofs


def means(measurements: Sequence[Measurement]) -> dict[str, float]:
    """Plain means by metric, for curves."""
    found: dict[str, list[float]] = {}
    for m in measurements:
        found.setdefault(m.metric, []).append(m.value)
    return {metric: sum(values) / len(values) for metric, values in found.items()}


def is_made(target: Path, run: RunFolder, document: str) -> bool:
    """Whether this run has written its patch already; what is wrong with the file's path is known before any work.

    Args:
        target: the patch file.
        run: the run, perhaps not begun.
        document: what the run writes into its folder before the patch.

    Raises:
        OutputError: another patch is there, or the file cannot be written.
    """
    with explain_storage(target):
        taken = target.exists() or target.is_symlink()
        if not taken and target.parent != run.path:
            with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}."):  # named as when written
                pass
    if taken and not (run.path / document).exists():
        raise OutputError(f"{target}: exists; patches are never overwritten, choose another --out")
    return taken
