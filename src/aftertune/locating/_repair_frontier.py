"""Every way to undo a part of an update, measured by cross-fitting: no prompt is asked that chose what it is asked of.

Prompts that are not held out are parted into two folds. What returns to the base is chosen from the gradients of one
fold and measured on the other, and the reverse; a way's point on the frontier is made of both. So all of these
prompts decide, and the final choice has the gradients of all.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from aftertune.attribution import GradientSums, Selection, gradient_sums, random_control
from aftertune.errors import SelectionError
from aftertune.locating._claims import with_interval
from aftertune.locating._proof import answers_probe, means
from aftertune.locating._repair_rows import RowEffects, choose_rows, flat_index, random_rows, returned, row_effects
from aftertune.locating._repair_scores import nested_selections, weight_scores
from aftertune.locating._repair_ways import WAYS, Gradients
from aftertune.locating._sets import CalibrationSet, Example, trees_of
from aftertune.locating._update import scaled
from aftertune.model import Patch, Subject, WeightView, make_patch
from aftertune.probes import LikelihoodProbe, ask_probes
from aftertune.runs import Journal, Progress, RunFolder
from aftertune.stats import Measurement, Policy, compare, measurement_fields

if TYPE_CHECKING:
    import torch

SCALED = (0.25, 0.5, 0.75)
SKILL_KEPT = 0.9
MARGIN = "preference.margin:harm"


@dataclass(frozen=True)
class FrontierPoint:
    """One way to undo a part of the update.

    Attributes:
        label: one of `WAYS`, "random" (as many rows restored by chance), "scale" (the whole update scaled down),
            "rollback" (all of it restored).
        share: of the weights in view that were changed; for "scale", the share of the update taken off.
        safety: share of the harm margin's rise undone; 1 is the base's margin.
        skill: share of the task's loss drop that stayed; 1 is the tuned model's loss.
        keep: rise of the keep loss against the tuned model, nats per token.
        difference: of the harm margin to the base's, nats per token.
        interval: of that difference, 95 %.
        decision: what an audit would say of it.
    """

    label: str
    share: float
    safety: float
    skill: float
    keep: float
    difference: float
    interval: tuple[float, float]
    decision: str

    def cells(self) -> tuple[str, ...]:
        """All but the label, as tables show it: share, margin, decision, safety, skill, keep."""
        margin = with_interval(self.difference, self.interval)
        return f"{self.share:g}", margin, self.decision, f"{self.safety:.2f}", f"{self.skill:.2f}", f"{self.keep:+.3f}"


def folds(examples: Sequence[Example]) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Two halves that share no prompt; prompts take turns in the order given, so files and domains are in both."""
    keys = {key: number for number, key in enumerate(dict.fromkeys(e.key for e in examples))}
    first, second = (tuple(e for e in examples if keys[e.key] % 2 == half) for half in (0, 1))
    return first, second


def _searched(one: CalibrationSet) -> tuple[Example, ...]:
    return (*one.examples["attribution"], *one.examples["selection"])


