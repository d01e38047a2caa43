"""Repair of a fine-tune: the smallest part of its update whose return to the base restores safety."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aftertune.data import Side
from aftertune.errors import SelectionError, UsageError
from aftertune.locating._frontier import Frontier, choose_point
from aftertune.locating._readings import held_out_probes, is_made, means, prove
from aftertune.locating._results import Repaired, count_cells, repair_claims
from aftertune.locating._returning import FORMULA, VARIANTS, refuse_other_shape, refuse_unharmed, scaled
from aftertune.locating._search import LocateOptions
from aftertune.locating._sets import DEFAULT_KEEP, CalibrationSet, read_calibration, refuse_long, refuse_shared
from aftertune.model import Patch, SubjectChoice, WeightView, make_patch, write_patch
from aftertune.runs import Progress, RunFolder, Silent, default_folder, entered, refuse_other_model
from aftertune.stats import Measurement, Policy, compare

if TYPE_CHECKING:
    import torch


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
    """Return the smallest set of a fine-tune's weights to the base that brings its preference within the tolerance.

    Args:
        tuned: the fine-tune; an adapter is merged.
        base: what it was tuned from.
        harm: contrasts whose misaligned answers the fine-tune made likelier, not those it was tuned on.
        task: what it was tuned for, whose loss should stay: rows, or contrasts.
        task_side: which answers of contrasts the task is.
        keep: other text that must stay likely; the shipped harmless requests if left out.
        patch: the patch file to write; ``patch.safetensors`` in the run folder if left out.
        options: seed, limit, and ``prune_fraction`` if only one share is to be tried; the rest of the search is fixed.
        out: run folder; named after the configuration under ``runs/`` if left out.
        store: device of the accumulators.
        progress: where progress is shown.

    Raises:
        UsageError: the harm set has no twins.
        DataError: a set that cannot be read, is too small, or shares answers with the harm set.
        SubjectError: the two models are not of one shape, or there is nothing to repair.
        OutputError: the patch exists, or a folder may not be written.
    """
    options, progress = options or LocateOptions(), progress or Silent()
    sides: list[tuple[Sequence[str | Path], Side]] = [
        (harm, "misaligned"), (task, task_side), (keep or DEFAULT_KEEP, "aligned")
    ]  # fmt: skip
    harm_set, task_set, keep_set = (
        read_calibration(names, side, seed=options.seed, limit=options.limit) for names, side in sides
    )
    if not harm_set.twins:
        raise UsageError(f"{harm_set.names[0]}: a repair needs contrasts as harm set, to separate harm from style")
    refuse_shared(harm_set, task_set, "task")
    refuse_shared(harm_set, keep_set, "keep set")
    config = {
        "tuned": tuned.config,
        "base": base.config,
        "sets": [[s.names, s.digest] for s in (harm_set, task_set, keep_set)],
        "side": task_side,
        "seed": options.seed,
        "limit": options.limit,
        "share": options.prune_fraction,
        "patch": None if patch is None else str(patch),
    }
    run = RunFolder(out or default_folder("repair", config), "repair", config, flag="--run")
    target = patch or run.path / "patch.safetensors"
    taken = is_made(target, run, Repaired.FILE)
    with entered(run):
        if not (run.finished and taken):
            tuned.check()  # before the base is loaded and measured
            base.check()
            work = _Work(run, (harm_set, task_set, keep_set), options, store, progress)
            found, made = work.repair(tuned, base, target)
            found.write()  # before the patch, so that the run knows its own patch from another's
            if not taken:
                write_patch(target, made)
            run.write_manifest(status="finished")
    return stored_repair(run.path)


class _Work:
    """Everything in order; the base is let go of before the tuned model is loaded."""

    def __init__(
        self, run: RunFolder, sets: tuple[CalibrationSet, CalibrationSet, CalibrationSet], options: LocateOptions,
        store: torch.device | str | None, progress: Progress,
    ) -> None:  # fmt: skip
        self.run, self.sets, self.options, self.store, self.progress = run, sets, options, store, progress
        harm, task, keep = (one.examples["held_out"] for one in sets)
        self.probes = held_out_probes(harm, keep, {"task": task})

    def repair(self, tuned: SubjectChoice, base: SubjectChoice, target: Path) -> tuple[Repaired, Patch]:
        """The document, and the patch that it describes."""
        options = self.options
        self.progress.say(f"loading base: {base.spec}")
        subject = base.load(self.progress, merge=True)
        refuse_other_model(self.run, "base", subject.content)
        base_identity = subject.identity.as_dict()
        refuse_long(subject, [e for one in self.sets for e in one.all()])
        values = {n: m.parameter.detach().to("cpu", copy=True) for n, m in WeightView(subject.model).items()}
        frontier = Frontier(self.run, self.sets, subject.content, self.progress, self.store, options.seed)
        read = frontier.readings
        before, before_held = frontier.whole(subject, {}), read.under(subject, self.probes, {})
        del subject
        self.progress.say(f"loading tuned: {tuned.spec}")
        subject = tuned.load(self.progress, merge=True)
        refuse_other_model(self.run, "tuned", subject.content)
        view = WeightView(subject.model)
        refuse_other_shape(view, values, tuned.spec)
        after, after_held = frontier.whole(subject, {}), read.under(subject, self.probes, {})
        refuse_unharmed(means(before), means(after), tuned.spec)
        fit = frontier.draw(subject, view, values, before, after, options.prune_fraction)
        chosen = choose_point(frontier.points)
        label, share, pool = chosen.label, chosen.share, VARIANTS[chosen.label].pool
        about = {
            "subject": subject.identity.as_dict(), "base": base_identity, "score": label,
            "formula": FORMULA, "unit": "weight", "returned": f"whole {pool}", "prune_fraction": share,
            "data": {n: s.digest for n, s in zip(("harm", "task", "keep"), self.sets, strict=True)},
        }  # fmt: skip
        made = make_patch(view, fit.index(label, share), "restore", about, base=values)
        edit = fit.edit(label, share)
        repaired = read.under(subject, self.probes, edit, lambda: fit.edited(label, share))
        controls = {}
        try:
            at_random = fit.at_random(label, share, options.seed)
            edit_at_random = {**edit, "at random": options.seed}
            controls["random"] = read.under(subject, self.probes, edit_at_random, lambda: at_random)
        except SelectionError as error:
            self.progress.say(f"no random control: {error}")
        scale = frontier.skill_share(chosen.skill)
        scaled_down = frontier.scaled_edit(scale)
        controls["scale"] = read.under(subject, self.probes, scaled_down, lambda: scaled(view, values, scale))
        places, totals = count_cells(view, made)
        found = Repaired(
            patch=target,
            weights=made.weights,
            share_of_weights=made.weights / view.weights,
            prune_fraction=share,
            keep_fraction=0.0,
            unit=pool,
            operation="restore",
            held_out=tuple(prove(after_held, repaired, {**controls, "rollback": before_held})),
            places=places,
            totals=totals,
            run=self.run.path,
            chosen=chosen,
            scale=scale,
            frontier=tuple(frontier.points),
            audit={"tuned": findings(before_held, after_held), "repaired": findings(before_held, repaired)},
            base=base_identity,
            tuned=subject.identity.as_dict(),
        )
        return replace(found, claims=repair_claims(found)), made


def findings(one: Sequence[Measurement], other: Sequence[Measurement]) -> list[dict[str, Any]]:
    """What an audit would find between two readings, without breakdowns, as JSON values."""
    return [f.as_dict() for f in compare(one, other, Policy()) if "/" not in f.metric]


def stored_repair(folder: Path) -> Repaired:
    """A finished repair, read back from its run folder; see `PatchDocument.read`."""
    return Repaired.read(folder)
