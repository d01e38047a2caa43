"""The weights that carry a behaviour: found, edited, and proved beside controls.

    harm, keep ──gradients──▶ scores ──select──▶ weights ──patch──▶ measured again, held out, beside four controls

The prompts of both sets are parted in three: one part is attributed, one chooses how much to take, one is held out
for the proof. The model is loaded once; every edit is made in place and undone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from aftertune.attribution import (
    Selection,
    magnitude_control,
    opposite_control,
    random_control,
    select_count,
    unit_patch,
)
from aftertune.errors import DataError, OutputError, SelectionError
from aftertune.locating._claims import claims
from aftertune.locating._evidence import Evidence, gather
from aftertune.locating._options import FORMULAS, SIGN, LocateOptions, ScoreName
from aftertune.locating._places import count_places
from aftertune.locating._proof import Proof, held_out_probes, means, prove, selection_probes
from aftertune.locating._search import Point, best, fractions, search, trade, variants
from aftertune.locating._sets import (
    DEFAULT_KEEP,
    CalibrationSet,
    Example,
    Part,
    read_calibration,
    refuse_long,
    refuse_shared,
    texts_digest,
)
from aftertune.locating._target import is_made
from aftertune.model import Patch, Subject, SubjectChoice, WeightView, write_patch
from aftertune.probes import LikelihoodProbe, ask_probes
from aftertune.runs import (
    Journal,
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
from aftertune.stats import Measurement, measurement_fields

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Located:
    """The outcome of a search for weights.

    Attributes:
        patch: the patch file.
        chosen: the point of the trade-off that the patch stands at, on the selection part.
        curve: all points tried, the controls' too.
        proofs: held-out measures before, after, and under every control.
        places: (layer, matrix role, weights) of what was chosen.
        document: what ``--json`` prints and the report is made of.
        run: the run folder.
    """

    patch: Path
    chosen: Point
    curve: tuple[Point, ...]
    proofs: tuple[Proof, ...]
    places: tuple[tuple[int, str, int], ...]
    document: dict[str, Any]
    run: Path


def locate(
    choice: SubjectChoice,
    harm: Sequence[str | Path],
    keep: Sequence[str | Path] = (),
    patch: Path | None = None,
    *,
    options: LocateOptions | None = None,
    tests: Sequence[str | Path] = (),
    out: Path | None = None,
    store: torch.device | str | None = None,
    progress: Progress | None = None,
) -> Located:
    """Find the weights that carry the harm set's answers, write a patch that takes them out, and prove it.

    Args:
        choice: the subject; an adapter is merged first.
        harm: contrasts (their misaligned answers, with the aligned ones as twins), or rows with answers.
        keep: what must stay: contrasts (their aligned answers) or rows; the shipped harmless requests if left out.
        patch: the patch file to write, in a place that is free; ``patch.safetensors`` in the run folder if left out.
        options: unit, score, fractions, budget.
        tests: other harm sets, measured only: does what was found here carry them too?
        out: run folder; named after the configuration under ``runs/`` if left out.
        store: device of weight-level accumulators.
        progress: told what goes on.

    Raises:
        DataError: a set that cannot be read, is too small, or shares answers with the other.
        SelectionError: the fractions choose nothing, or protect everything.
        OutputError: the patch exists, or a folder may not be written.
        NumericalError: an example's gradient is NaN; the example is named.
    """
    options, progress = options or LocateOptions(), progress or Silent()
    harm_set = read_calibration(harm, "misaligned", seed=options.seed, limit=options.limit)
    keep_set = read_calibration(keep or DEFAULT_KEEP, "aligned", seed=options.seed, limit=options.limit)
    test_sets = dict(_test_sets(tests, harm_set, keep_set))
    refuse_shared(harm_set, keep_set, "keep set")
    config = {
        "subject": choice.config,
        "harm": [harm_set.names, harm_set.digest],
        "keep": [keep_set.names, keep_set.digest],
        "tests": {name: texts_digest(examples) for name, examples in test_sets.items()},
        "options": options.model_dump(),
        "patch": None if patch is None else str(patch),
    }
    run = RunFolder(out or default_folder("locate", config), "locate", config, flag="--run")
    target = patch or run.path / "patch.safetensors"
    taken = is_made(target, run, "locate.json")
    with entered(run):
        if run.finished and taken:
            return stored_locate(run.path)
        choice.check()
        progress.say(f"loading {choice.spec}")
        subject = choice.load(progress, merge=True)
        refuse_other_model(run, "subject", subject.content)
        view = WeightView(subject.model)
        refuse_long(subject, [*harm_set.all(), *keep_set.all(), *(e for one in test_sets.values() for e in one)])
        progress.say(f"{view.weights:,} weights in view, {view.share:.0%} of the parameters")
        work = _Work(subject, view, options, run, progress)
        found = work.find(harm_set, keep_set, store)
        made = work.patch(found, harm_set, keep_set)
        measured = work.held_out(found, harm_set, keep_set, test_sets)
        document = _document(target, found, measured, options, subject, harm_set, keep_set, made, view, run)
        write_json(run.path / "locate.json", document)  # before the patch, which it tells from another's
        if not taken:
            write_patch(target, made)
        from aftertune.locating._report import rebuild_locate_report

        rebuild_locate_report(run.path)
        run.write_manifest(status="finished", subject=subject.identity.as_dict())
    return stored_locate(run.path)


def _test_sets(
    tests: Sequence[str | Path], harm: CalibrationSet, keep: CalibrationSet
) -> Sequence[tuple[str, tuple[Example, ...]]]:
    """Other harm sets, without prompts that were attributed or chosen by."""
    used: tuple[Part, ...] = ("attribution", "selection")
    seen = {e.key for one in (harm, keep) for part in used for e in one.examples[part]}
    found: list[tuple[str, tuple[Example, ...]]] = []
    for source in tests:
        examples = [e for e in read_calibration([source], "misaligned").all() if e.key not in seen]
        if not examples:
            raise DataError("holds no prompt that the harm or keep set does not hold", path=str(source))
        name = re.sub(r"[^\w-]", "_", Path(str(source)).name.partition(".")[0])
        if name in ("harm", "keep") or name in dict(found):
            raise DataError(f"its measures would be called {name!r}, which is taken; rename it", path=str(source))
        found.append((name, tuple(examples)))
    return found


@dataclass(frozen=True)
class Found:
    """What the search gave: the evidence, the tried points, the chosen selection and its controls."""

    evidence: Evidence
    tried: tuple[tuple[Point, Selection], ...]
    chosen: Point
    selection: Selection
    controls: Mapping[str, Selection]
    curve: tuple[Point, ...]


class _Work:
    """One subject in memory, edited and measured; measurements are journalled, so a killed run goes on."""

    def __init__(
        self, subject: Subject, view: WeightView, options: LocateOptions, run: RunFolder, progress: Progress
    ) -> None:
        self.subject, self.view, self.options, self.run, self.progress = subject, view, options, run, progress
        self.journal = Journal(run.path / "evaluations.jsonl")

    def measure(self, probes: Sequence[LikelihoodProbe], selection: Selection | None) -> tuple[Measurement, ...]:
        """Everything the probes ask, with the selection edited; the weights are as before afterwards."""
        chosen = selection.members if selection else {}
        edit = hashlib.sha256(
            json.dumps([[n, chosen[n].tolist()] for n in sorted(chosen)] + [p.content for p in probes]).encode()
        ).hexdigest()
        if edit not in self.journal:
            if selection is None:
                measured = ask_probes(self.subject, probes)
            else:
                with self.edit(selection, {}).applied(self.view):
                    measured = ask_probes(self.subject, probes)
            self.journal.record(edit, [measurement_fields(m) for m in measured])
        return tuple(Measurement(**fields) for fields in self.journal[edit])

    def edit(self, selection: Selection, about: Mapping[str, Any]) -> Patch:
        """The patch of a selection."""
        return unit_patch(
            self.view, selection, self.options.operation, about, factor=self.options.factor, digest=bool(about)
        )

    def find(self, harm: CalibrationSet, keep: CalibrationSet, store: torch.device | str | None) -> Found:
        """Gradients, the search over fractions, and the controls along the curve."""
        options, view = self.options, self.view
        evidence = gather(
            self.subject, view, harm.examples["attribution"], keep.examples["attribution"],
            unit=options.unit, score=options.score, store=store, budget=options.budget,
            progress=self.progress,
        )  # fmt: skip
        probes = selection_probes(harm.examples["selection"], keep.examples["selection"])
        before = means(self.measure(probes, None))

        def numbers(selection: Selection) -> Mapping[str, float]:
            return means(self.measure(probes, selection))

        with self.progress.task("edits", len(variants(options)) * len(fractions(view, options))) as step:
            found = search(view, evidence.score, evidence.protection(), options, numbers, before, step)
        chosen = best([point for edits in found for point, _ in edits], options.budget)
        # The edits of the chosen score are the patch's curve; the others stand beside it under their own names.
        tried = next(edits for edits in found if any(point is chosen for point, _ in edits))
        curve = [p for p, _ in tried]
        others = [p for edits in found if edits is not tried for p, _ in edits]
        curve += [replace(p, label=f"{p.score}, keep {p.keep_fraction:g}") for p in others]
        place = next(i for i, (point, _) in enumerate(tried) if point is chosen)
        beside = sorted({max(0, place - 2), place, min(len(tried) - 1, place + 2)})
        controls: dict[str, Selection] = {}
        with self.progress.task("controls", len(beside)) as step:
            for index in beside:
                point, selection = tried[index]
                for name, control in self.controls(evidence, point, selection).items():
                    pair = (point.prune_fraction, point.keep_fraction)
                    curve.append(trade(name, point.score, control, pair, before, numbers(control)))
                    if index == place:
                        controls[name] = control
                step(1)
        return Found(evidence, tuple(tried), chosen, tried[place][1], controls, tuple(curve))

    def controls(self, evidence: Evidence, point: Point, selection: Selection) -> dict[str, Selection]:
        """As many units chosen otherwise; one that cannot be built is left out, aloud."""
        view, options, keep_fraction = self.view, self.options, point.keep_fraction
        keep, score = evidence.protection(), cast("ScoreName", point.score)
        makers: dict[str, Callable[[], Selection]] = {
            "random": lambda: random_control(view, selection, options.seed),
            "magnitude": lambda: magnitude_control(view, selection, options.seed),
            "opposite": lambda: opposite_control(
                view, evidence.score(score), keep, selection, keep_fraction
            ),
        }  # fmt: skip
        if evidence.twin is not None:
            makers["content_matched"] = lambda: select_count(
                view,
                evidence.score(score, twins=True),
                keep,
                count=selection.units,
                keep_fraction=keep_fraction,
                unit=selection.unit,
            )
        found = {}
        for name, make in makers.items():
            try:
                found[name] = make()
            except SelectionError as error:
                self.progress.say(f"no {name} control: {error}")
        return found

    def patch(self, found: Found, harm: CalibrationSet, keep: CalibrationSet) -> Patch:
        """The patch with all that is to be known of it."""
        options, chosen = self.options, found.chosen
        about = {
            "subject": self.subject.identity.as_dict(),
            "score": chosen.score,
            "formula": FORMULAS[chosen.score],
            "sign": SIGN,
            "unit": options.unit,
            "units": chosen.units,
            "members": {n: numbers.tolist() for n, numbers in found.selection.members.items()}
            if options.unit == "singular-vector"
            else None,
            "prune_fraction": chosen.prune_fraction,
            "keep_fraction": chosen.keep_fraction,
            "factor": options.factor,
            "seed": options.seed,
            "data": {
                "harm": {"names": list(harm.names), "sha256": harm.digest, "twins": harm.twins},
                "keep": {"names": list(keep.names), "sha256": keep.digest},
            },
        }
        return self.edit(found.selection, about)

    def held_out(
        self,
        found: Found,
        harm: CalibrationSet,
        keep: CalibrationSet,
        tests: Mapping[str, tuple[Example, ...]],
    ) -> list[Proof]:
        """The proof on what neither the scores nor the fractions saw."""
        probes = held_out_probes(harm.examples["held_out"], keep.examples["held_out"], tests)
        edits: dict[str, Selection | None] = {"before": None, "patch": found.selection, **found.controls}
        measured: dict[str, tuple[Measurement, ...]] = {}
        with self.progress.task("held-out proof", len(edits)) as step:
            for name, selection in edits.items():
                measured[name] = self.measure(probes, selection)
                step(1, name)
        before, after = measured.pop("before"), measured.pop("patch")
        return prove(before, after, measured)


def _document(
    target: Path,
    found: Found,
    proofs: Sequence[Proof],
    options: LocateOptions,
    subject: Subject,
    harm: CalibrationSet,
    keep: CalibrationSet,
    patch: Patch,
    view: WeightView,
    run: RunFolder,
) -> dict[str, Any]:
    sizes = {part: [len(harm.examples[part]), len(keep.examples[part])] for part in harm.examples}
    return {
        "patch": str(target),
        "weights": patch.weights,
        "units": found.chosen.units,
        "share_of_weights": patch.weights / view.weights,
        "prune_fraction": found.chosen.prune_fraction,
        "keep_fraction": found.chosen.keep_fraction,
        "unit": options.unit,
        "score": found.chosen.score,
        "operation": options.operation,
        "budget": options.budget,
        "twins": harm.twins,
        "note": ""
        if harm.twins
        else "the harm set has no aligned twins: no content-matched control, and the score "
        "cannot tell harm from style by them",
        "claims": [claim.as_dict() for claim in claims(proofs, options.budget, harm.twins)],
        "held_out": [proof.as_dict() for proof in proofs],
        "selection": found.chosen.as_dict(),
        "curve": [point.as_dict() for point in found.curve],
        **count_places(view, patch),
        "examples": {"harm": list(harm.names), "keep": list(keep.names), "parts": sizes},
        "subject": subject.identity.as_dict(),
        "run": str(run.path),
    }


def stored_locate(folder: Path) -> Located:
    """A finished search, read back from its run folder.

    Raises:
        OutputError: the folder holds none.
    """
    if not (folder / "locate.json").exists():
        raise OutputError(f"{folder}: holds no finished search for weights; run `aftertune locate` with --run {folder}")
    with explain_damage(folder):
        document = read_document(folder / "locate.json")
        return Located(
            patch=Path(document["patch"]),
            chosen=stored_as(Point, document["selection"]),
            curve=tuple(stored_as(Point, point) for point in document["curve"]),
            proofs=tuple(stored_as(Proof, asdict(Proof.from_dict(row))) for row in document["held_out"]),
            places=tuple((int(p["layer"]), str(p["role"]), int(p["weights"])) for p in document["places"]),
            document=document,
            run=folder,
        )