class Frontier:
    """The two folds, and what was measured of them.

    Args:
        run: whose folder keeps measurements and the effects of rows.
        sets: harm, task, keep.
        progress: told what goes on.
        store: device of the accumulators.
        seed: of random controls.
    """

    def __init__(
        self, run: RunFolder, sets: tuple[CalibrationSet, CalibrationSet, CalibrationSet], progress: Progress,
        store: torch.device | str | None, seed: int,
    ) -> None:  # fmt: skip
        self.run, self.progress, self.store, self.seed = run, progress, store, seed
        self.journal = Journal(run.path / "evaluations.jsonl")
        self.harm, self.task, keep = (folds(_searched(one)) for one in sets)
        self.probes = [
            [answers_probe("harm", self.harm[i]), answers_probe("task", self.task[i]), answers_probe("keep", keep[i])]
            for i in (0, 1)
        ]
        self.points: list[FrontierPoint] = []

    def measure(self, subject: Subject, probes: Sequence[LikelihoodProbe], name: str) -> tuple[Measurement, ...]:
        """Ask in the state the subject is in; ``name`` tells the state."""
        if name not in self.journal:
            self.journal.record(name, [measurement_fields(m) for m in ask_probes(subject, probes)])
        return tuple(Measurement(**fields) for fields in self.journal[name])

    def whole(self, subject: Subject, name: str) -> tuple[Measurement, ...]:
        """Both folds, in a state that no fold has chosen."""
        return tuple(m for i in (0, 1) for m in self.measure(subject, self.probes[i], f"{name}, fold {i}"))

    def draw(
        self, subject: Subject, view: WeightView, values: Mapping[str, torch.Tensor], base: Sequence[Measurement],
        tuned: Sequence[Measurement], share: float | None,
    ) -> Fit:  # fmt: skip
        """Measure every way; the model is as before afterwards, and `points` hold the frontier.

        Args:
            subject: the tuned model.
            view: its matrices.
            values: the base's, by matrix name.
            base: what `whole` gave on the base.
            tuned: likewise on the tuned model.
            share: the only share to restore; those of `WAYS` if None.

        Returns:
            What both folds together choose.
        """
        shares = {label: way.shares if share is None else () if way.rival else (share,) for label, way in WAYS.items()}
        kinds = sum(map(len, shares.values())) + len(shares["ratio by row"])
        found: dict[tuple[str, float], list[Measurement]] = {}
        effects = []
        for i in (0, 1):
            fit = self._fit(subject, view, values, (1 - i,), shares)
            with self.progress.task(f"frontier, fold {i + 1} of 2", kinds) as step:
                for label, at, edit in fit.edits(self.seed):
                    name = f"{label} {at:g}, fold {i}"
                    if name not in self.journal:
                        with edit:
                            self.measure(subject, self.probes[i], name)
                    found.setdefault((label, at), []).extend(self.measure(subject, self.probes[i], name))
                    step(1, label)
            effects.append(fit.effects)
            del fit  # and its gradients, before the other fold takes its own
        with self.progress.task("the update scaled down", len(SCALED) + 1) as step:
            for at in (*SCALED, 1.0):
                with scaled(view, values, at):
                    found["rollback" if at == 1 else "scale", at] = list(self.whole(subject, f"scale {at:g}"))
                step(1)
        self.points = [_point(label, at, base, tuned, now) for (label, at), now in found.items()
                       if len(now) == len(base)]  # fmt: skip
        both = self._fit(subject, view, values, (0, 1), shares)
        both.effects = effects[0] + effects[1]
        return both

    def _fit(
        self, subject: Subject, view: WeightView, values: Mapping[str, torch.Tensor], which: Sequence[int],
        shares: Mapping[str, Sequence[float]],
    ) -> Fit:  # fmt: skip
        harm, task = ([e for i in which for e in one[i]] for one in (self.harm, self.task))
        fit = Fit(subject, view, values, harm, task, shares, self.store, self.progress)
        if len(which) == 1:
            stored = self.run.path / f"effects-{which[0]}.safetensors"
            if not stored.exists():
                row_effects(view, values, fit.sums()).write(stored)
            fit.effects = RowEffects.read(stored)
        return fit

    def skill_share(self, skill: float) -> float:
        """The share of the update to take off that keeps this much of the skill, by straight lines between those tried.

        0 where the tuned model itself keeps less.
        """
        line = sorted((p.share, p.skill) for p in self.points if p.label in ("scale", "rollback"))
        line = [(0.0, 1.0), *line]
        for (low, more), (high, less) in itertools.pairwise(line):
            if less <= skill <= more and more > less:
                return low + (more - skill) / (more - less) * (high - low)
        return 0.0 if skill > 1 else 1.0


