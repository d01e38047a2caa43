"""Repair of a fine-tune: the smallest part of its update whose return to the base brings safety back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aftertune.data import Side
from aftertune.errors import OutputError, SelectionError, UsageError
from aftertune.locating._options import LocateOptions
from aftertune.locating._places import count_places
from aftertune.locating._proof import held_out_probes, means, prove
from aftertune.locating._repair_frontier import Frontier, FrontierPoint, choose_point
from aftertune.locating._repair_ways import FORMULA, WAYS
from aftertune.locating._sets import DEFAULT_KEEP, CalibrationSet, read_calibration, refuse_long, refuse_shared
from aftertune.locating._target import is_made
from aftertune.locating._update import refuse_other_shape, refuse_unharmed, scaled
from aftertune.model import Patch, SubjectChoice, WeightView, make_patch, write_patch
from aftertune.runs import (
    Progress,
    RunFolder,
    Silent,
    default_folder,
    entered,
    explain_damage,
    read_document,
    refuse_other_model,
    stored_as,
    write_json,
)
from aftertune.stats import Measurement, Policy, compare

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Repaired:
    """The outcome of a repair.

    Attributes:
        patch: the patch file.
        chosen: where on the frontier it stands.
        frontier: every way that was tried, on all prompts that are not held out (see `_repair_frontier`).
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
        options: seed, limit, and ``prune_fraction`` if only one share is to be tried; the rest of the search is fixed.
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
        "share": options.prune_fraction,
        "patch": None if patch is None else str(patch),
    }
    run = RunFolder(out or default_folder("repair", config), "repair", config, flag="--run")
    target = patch or run.path / "patch.safetensors"
    taken = is_made(target, run, "repair.json")
    with entered(run):
        if not (run.finished and taken):
            tuned.check()  # before the base is loaded and measured
            base.check()
            sets = (harm_set, task_set, keep_set)
            document, made = _run_all(run, sets, tuned, base, target, options, store, progress)
            write_json(run.path / "repair.json", document)  # before the patch, which it tells from another's
            if not taken:
                write_patch(target, made)
            from aftertune.locating._repair_report import rebuild_repair_report

            rebuild_repair_report(run.path)
            run.write_manifest(status="finished")
    return stored_repair(run.path)


def _run_all(
    run: RunFolder, sets: tuple[CalibrationSet, CalibrationSet, CalibrationSet], tuned: SubjectChoice,
    base: SubjectChoice, target: Path, options: LocateOptions, store: torch.device | str | None, progress: Progress,
) -> tuple[dict[str, Any], Patch]:  # fmt: skip
    """Everything, in order; the base is let go of before the tuned model comes."""
    frontier = Frontier(run, sets, progress, store, options.seed)
    harm, task, keep = sets
    held = {"task": task.examples["held_out"]}
    thorough = held_out_probes(harm.examples["held_out"], keep.examples["held_out"], held)
    progress.say(f"loading base: {base.spec}")
    subject = base.load(progress, merge=True)
    refuse_other_model(run, "base", subject.content)
    base_identity = subject.identity.as_dict()
    refuse_long(subject, [e for one in sets for e in one.all()])
    values = {n: m.parameter.detach().to("cpu", copy=True) for n, m in WeightView(subject.model).items()}
    before, before_held = frontier.whole(subject, "base"), frontier.measure(subject, thorough, "base held out")
    del subject
    progress.say(f"loading tuned: {tuned.spec}")
    subject = tuned.load(progress, merge=True)
    refuse_other_model(run, "tuned", subject.content)
    view = WeightView(subject.model)
    refuse_other_shape(view, values, tuned.spec)
    after, after_held = frontier.whole(subject, "tuned"), frontier.measure(subject, thorough, "tuned held out")
    refuse_unharmed(means(before), means(after), tuned.spec)
    fit = frontier.draw(subject, view, values, before, after, options.prune_fraction)
    chosen = choose_point(frontier.points)
    pool = WAYS[chosen.label].pool
    about = {
        "subject": subject.identity.as_dict(), "base": base_identity, "score": chosen.label,
        "formula": FORMULA, "unit": "weight", "returned": f"whole {pool}", "prune_fraction": chosen.share,
        "data": {n: s.digest for n, s in (("harm", harm), ("task", task), ("keep", keep))},
    }  # fmt: skip
    made = make_patch(view, fit.index(chosen.label, chosen.share), "restore", about, base=values)
    with fit.edited(chosen.label, chosen.share):
        repaired = frontier.measure(subject, thorough, f"repaired {chosen.label} {chosen.share:g}")
    controls = {}
    try:
        with fit.at_random(chosen.label, chosen.share, options.seed):
            controls["random"] = frontier.measure(subject, thorough, f"random {chosen.label} {chosen.share:g} held out")
    except SelectionError as error:
        progress.say(f"no random control: {error}")
    scale = frontier.skill_share(chosen.skill)
    with scaled(view, values, scale):
        controls["scale"] = frontier.measure(subject, thorough, f"scale {scale:g} held out")
    proofs = prove(after_held, repaired, {**controls, "rollback": before_held})
    document = {
        "patch": str(target),
        "weights": made.weights,
        "share_of_weights": made.weights / view.weights,
        "prune_fraction": chosen.share,
        "keep_fraction": 0.0,
        "unit": pool,
        "operation": "restore",
        "chosen": asdict(chosen),
        "scale": scale,
        "frontier": [asdict(point) for point in frontier.points],
        **count_places(view, made),
        "held_out": [proof.as_dict() for proof in proofs],
        "audit": {"tuned": _findings(before_held, after_held), "repaired": _findings(before_held, repaired)},
        "base": base_identity,
        "tuned": subject.identity.as_dict(),
        "run": str(run.path),
    }
    return document, made


def _findings(one: Sequence[Measurement], other: Sequence[Measurement]) -> list[dict[str, Any]]:
    return [f.as_dict() for f in compare(one, other, Policy()) if "/" not in f.metric]


def stored_repair(folder: Path) -> Repaired:
    """A finished repair, read back from its run folder.

    Raises:
        OutputError: the folder holds none.
    """
    if not (folder / "repair.json").exists():
        raise OutputError(f"{folder}: holds no finished repair; run `aftertune locate` with --base again")
    with explain_damage(folder):
        document = read_document(folder / "repair.json")
        return Repaired(
            Path(document["patch"]),
            stored_as(FrontierPoint, document["chosen"]),
            tuple(stored_as(FrontierPoint, point) for point in document["frontier"]),
            document,
            folder,
        )
