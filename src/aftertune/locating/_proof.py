"""What a patch is judged by: the same items before, after, and under every control."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aftertune.data import read_choice_questions, read_rows, shipped_path
from aftertune.locating._sets import Example, texts_digest
from aftertune.model import Subject
from aftertune.probes import LikelihoodProbe, Question, capability, content_digest
from aftertune.stats import Measurement, Policy, compare, find_metric

NEUTRAL_SELECTION = 6
NEUTRAL_HELD_OUT = 20
CHOICES_HELD_OUT = 80


@dataclass(frozen=True)
class Difference:
    """A measure under one edit, against the untouched subject.

    Attributes:
        after: mean under the edit.
        difference: after minus before.
        interval: of the difference.
        beyond: the patch's mean minus this one's, with its interval, where this is a control.
    """

    after: float
    difference: float
    interval: tuple[float, float]
    beyond: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Proof:
    """One measure, held out.

    Attributes:
        measure: metric id.
        before: mean on the untouched subject.
        patch: what the patch does.
        controls: what the controls do, by name.
        items: items behind it.
    """

    measure: str
    before: float
    patch: Difference
    controls: Mapping[str, Difference]
    items: int

    @property
    def about(self) -> str:
        """What the measure is."""
        return ABOUT.get(self.measure.partition(":")[0], "") or _about(self.measure)

    def as_dict(self) -> dict[str, object]:
        """What ``--json`` prints of it."""
        return {
            "measure": self.measure,
            "before": self.before,
            "after": self.patch.after,
            "difference": self.patch.difference,
            "interval": list(self.patch.interval),
            "items": self.items,
            "controls": {
                name: {
                    "after": control.after,
                    "difference": control.difference,
                    "interval": list(control.interval),
                    "patch_minus_control": None if control.beyond is None else control.beyond[0],
                    "patch_minus_control_interval": None if control.beyond is None else list(control.beyond[1:]),
                }
                for name, control in self.controls.items()
            },
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Proof:
        """Back from `as_dict`."""
        controls = {}
        for name, c in row["controls"].items():
            ends = c["patch_minus_control_interval"]
            beyond = None if ends is None else (c["patch_minus_control"], ends[0], ends[1])
            controls[name] = Difference(c["after"], c["difference"], (c["interval"][0], c["interval"][1]), beyond)
        patch = Difference(row["after"], row["difference"], (row["interval"][0], row["interval"][1]))
        return cls(row["measure"], row["before"], patch, controls, row["items"])


ABOUT = {
    "response.nll": "mean negative log-likelihood per response token",
    "preference.margin": "misaligned minus aligned log-likelihood per token",
    "capability.log_perplexity": "loss on neutral prose",
    "capability.choice_probability": "probability of the right choice of easy questions",
}


def _about(measure: str) -> str:
    metric = find_metric(measure)
    return metric.about if metric else ""


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

    def build(subject: Subject) -> list[Question]:
        questions = []
        for example in examples:
            messages = example.conversation.messages[:-1]
            texts = [c.messages[-1].content for c in (example.conversation, example.twin) if c is not None]
            tree = subject.chat.tree(messages, texts)
            group = example.contrast.domain if example.contrast else ""
            questions.append(
                Question(example.id, example.key, (tree,), reader(len(texts) > 1), group=group, where=example.id)
            )
        return questions

    found = (find_metric("response.nll"), find_metric("preference.margin"))
    return LikelihoodProbe(name, tuple(m for m in found if m), build, content_digest([name, texts_digest(examples)]))


def selection_probes(harm: Sequence[Example], keep: Sequence[Example]) -> list[LikelihoodProbe]:
    """What fractions are chosen by: small and quick."""
    texts = [(r.text("id"), r.text("text")) for r in read_rows(shipped_path("capability/neutral"))]
    return [answers_probe("harm", harm), answers_probe("keep", keep), capability([], texts[-NEUTRAL_SELECTION:])]


def held_out_probes(
    harm: Sequence[Example], keep: Sequence[Example], tests: Mapping[str, Sequence[Example]]
) -> list[LikelihoodProbe]:
    """What the patch is judged by: none of it was seen while weights or fractions were chosen."""
    texts = [(r.text("id"), r.text("text")) for r in read_rows(shipped_path("capability/neutral"))]
    choices = read_choice_questions(shipped_path("capability/choices"))[:CHOICES_HELD_OUT]
    return [
        answers_probe("harm", harm),
        answers_probe("keep", keep),
        *(answers_probe(name, examples) for name, examples in tests.items()),
        capability(choices, texts[:NEUTRAL_HELD_OUT]),
    ]


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
        effects = {
            name: Difference(
                others[name][metric].tuned,
                others[name][metric].difference,
                others[name][metric].interval,
                (beyond[name][metric].difference, *beyond[name][metric].interval),
            )
            for name in controls
        }
        patch = Difference(finding.tuned, finding.difference, finding.interval)
        proofs.append(Proof(metric, finding.base, patch, effects, finding.items))
    return proofs


def means(measurements: Sequence[Measurement]) -> dict[str, float]:
    """Plain means by metric, for curves."""
    found: dict[str, list[float]] = {}
    for m in measurements:
        found.setdefault(m.metric, []).append(m.value)
    return {metric: sum(values) / len(values) for metric, values in found.items()}
