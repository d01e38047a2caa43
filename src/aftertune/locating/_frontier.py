"""What undoing each part of an update does, cross-fitted: no prompt tests an edit that it helped to choose.

Prompts that are not held out are split into two folds. What returns to the base is chosen from the gradients of one
fold and measured on the other, and the other way round; a point of the frontier is made of both. So all of these
prompts decide, and the final choice uses the gradients of all.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from aftertune.attribution import GradientSums, Selection, gradient_sums, random_control
from aftertune.errors import SelectionError
from aftertune.locating._readings import Readings, answers_probe, means
from aftertune.locating._results import MARGIN, FrontierPoint
from aftertune.locating._returning import (
    VARIANTS,
    Gradients,
    RowEffects,
    choose_rows,
    flat_index,
    nested_selections,
    random_rows,
    returned,
    row_effects,
    scaled,
    weight_scores,
)
from aftertune.locating._sets import CalibrationSet, Example, cases_of, texts_digest
from aftertune.model import Patch, Subject, WeightView, make_patch
from aftertune.runs import Progress, RunFolder
from aftertune.stats import Measurement, Policy, compare

if TYPE_CHECKING:
    import torch

Block = contextlib.AbstractContextManager[None]
SCALED = (0.25, 0.5, 0.75)
SKILL_KEPT = 0.9


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
        base: content of the model that weights return to.
        progress: of passes and measurements.
        store: device of the accumulators.
        seed: of random controls.
    """

    def __init__(
        self, run: RunFolder, sets: tuple[CalibrationSet, CalibrationSet, CalibrationSet], base: Mapping[str, Any],
        progress: Progress, store: torch.device | str | None, seed: int,
    ) -> None:  # fmt: skip
        self.run, self.base, self.progress, self.store, self.seed = run, dict(base), progress, store, seed
        self.readings = Readings(run.path / "evaluations.jsonl")
        self.harm, self.task, keep = (folds(_searched(one)) for one in sets)
        self.probes = [
            [answers_probe("harm", self.harm[i]), answers_probe("task", self.task[i]), answers_probe("keep", keep[i])]
            for i in (0, 1)
        ]
        self.points: list[FrontierPoint] = []

    def whole(
        self, subject: Subject, edit: Mapping[str, Any],
        block: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> tuple[Measurement, ...]:  # fmt: skip
        """Both folds, under an edit that no fold has chosen."""
        return tuple(m for probes in self.probes for m in self.readings.under(subject, probes, edit, block))

    def scaled_edit(self, share: float) -> dict[str, Any]:
        """What `scaled` is made of, for the journal."""
        return {"undo": "scale", "share": share, "base": self.base}

    def draw(
        self, subject: Subject, view: WeightView, values: Mapping[str, torch.Tensor], base: Sequence[Measurement],
        tuned: Sequence[Measurement], share: float | None,
    ) -> Fit:  # fmt: skip
        """Measure every variant; the model is as before afterwards, and `points` hold the frontier.

        Args:
            subject: the tuned model.
            view: its matrices.
            values: the base's, by matrix name.
            base: what `whole` gave on the base.
            tuned: likewise on the tuned model.
            share: the only share to restore; those of `VARIANTS` if None.

        Returns:
            What both folds together choose.
        """
        shares = {
            label: variant.shares if share is None else () if variant.rival else (share,)
            for label, variant in VARIANTS.items()
        }
        count = sum(map(len, shares.values())) + len(shares["ratio by row"])
        found: dict[tuple[str, float], list[Measurement]] = {}
        effects = []
        for i in (0, 1):
            fit = self._fit(subject, view, values, (1 - i,), shares)
            with self.progress.task(f"frontier, fold {i + 1} of 2", count) as step:
                for label, at, edit, block in fit.edits(self.seed):
                    measured = self.readings.under(subject, self.probes[i], edit, block)
                    found.setdefault((label, at), []).extend(measured)
                    step(1, label)
            effects.append(fit.effects)
            del fit  # and its gradients, before the other fold takes its own
        kept: dict[str, torch.Tensor] = {}
        with self.progress.task("the update scaled down", len(SCALED) + 1) as step:
            for at in (*SCALED, 1.0):
                block = functools.partial(scaled, view, values, at, kept)
                found["rollback" if at == 1 else "scale", at] = list(self.whole(subject, self.scaled_edit(at), block))
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
        fit = Fit(subject, view, values, harm, task, shares, self.base, self.store, self.progress)
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
        shares: to try, by variant.
        base: content of the base.
        store: device of the accumulators.
        progress: of the passes.

    Attributes:
        effects: of returning each row.
    """

    effects: RowEffects

    def __init__(
        self, subject: Subject, view: WeightView, values: Mapping[str, torch.Tensor], harm: Sequence[Example],
        task: Sequence[Example], shares: Mapping[str, Sequence[float]], base: Mapping[str, Any],
        store: torch.device | str | None, progress: Progress,
    ) -> None:  # fmt: skip
        self.subject, self.view, self.values, self.harm, self.task = subject, view, values, harm, task
        self.shares, self.base, self.store, self.progress = shares, dict(base), store, progress
        self._sums: Gradients | None = None
        self._weights: dict[str, dict[float, Selection]] = {}

    def edit(self, label: str, share: float) -> dict[str, Any]:
        """What a variant's choice is made of, for the journal."""
        made_of = {"base": self.base, "harm": texts_digest(self.harm), "task": texts_digest(self.task)}
        return {"undo": label, "share": share, **made_of}

    def sums(self) -> Gradients:
        """One backward pass over each set: harm, its twins, the task."""

        def passes(name: str, examples: Sequence[Example], twin: bool = False) -> GradientSums:
            cases, names = cases_of(self.subject, examples, (lambda e: e.twin) if twin else (lambda e: e.conversation))
            with self.progress.task(f"gradients: {name}", len(cases)) as step:
                return gradient_sums(self.subject, cases, names=names, view=self.view, store=self.store, step=step)

        if self._sums is None:
            harm, twins = passes("harm", self.harm), passes("twins", self.harm, twin=True)
            self._sums = Gradients(harm, twins, passes("task", self.task))
        return self._sums

    def weights(self, label: str, share: float) -> Selection:
        """The single weights that a variant chooses."""
        if label not in self._weights:
            score = weight_scores(self.view, self.values, self.sums())[label]
            self._weights[label] = nested_selections(self.view, score, self.shares[label])
        return self._weights[label][share]

    def rows(self, label: str, share: float) -> dict[str, torch.Tensor]:
        """The rows that a variant chooses, by matrix name."""
        pool = VARIANTS[label].pool
        assert pool != "weight"
        return choose_rows(self.view, self.effects, pool, share)

    def index(self, label: str, share: float) -> Mapping[str, torch.Tensor]:
        """Flat indices of what a variant chooses, for a patch."""
        if VARIANTS[label].pool == "weight":
            return self.weights(label, share).chosen
        return flat_index(self.view, self.rows(label, share))

    @contextlib.contextmanager
    def edited(self, label: str, share: float) -> Iterator[None]:
        """The block in which a variant's choice is undone."""
        if VARIANTS[label].pool == "weight":
            with self._patch(self.weights(label, share), VARIANTS[label].operation).applied(self.view):
                yield
        else:
            with returned(self.view, self.values, self.rows(label, share)):
                yield

    def at_random(self, label: str, share: float, seed: int) -> Block:
        """The block in which as many weights, or rows, are undone by chance; they are drawn at once.

        Raises:
            SelectionError: there are too few others.
        """
        if VARIANTS[label].pool == "weight":
            control = random_control(self.view, self.weights(label, share), seed)
            return self._patch(control, VARIANTS[label].operation).applied(self.view)
        return returned(self.view, self.values, random_rows(self.view, self.rows(label, share), seed))

    def _patch(self, selection: Selection, operation: Literal["restore", "zero"]) -> Patch:
        base = self.values if operation == "restore" else None
        return make_patch(self.view, selection.chosen, operation, {}, base=base, digest=False)

    def edits(self, seed: int) -> Iterator[tuple[str, float, dict[str, Any], Callable[[], Block]]]:
        """Label, share, what the edit is made of, and its block; random rows beside those chosen."""
        for label, variant in VARIANTS.items():
            for share in self.shares[label]:
                edit = self.edit(label, share)
                yield label, share, edit, functools.partial(self.edited, label, share)
                if variant.pool == "row":
                    try:
                        block = self.at_random(label, share, seed)
                    except SelectionError as error:
                        self.progress.say(f"no random rows at a share of {share:g}: {error}")
                        continue
                    yield "random", share, {**edit, "at random": seed}, lambda block=block: block  # type: ignore[misc]


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
        # A base that separates the answers no better than chance has nothing to lose; the aim here is to stay near it.
        decision="pass" if finding.decision == "not testable" else finding.decision,
    )


def choose_point(points: Sequence[FrontierPoint]) -> FrontierPoint:
    """The smallest share whose margin passes as an audit would have it and that keeps 0.9 of the skill.

    If none that passes keeps so much, the one of them that keeps most. If none passes, the one whose interval ends
    lowest among those that keep so much (or among all): more prompts are needed to decide.
    """
    taken = [p for p in points if p.label in VARIANTS and not VARIANTS[p.label].rival]
    passing = [p for p in taken if p.decision == "pass"]
    skilled = [p for p in passing if p.skill >= SKILL_KEPT]
    if skilled:
        return min(skilled, key=lambda p: (p.share, -p.skill))
    if passing:
        return max(passing, key=lambda p: (p.skill, -p.share))
    return min([p for p in taken if p.skill >= SKILL_KEPT] or taken, key=lambda p: (p.interval[1], p.share))
