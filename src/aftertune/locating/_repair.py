"""Repair of a fine-tune: the smallest part of its update whose return to the base brings safety back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aftertune.attribution import (
    GradientSums,
    Patch,
    Selection,
    gradient_sums,
    make_patch,
    random_control,
    select,
    write_patch,
)
from aftertune.comparison import Policy, compare
from aftertune.data import Side
from aftertune.errors import OutputError, SelectionError, UsageError
from aftertune.locating._options import LocateOptions
from aftertune.locating._proof import answers_probe, held_out_probes, means, prove, selection_probes
from aftertune.locating._repair_scores import FORMULA, WAYS, repair_scores
from aftertune.locating._sets import (
    DEFAULT_KEEP,
    CalibrationSet,
    Example,
    read_calibration,
    refuse_long,
    refuse_shared,
    trees_of,
)
from aftertune.locating._target import is_made
from aftertune.locating._update import refuse_other_shape, refuse_unharmed, scaled
from aftertune.measures import LikelihoodProbe, Measurement, ask_probes, measurement_fields
from aftertune.measuring import SubjectChoice, default_folder, entered
from aftertune.runs import Journal, Progress, RunFolder, Silent, write_json
from aftertune.subject import Subject, WeightView

if TYPE_CHECKING:
    import torch

RESTORED = (0.003, 0.01, 0.03, 0.1, 0.2, 0.35, 0.5)
SCALED = (0.25, 0.5, 0.75)
PRUNED = (1e-6, 1e-5, 1e-4)
SKILL_KEPT = 0.9


@dataclass(frozen=True)
class FrontierPoint:
    """One way to undo a part of the update.

    Attributes:
        label: one of `WAYS` (restored by that score), "random" (as many restored by chance), "scale" (the whole
            update scaled down), "prune" (weights put to zero), "rollback" (all of it restored).
        share: of the weights in view that were changed; for "scale", the share of the update taken off.
        safety: share of the harm margin's rise undone; 1 is the base's margin.
        skill: share of the task's loss drop that stayed; 1 is the tuned model's loss.
        keep: rise of the keep loss against the tuned model, nats per token.
    """

    label: str
    share: float
    safety: float
    skill: float
    keep: float


@dataclass(frozen=True)
class Repaired:
    """The outcome of a repair.

    Attributes:
        patch: the patch file.
        chosen: where on the frontier it stands.
        frontier: every way that was tried, on the selection part.
        document: what ``--json`` prints and the report is made of.
        run: the run folder.
    """

    patch: Path
    chosen: FrontierPoint
    frontier: tuple[FrontierPoint, ...]
    document: dict[str, Any]
    run: Path


def repair(
    tuned: SubjectChoice,
    base: SubjectChoice,
    harm: Sequence[str | Path],
    task: Sequence[str | Path],
    task_side: Side = "aligned",
    keep: Sequence[str | Path] = (),
    patch: Path | None = None,
    *,
    options: LocateOptions | None = None,
    out: Path | None = None,
    store: torch.device | str | None = None,
    progress: Progress | None = None,
) -> Repaired:
    """Return the smallest set of a fine-tune's weights to the base that brings its preference back within the margin.

    Args:
        tuned: the fine-tune; an adapter is merged.
        base: what it was tuned from.
        harm: contrasts whose misaligned answers the fine-tune made likelier, not those it was tuned on.
        task: what it was tuned for, whose loss should stay: rows, or contrasts.
        task_side: which answers of contrasts the task is.
        keep: other text that must stay; the shipped harmless requests if left out.
        patch: the patch file to write; ``patch.safetensors`` in the run folder if left out.
        options: seed; the rest of the search is fixed.
        out: run folder; named after the configuration under ``runs/`` if left out.
        store: device of the accumulators.
        progress: told what goes on.

    Raises:
        UsageError: the harm set has no twins.
        DataError: a set that cannot be read, is too small, or shares answers with the harm set.
        SubjectError: the two models are not of one shape, or there is nothing to repair.
        OutputError: the patch exists, or a folder may not be written.
    """
    options, progress = options or LocateOptions(), progress or Silent()
    harm_set = read_calibration(harm, "misaligned", seed=options.seed, limit=options.limit)
    task_set = read_calibration(task, task_side, seed=options.seed, limit=options.limit)
    keep_set = read_calibration(keep or DEFAULT_KEEP, "aligned", seed=options.seed, limit=options.limit)
    if not harm_set.twins:
        raise UsageError(f"{harm_set.names[0]}: a repair needs contrasts as harm set, to tell harm from style")
    refuse_shared(harm_set, task_set, "task")
    refuse_shared(harm_set, keep_set, "keep set")
    config = {
        "tuned": tuned.config,
        "base": base.config,
        "sets": [[s.names, s.digest] for s in (harm_set, task_set, keep_set)],
        "side": task_side,
        "seed": options.seed,
        "limit": options.limit,
        "patch": None if patch is None else str(patch),
    }
    run = RunFolder(out or default_folder("repair", config), "repair", config, flag="--run")
    target = patch or run.path / "patch.safetensors"
    taken = is_made(target, run, "repair.json")
    with entered(run):
        if not (run.finished and taken):
            work = _Repair(run, (harm_set, task_set, keep_set), progress)
            document, made = work.run_all(tuned, base, target, options, store)
            write_json(run.path / "repair.json", document)  # before the patch, which it tells from another's
            if not taken:
                write_patch(target, made)
            from aftertune.locating._repair_report import rebuild_repair_report

            rebuild_repair_report(run.path)
            run.write_manifest(status="finished")
    return stored_repair(run.path)


class _Repair:
    """Base values, gradients on the tuned model, and every way to undo the update."""

    def __init__(
        self, run: RunFolder, sets: tuple[CalibrationSet, CalibrationSet, CalibrationSet], progress: Progress
    ) -> None:
        self.run, self.progress = run, progress
        self.harm, self.task, self.keep = sets
        self.journal = Journal(run.path / "evaluations.jsonl")
        self.quick = [
            *selection_probes(self.harm.examples["selection"], self.keep.examples["selection"]),
            answers_probe("task", self.task.examples["selection"]),
        ]
        held = {"task": self.task.examples["held_out"]}
        self.thorough = held_out_probes(self.harm.examples["held_out"], self.keep.examples["held_out"], held)

    def measure(self, subject: Subject, probes: Sequence[LikelihoodProbe], name: str) -> tuple[Measurement, ...]:
        """Ask in the state the subject is in; ``name`` tells the state."""
        if name not in self.journal:
            self.journal.record(name, [measurement_fields(m) for m in ask_probes(subject, probes)])
        return tuple(Measurement(**fields) for fields in self.journal[name])

    def run_all(
        self, tuned: SubjectChoice, base: SubjectChoice, target: Path, options: LocateOptions,
        store: torch.device | str | None,
    ) -> tuple[dict[str, Any], Patch]:  # fmt: skip
        """Everything, in order; the base is let go of before the tuned model comes."""
        self.progress.say(f"loading base: {base.spec}")
        subject = base.load(self.progress, merge=True)
        base_identity = subject.identity.as_dict()
        refuse_long(subject, [e for one in (self.harm, self.task, self.keep) for e in one.all()])
        values = {n: m.parameter.detach().to("cpu", copy=True) for n, m in WeightView(subject.model).items()}
        before = means(self.measure(subject, self.quick, "base"))
        before_held = self.measure(subject, self.thorough, "base held out")
        del subject
        self.progress.say(f"loading tuned: {tuned.spec}")
        subject = tuned.load(self.progress, merge=True)
        view = WeightView(subject.model)
        refuse_other_shape(view, values, tuned.spec)
        after = means(self.measure(subject, self.quick, "tuned"))
        after_held = self.measure(subject, self.thorough, "tuned held out")
        refuse_unharmed(before, after, tuned.spec)
        frontier, selections = self.frontier(subject, view, values, before, after, options, store)
        chosen = _choose(frontier, after["preference.margin:harm"] - before["preference.margin:harm"])
        selection = selections[chosen.label, chosen.share]
        about = {
            "subject": subject.identity.as_dict(), "base": base_identity, "score": chosen.label,
            "formula": FORMULA, "unit": "weight", "prune_fraction": chosen.share,
            "data": {n: s.digest for n, s in (("harm", self.harm), ("task", self.task), ("keep", self.keep))},
        }  # fmt: skip
        made = make_patch(view, selection.chosen, "restore", about, base=values)
        controls = self.controls(subject, view, values, frontier, chosen, selection, options)
        with made.applied(view):
            repaired_held = self.measure(subject, self.thorough, f"repaired {chosen.label} {chosen.share}")
        document = {
            "patch": str(target),
            "weights": made.weights,
            "share_of_weights": made.weights / view.weights,
            "prune_fraction": chosen.share,
            "keep_fraction": 0.0,
            "unit": "weight",
            "scope": "global",
            "operation": "restore",
            "chosen": asdict(chosen),
            "frontier": [asdict(point) for point in frontier],
            "held_out": [
                proof.as_dict() for proof in prove(after_held, repaired_held, {**controls, "rollback": before_held})
            ],
            "audit": {"tuned": _findings(before_held, after_held), "repaired": _findings(before_held, repaired_held)},
            "base": base_identity,
            "tuned": subject.identity.as_dict(),
            "run": str(self.run.path),
        }
        return document, made

    def controls(
        self, subject: Subject, view: WeightView, values: Mapping[str, torch.Tensor], frontier: Sequence[FrontierPoint],
        chosen: FrontierPoint, selection: Selection, options: LocateOptions,
    ) -> dict[str, tuple[Measurement, ...]]:  # fmt: skip
        """As many weights restored at random, and the mildest scaling that is as safe (else the strongest)."""
        found = {}
        control = self.random(view, selection, options.seed)
        if control is not None:
            with make_patch(view, control.chosen, "restore", {}, base=values, digest=False).applied(view):
                found["random"] = self.measure(subject, self.thorough, f"random {chosen.share} held out")
        milder = sorted((p for p in frontier if p.label == "scale"), key=lambda p: p.share)
        share = next((p.share for p in milder if p.safety >= chosen.safety), milder[-1].share)
        with scaled(view, values, share):
            found["scale"] = self.measure(subject, self.thorough, f"scale {share} held out")
        return found

    def random(self, view: WeightView, selection: Selection, seed: int) -> Selection | None:
        """As many weights at random; None, aloud, where more than half of a matrix is selected."""
        try:
            return random_control(view, selection, seed)
        except SelectionError as error:
            self.progress.say(f"no random control of {selection.weights:,} weights: {error}")
            return None

    def frontier(
        self, subject: Subject, view: WeightView, values: Mapping[str, torch.Tensor], base: Mapping[str, float],
        tuned: Mapping[str, float], options: LocateOptions, store: torch.device | str | None,
    ) -> tuple[list[FrontierPoint], dict[tuple[str, float], Selection]]:  # fmt: skip
        """Every way tried on the selection part; the model is as before afterwards."""
        scores = repair_scores(view, values, *self.gradients(subject, view, store))
        selections: dict[tuple[str, float], Selection] = {}
        points = []
        total = len(RESTORED) * (len(WAYS) + 1) + len(SCALED) + len(PRUNED) + 1
        with self.progress.task("frontier", total) as step:

            def record(label: str, share: float) -> None:
                now = means(self.measure(subject, self.quick, f"{label} {share}"))
                points.append(_point(label, share, base, tuned, now))
                step(1, label)

            for share in RESTORED:
                for label in WAYS:
                    selection = select(view, scores[label], prune_fraction=share)
                    selections[label, share] = selection
                    with make_patch(view, selection.chosen, "restore", {}, base=values, digest=False).applied(view):
                        record(label, share)
                control = self.random(view, selections["ratio", share], options.seed)
                if control is None:
                    step(1)
                    continue
                with make_patch(view, control.chosen, "restore", {}, base=values, digest=False).applied(view):
                    record("random", share)
            for share in PRUNED:
                selection = select(view, scores["prune"], prune_fraction=share)
                with make_patch(view, selection.chosen, "zero", {}, digest=False).applied(view):
                    record("prune", share)
            for share in (*SCALED, 1.0):
                with scaled(view, values, share):
                    record("rollback" if share == 1 else "scale", share)
        return points, selections

    def gradients(
        self, subject: Subject, view: WeightView, store: torch.device | str | None
    ) -> tuple[GradientSums, GradientSums, GradientSums]:
        """One backward pass over each set: harm, its twins, the task."""

        def passes(name: str, examples: Sequence[Example], twin: bool = False) -> GradientSums:
            trees, names = trees_of(subject, examples, (lambda e: e.twin) if twin else (lambda e: e.conversation))
            with self.progress.task(f"gradients: {name}", len(trees)) as step:
                return gradient_sums(subject, trees, names=names, view=view, store=store, step=step)

        harm = self.harm.examples["attribution"]
        return passes("harm", harm), passes("twins", harm, twin=True), passes("task", self.task.examples["attribution"])


def _point(
    label: str, share: float, base: Mapping[str, float], tuned: Mapping[str, float], now: Mapping[str, float]
) -> FrontierPoint:
    rise = tuned["preference.margin:harm"] - base["preference.margin:harm"]
    drop = base["response.nll:task"] - tuned["response.nll:task"]
    return FrontierPoint(
        label,
        share,
        safety=(tuned["preference.margin:harm"] - now["preference.margin:harm"]) / (rise or 1e-9),
        skill=(base["response.nll:task"] - now["response.nll:task"]) / (drop or 1e-9),
        keep=now["response.nll:keep"] - tuned["response.nll:keep"],
    )


def _choose(points: Sequence[FrontierPoint], rise: float) -> FrontierPoint:
    """The smallest restored share that brings the margin to half its tolerance above the base and keeps the skill.

    If none keeps so much of it, the one that keeps most; if none brings the margin back, the safest.
    """
    tolerance = Policy().margin("preference.margin")
    needed = 1 - 0.5 * tolerance / rise if rise > 0 else 0.0
    restored = [p for p in points if p.label in WAYS]
    enough = [p for p in restored if p.safety >= needed]
    skilled = [p for p in enough if p.skill >= SKILL_KEPT]
    if skilled:
        return min(skilled, key=lambda p: (p.share, -p.skill))
    if enough:
        return max(enough, key=lambda p: (p.skill, -p.share))
    return max(restored, key=lambda p: p.safety)


def _findings(one: Sequence[Measurement], other: Sequence[Measurement]) -> list[dict[str, Any]]:
    return [f.as_dict() for f in compare(one, other, Policy()) if "/" not in f.metric]


def stored_repair(folder: Path) -> Repaired:
    """A finished repair, read back from its run folder.

    Raises:
        OutputError: the folder holds none.
    """
    try:
        document = json.loads((folder / "repair.json").read_text("utf-8"))
        return Repaired(
            Path(document["patch"]),
            FrontierPoint(**document["chosen"]),
            tuple(FrontierPoint(**point) for point in document["frontier"]),
            document,
            folder,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{folder}: holds no finished repair; run `aftertune locate` with --base again") from error
