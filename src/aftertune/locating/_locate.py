"""The weights that carry a behaviour: found, edited, and proved beside controls.

    harm, keep ──gradients──▶ scores ──select──▶ weights ──patch──▶ measured again, held out, beside four controls

The prompts of both sets are split in three: one part is attributed, one chooses how many units to edit, one is held out
for the proof. The model is loaded once; every edit is made in place and undone.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
from aftertune.errors import DataError, SelectionError
from aftertune.locating._readings import Readings, held_out_probes, is_made, means, prove, selection_probes
from aftertune.locating._results import Located, Point, Proof, count_cells, locate_claims
from aftertune.locating._scores import Scores, gather
from aftertune.locating._search import (
    FORMULAS,
    SIGN,
    LocateOptions,
    ScoreName,
    best,
    fractions,
    search,
    trade,
    variants,
)
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
from aftertune.model import Patch, Subject, SubjectChoice, WeightView, write_patch
from aftertune.probes import LikelihoodProbe
from aftertune.runs import Progress, RunFolder, Silent, default_folder, entered, refuse_other_model
from aftertune.stats import Measurement

if TYPE_CHECKING:
    import torch


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
    """Find the weights that carry the harm set's answers, write a patch that removes them, and prove it.

    Args:
        choice: the subject; an adapter is merged first.
        harm: contrasts (their misaligned answers, with the aligned ones as twins), or rows with answers.
        keep: what must stay likely: contrasts (their aligned answers) or rows; harmless requests if left out.
        patch: the patch file to write; it must not exist; ``patch.safetensors`` in the run folder if left out.
        options: unit, score, fractions, budget.
        tests: other harm sets, measured only: does the patch change their answers too?
        out: run folder; named after the configuration under ``runs/`` if left out.
        store: device of weight-level accumulators.
        progress: where progress is shown.

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
    taken = is_made(target, run, Located.FILE)
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
        proofs = work.held_out(found, harm_set, keep_set, test_sets)
        work.document(
            target, made, found, proofs, harm_set, keep_set
        ).write()  # before the patch: the run knows its own
        if not taken:
            write_patch(target, made)
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
    """What the search gave: the scores, the tried points, the chosen selection and its controls."""

    scores: Scores
    tried: tuple[tuple[Point, Selection], ...]
    chosen: Point
    selection: Selection
    controls: Mapping[str, Selection]
    curve: tuple[Point, ...]


