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
from typing import TYPE_CHECKING, Any

from aftertune.attribution import GradientSums, gradient_sums, make_patch, select
from aftertune.comparison import Policy, compare
from aftertune.errors import SelectionError
from aftertune.locating._proof import answers_probe, means
from aftertune.locating._repair_rows import WAYS, RowEffects, choose_rows, random_rows, returned, row_effects
from aftertune.locating._repair_scores import RIVALS, weight_scores
from aftertune.locating._sets import CalibrationSet, Example, trees_of
from aftertune.locating._update import scaled
from aftertune.measures import LikelihoodProbe, Measurement, ask_probes, measurement_fields
from aftertune.runs import Journal, Progress, RunFolder
from aftertune.subject import Subject, WeightView

if TYPE_CHECKING:
    import torch

SCALED = (0.25, 0.5, 0.75)
SKILL_KEPT = 0.9
MARGIN = "preference.margin:harm"


@dataclass(frozen=True)
class FrontierPoint:
    """One way to undo a part of the update.

    Attributes:
        label: one of `WAYS` (whole rows or matrices restored), of `RIVALS` (single weights restored or put to zero),
            "random" (as many rows restored by chance), "scale" (the whole update scaled down), "rollback" (all of it
            restored).
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
    ) -> RowEffects:  # fmt: skip
        """Measure every way; the model is as before afterwards, and `points` hold the frontier.

        Args:
            subject: the tuned model.
            view: its matrices.
            values: the base's, by matrix name.
            base: what `whole` gave on the base.
            tuned: likewise on the tuned model.
            share: the only share to restore; all of `WAYS` and `RIVALS` if None.

        Returns:
            The effects of all rows on both folds together.
        """
        shares = {label: way.shares if share is None else (share,) for label, way in WAYS.items()}
        kinds = sum(map(len, shares.values())) + len(shares["ratio by row"])
        kinds += sum(len(rival.shares) for rival in RIVALS.values()) if share is None else 0
        found: dict[tuple[str, float], list[Measurement]] = {}
        effects = []
        for i in (0, 1):
            fit = _Fit(self, subject, view, values, 1 - i)
            with self.progress.task(f"frontier, fold {i + 1} of 2", kinds) as step:
                for label, at, edit in fit.edits(shares, rivals=share is None):
                    name = f"{label} {at:g}, fold {i}"
                    if name not in self.journal:
                        with edit:
                            self.measure(subject, self.probes[i], name)
                    found.setdefault((label, at), []).extend(self.measure(subject, self.probes[i], name))
                    step(1, label)
            effects.append(fit.effects)
        with self.progress.task("the update scaled down", len(SCALED) + 1) as step:
            for at in (*SCALED, 1.0):
                with scaled(view, values, at):
                    found["rollback" if at == 1 else "scale", at] = list(self.whole(subject, f"scale {at:g}"))
                step(1)
        self.points = [_point(label, at, base, tuned, now) for (label, at), now in found.items()
                       if len(now) == len(base)]  # fmt: skip
        return effects[0] + effects[1]

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


class _Fit:
    """What one fold's gradients choose; they are taken only if something is not measured yet."""

    def __init__(
        self, frontier: Frontier, subject: Subject, view: WeightView, values: Mapping[str, torch.Tensor], fold: int
    ) -> None:
        self.frontier, self.subject, self.view, self.values, self.fold = frontier, subject, view, values, fold
        self._sums: tuple[GradientSums, GradientSums, GradientSums] | None = None
        stored = frontier.run.path / f"effects-{fold}.safetensors"
        if stored.exists():
            self.effects = RowEffects.read(stored)
        else:
            self.effects = row_effects(view, values, *self.sums())
            self.effects.write(stored)

    def sums(self) -> tuple[GradientSums, GradientSums, GradientSums]:
        """One backward pass over each set: harm, its twins, the task."""

        def passes(name: str, examples: Sequence[Example], twin: bool = False) -> GradientSums:
            trees, names = trees_of(self.subject, examples, (lambda e: e.twin) if twin else (lambda e: e.conversation))
            with self.frontier.progress.task(f"gradients: {name}", len(trees)) as step:
                return gradient_sums(
                    self.subject, trees, names=names, view=self.view, store=self.frontier.store, step=step
                )

        if self._sums is None:
            harm = self.frontier.harm[self.fold]
            task = self.frontier.task[self.fold]
            self._sums = passes("harm", harm), passes("twins", harm, twin=True), passes("task", task)
        return self._sums

    def edits(
        self, shares: Mapping[str, Sequence[float]], *, rivals: bool
    ) -> Iterator[tuple[str, float, contextlib.AbstractContextManager[Any]]]:
        """Label, share, and the block in which the edit stands."""
        for label, way in WAYS.items():
            for share in shares[label]:
                rows = choose_rows(self.view, self.effects, way.pool, share)
                yield label, share, returned(self.view, self.values, rows)
                if way.pool == "row":
                    try:
                        others = random_rows(self.view, rows, self.frontier.seed)
                    except SelectionError as error:
                        self.frontier.progress.say(f"no random control of a share of {share:g}: {error}")
                        continue
                    yield "random", share, returned(self.view, self.values, others)
        for label, rival in RIVALS.items() if rivals else ():
            for share in rival.shares:
                yield label, share, self._weights(label, share)

    @contextlib.contextmanager
    def _weights(self, label: str, share: float) -> Iterator[None]:
        scores = weight_scores(self.view, self.values, *self.sums())
        chosen = select(self.view, scores[label], prune_fraction=share).chosen
        base = self.values if RIVALS[label].operation == "restore" else None
        patch = make_patch(self.view, chosen, RIVALS[label].operation, {}, base=base, digest=False)
        with patch.applied(self.view):
            yield


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
        decision=finding.decision,
    )


def choose_point(points: Sequence[FrontierPoint]) -> FrontierPoint:
    """The smallest share of `WAYS` that passes as an audit would have it and keeps 0.9 of the skill.

    If none of those that pass keeps so much, the one that keeps most; if none passes, the one whose interval ends
    lowest.
    """
    restored = [p for p in points if p.label in WAYS]
    passing = [p for p in restored if p.decision == "pass"]
    skilled = [p for p in passing if p.skill >= SKILL_KEPT]
    if skilled:
        return min(skilled, key=lambda p: (p.share, -p.skill))
    if passing:
        return max(passing, key=lambda p: (p.skill, -p.share))
    return min(restored, key=lambda p: (p.interval[1], p.share))