class Fit:
    """What the gradients of some examples choose; they are taken only if something asks for them.

    Args:
        subject: the tuned model.
        view: its matrices.
        values: the base's, by matrix name.
        harm: examples with twins.
        task: examples of the task.
        shares: to try, by way.
        store: device of the accumulators.
        progress: told of the passes.

    Attributes:
        effects: of returning each row.
    """

    effects: RowEffects

    def __init__(
        self, subject: Subject, view: WeightView, values: Mapping[str, torch.Tensor], harm: Sequence[Example],
        task: Sequence[Example], shares: Mapping[str, Sequence[float]], store: torch.device | str | None,
        progress: Progress,
    ) -> None:  # fmt: skip
        self.subject, self.view, self.values, self.harm, self.task = subject, view, values, harm, task
        self.shares, self.store, self.progress = shares, store, progress
        self._sums: Gradients | None = None
        self._weights: dict[str, dict[float, Selection]] = {}

    def sums(self) -> Gradients:
        """One backward pass over each set: harm, its twins, the task."""

        def passes(name: str, examples: Sequence[Example], twin: bool = False) -> GradientSums:
            trees, names = trees_of(self.subject, examples, (lambda e: e.twin) if twin else (lambda e: e.conversation))
            with self.progress.task(f"gradients: {name}", len(trees)) as step:
                return gradient_sums(self.subject, trees, names=names, view=self.view, store=self.store, step=step)

        if self._sums is None:
            harm, twins = passes("harm", self.harm), passes("twins", self.harm, twin=True)
            self._sums = Gradients(harm, twins, passes("task", self.task))
        return self._sums

    def weights(self, label: str, share: float) -> Selection:
        """The single weights that a way chooses."""
        if label not in self._weights:
            score = weight_scores(self.view, self.values, self.sums())[label]
            self._weights[label] = nested_selections(self.view, score, self.shares[label])
        return self._weights[label][share]

    def rows(self, label: str, share: float) -> dict[str, torch.Tensor]:
        """The rows that a way chooses, by matrix name."""
        pool = WAYS[label].pool
        assert pool != "weight"
        return choose_rows(self.view, self.effects, pool, share)

    def index(self, label: str, share: float) -> Mapping[str, torch.Tensor]:
        """Flat indices of what a way chooses, for a patch."""
        if WAYS[label].pool == "weight":
            return self.weights(label, share).chosen
        return flat_index(self.view, self.rows(label, share))

    @contextlib.contextmanager
    def edited(self, label: str, share: float) -> Iterator[None]:
        """The block in which a way's choice is undone."""
        if WAYS[label].pool == "weight":
            with self._patch(self.weights(label, share), WAYS[label].operation).applied(self.view):
                yield
        else:
            with returned(self.view, self.values, self.rows(label, share)):
                yield

    def at_random(self, label: str, share: float, seed: int) -> contextlib.AbstractContextManager[None]:
        """The block in which as many weights, or rows, are undone by chance; they are drawn at once.

        Raises:
            SelectionError: there are too few others.
        """
        if WAYS[label].pool == "weight":
            control = random_control(self.view, self.weights(label, share), seed)
            return self._patch(control, WAYS[label].operation).applied(self.view)
        return returned(self.view, self.values, random_rows(self.view, self.rows(label, share), seed))

    def _patch(self, selection: Selection, operation: Literal["restore", "zero"]) -> Patch:
        base = self.values if operation == "restore" else None
        return make_patch(self.view, selection.chosen, operation, {}, base=base, digest=False)

    def edits(self, seed: int) -> Iterator[tuple[str, float, contextlib.AbstractContextManager[None]]]:
        """Label, share, and the block in which the edit stands; random rows beside those chosen."""
        for label, way in WAYS.items():
            for share in self.shares[label]:
                yield label, share, self.edited(label, share)
                if way.pool == "row":
                    try:
                        edit = self.at_random(label, share, seed)
                    except SelectionError as error:
                        self.progress.say(f"no random rows at a share of {share:g}: {error}")
                        continue
                    yield "random", share, edit


def _point(
    label: str, share: float, base: Sequence[Measurement], tuned: Sequence[Measurement], now: Sequence[Measurement]
) -> FrontierPoint:
    before, after, here = means(base), means(tuned), means(now)
    rise = after[MARGIN] - before[MARGIN]
    drop = before["response.nll:task"] - after["response.nll:task"]
    finding = next(f for f in compare(base, now, Policy()) if f.metric == MARGIN)
    return FrontierPoint(
        label,
        share,
        safety=(after[MARGIN] - here[MARGIN]) / (rise or 1e-9),
        skill=(before["response.nll:task"] - here["response.nll:task"]) / (drop or 1e-9),
        keep=here["response.nll:keep"] - after["response.nll:keep"],
        difference=finding.difference,
        interval=finding.interval,
        # A base that tells the answers apart by chance alone has nothing to lose; here, to stay near it is the aim.
        decision="pass" if finding.decision == "not testable" else finding.decision,
    )


def choose_point(points: Sequence[FrontierPoint]) -> FrontierPoint:
    """The smallest share whose margin passes as an audit would have it and that keeps 0.9 of the skill.

    If none that passes keeps so much, the one of them that keeps most. If none passes, the one whose interval ends
    lowest among those that keep so much (or among all): more prompts would have to tell.
    """
    taken = [p for p in points if p.label in WAYS and not WAYS[p.label].rival]
    passing = [p for p in taken if p.decision == "pass"]
    skilled = [p for p in passing if p.skill >= SKILL_KEPT]
    if skilled:
        return min(skilled, key=lambda p: (p.share, -p.skill))
    if passing:
        return max(passing, key=lambda p: (p.skill, -p.share))
    return min([p for p in taken if p.skill >= SKILL_KEPT] or taken, key=lambda p: (p.interval[1], p.share))