class _Work:
    """One subject in memory, edited and measured; measurements are journalled."""

    def __init__(
        self, subject: Subject, view: WeightView, options: LocateOptions, run: RunFolder, progress: Progress
    ) -> None:
        self.subject, self.view, self.options, self.run, self.progress = subject, view, options, run, progress
        self.readings = Readings(run.path / "evaluations.jsonl")

    def measure(self, probes: Sequence[LikelihoodProbe], selection: Selection | None) -> tuple[Measurement, ...]:
        """Everything the probes ask, with the selection edited; the weights are as before afterwards."""
        if selection is None:
            return self.readings.under(self.subject, probes, {})
        options = self.options
        edit = {
            "unit": selection.unit, "operation": options.operation, "factor": options.factor,
            "members": {name: numbers.tolist() for name, numbers in selection.members.items()},
        }  # fmt: skip
        block = functools.partial(self._applied, selection)
        return self.readings.under(self.subject, probes, edit, block)

    def _applied(self, selection: Selection) -> contextlib.AbstractContextManager[None]:
        return self.edit(selection, {}).applied(self.view)

    def edit(self, selection: Selection, about: Mapping[str, Any]) -> Patch:
        """The patch of a selection."""
        return unit_patch(
            self.view, selection, self.options.operation, about, factor=self.options.factor, digest=bool(about)
        )

    def find(self, harm: CalibrationSet, keep: CalibrationSet, store: torch.device | str | None) -> Found:
        """Gradients, the search over fractions, and the controls along the curve."""
        options, view = self.options, self.view
        scores = gather(
            self.subject, view, harm.examples["attribution"], keep.examples["attribution"], options,
            store=store, progress=self.progress,
        )  # fmt: skip
        probes = selection_probes(harm.examples["selection"], keep.examples["selection"])
        before = means(self.measure(probes, None))

        def numbers(selection: Selection) -> Mapping[str, float]:
            return means(self.measure(probes, selection))

        with self.progress.task("edits", len(variants(options)) * len(fractions(view, options))) as step:
            found = search(view, scores.score, scores.protection(), options, numbers, before, step)
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
                for name, control in self.controls(scores, point, selection).items():
                    pair = (point.prune_fraction, point.keep_fraction)
                    curve.append(trade(name, point.score, control, pair, before, numbers(control)))
                    if index == place:
                        controls[name] = control
                step(1)
        return Found(scores, tuple(tried), chosen, tried[place][1], controls, tuple(curve))

    def controls(self, scores: Scores, point: Point, selection: Selection) -> dict[str, Selection]:
        """As many units chosen otherwise; a control that cannot be built is skipped with a warning."""
        view, options, keep_fraction = self.view, self.options, point.keep_fraction
        keep, name = scores.protection(), cast("ScoreName", point.score)
        makers: dict[str, Callable[[], Selection]] = {
            "random": lambda: random_control(view, selection, options.seed),
            "magnitude": lambda: magnitude_control(view, selection, options.seed),
            "opposite": lambda: opposite_control(
                view, scores.score(name), keep, selection, keep_fraction
            ),
        }  # fmt: skip
        if scores.twin is not None:
            makers["content_matched"] = lambda: select_count(
                view,
                scores.score(name, twins=True),
                keep,
                count=selection.units,
                keep_fraction=keep_fraction,
                unit=selection.unit,
            )
        found = {}
        for control, make in makers.items():
            try:
                found[control] = make()
            except SelectionError as error:
                self.progress.say(f"no {control} control: {error}")
        return found

    def patch(self, found: Found, harm: CalibrationSet, keep: CalibrationSet) -> Patch:
        """The patch, with a record of how it was made."""
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
        """The proof on prompts that neither the scores nor the fractions saw."""
        probes = held_out_probes(harm.examples["held_out"], keep.examples["held_out"], tests)
        edits: dict[str, Selection | None] = {"before": None, "patch": found.selection, **found.controls}
        measured: dict[str, tuple[Measurement, ...]] = {}
        with self.progress.task("held-out proof", len(edits)) as step:
            for name, selection in edits.items():
                measured[name] = self.measure(probes, selection)
                step(1, name)
        before, after = measured.pop("before"), measured.pop("patch")
        return prove(before, after, measured)

    def document(
        self, target: Path, made: Patch, found: Found, proofs: Sequence[Proof], harm: CalibrationSet,
        keep: CalibrationSet,
    ) -> Located:  # fmt: skip
        """What was found, and what it claims."""
        options, chosen = self.options, found.chosen
        note = (
            "the harm set has no aligned twins: no content-matched control, and the score cannot separate harm from "
            "style by them"
        )
        places, totals = count_cells(self.view, made)
        return Located(
            patch=target,
            weights=made.weights,
            units=chosen.units,
            share_of_weights=made.weights / self.view.weights,
            prune_fraction=chosen.prune_fraction,
            keep_fraction=chosen.keep_fraction,
            unit=options.unit,
            score=chosen.score,
            operation=options.operation,
            budget=options.budget,
            twins=harm.twins,
            note="" if harm.twins else note,
            claims=locate_claims(proofs, options.budget, twins=harm.twins),
            held_out=tuple(proofs),
            selection=chosen,
            curve=found.curve,
            places=places,
            totals=totals,
            examples={
                "harm": list(harm.names),
                "keep": list(keep.names),
                "parts": {part: [len(harm.examples[part]), len(keep.examples[part])] for part in harm.examples},
            },
            subject=self.subject.identity.as_dict(),
            run=self.run.path,
        )


def stored_locate(folder: Path) -> Located:
    """A finished search, read back from its run folder; see `PatchDocument.read`."""
    return Located.read(folder)
