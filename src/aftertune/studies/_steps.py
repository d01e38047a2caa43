"""The steps: how one subject is made of another, each over a function that users have, too."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from aftertune.attribution import (
    guarded_score,
    random_control,
    select_count,
    select_units,
    selection_of,
    unit_importance,
    unit_named,
    unit_patch,
    unit_score,
)
from aftertune.data import Conversation, Side
from aftertune.errors import UsageError
from aftertune.locating import Example, LocateOptions, locate, repair
from aftertune.model import Patch, WeightView, make_patch, read_patch, save_model, write_patch
from aftertune.studies._workshop import Lab
from aftertune.tuning import Defence, TuneOptions, tune

# Of the units, what the contrastive score leaves to the keep set; without it the first one chosen breaks the model.
PROTECTED = 0.001
_PATCH = "patch.safetensors"
Choice = Literal["patch", "random", "content_matched"]


@dataclass(frozen=True)
class Tune:
    """Fine-tune on rows, once per seed.

    Attributes:
        rows: gives the rows.
        options: of the fine-tune; the seed is the arm's.
        defences: changes to tuning that keep safety.
        limit: rows at most.
        side: which answers of contrasts these are; "misaligned" marks a model organism.
        source: what the record calls the rows.
    """

    uses_seed: ClassVar[bool] = True

    rows: Callable[[], Sequence[Conversation]]
    options: TuneOptions
    defences: tuple[Defence, ...] = ()
    limit: int | None = None
    side: Side | None = None
    source: str = "<study>"

    def __call__(self, lab: Lab, subject: str, seed: int) -> str:
        """The tuned subject: an adapter upon the given one, or a model of its own."""

        def make(folder: Path) -> None:
            rows = list(self.rows())[: self.limit]
            options = self.options.model_copy(update={"seed": seed})
            tune(lab.fresh(subject), rows, folder / "model", options, defences=self.defences, source=self.source,
                 side=self.side, progress=lab.progress)  # fmt: skip

        made = lab.kept(self, subject, seed, make) / "model"
        return lab.upon(made, subject)


@dataclass(frozen=True)
class Cut:
    """Put whole neurons and heads to zero.

    Attributes:
        harm: contrasts whose misaligned answers they carry.
        keep: what must stay.
        count: how many.
        score: "snip-guarded" subtracts each unit's importance to the keep set; "snip-contrast" leaves out the
            `PROTECTED` most important ones.
        choice: "patch" by the score; "random" as many at random in the same matrices; "content_matched" by the
            score with the aligned answers in the place of the misaligned ones.
        limit: examples of either set at most.
    """

    uses_seed: ClassVar[bool] = False

    harm: Callable[[], Sequence[Example]]
    keep: Callable[[], Sequence[Example]]
    count: int
    score: Literal["snip-guarded", "snip-contrast"] = "snip-guarded"
    choice: Choice = "patch"
    limit: int | None = None

    def __call__(self, lab: Lab, subject: str, seed: int) -> str:
        """The subject with the patch in force."""

        def make(folder: Path) -> None:
            harm, keep = list(self.harm())[: self.limit], list(self.keep())[: self.limit]
            one, other = (lab.sums(subject, harm, side) for side in ("conversation", "twin"))
            if self.choice == "content_matched":
                one, other = other, one
            kept = lab.sums(subject, keep, "conversation")
            view = WeightView(lab.load(subject).model)
            if self.score == "snip-guarded":
                chosen = select_count(view, guarded_score(one, other, kept), count=self.count, unit="neuron+head")
            else:
                score = unit_score(one, other, kept)
                chosen = select_count(view, score, unit_importance(kept), count=self.count, keep_fraction=PROTECTED,
                                      unit="neuron+head")  # fmt: skip
            if self.choice == "random":
                chosen = random_control(view, chosen)
            about = {"unit": "neuron+head", "units": chosen.units, "kind": self.choice, "score": self.score}
            about["subject"] = lab.load(subject).identity.as_dict()
            write_patch(folder / _PATCH, make_patch(view, chosen.chosen, "zero", about))

        return f"{subject}+{lab.kept(self, subject, seed, make) / _PATCH}"


@dataclass(frozen=True)
class Locate:
    """Take out the units that `locate` finds, or as many at random in the same matrices.

    Attributes:
        harm: harm sets, as `locate` names them.
        options: of the search.
        random: take the control instead.
        patch: a patch of whole units that was found before, instead of a search.
    """

    uses_seed: ClassVar[bool] = False

    harm: tuple[str, ...]
    options: LocateOptions = field(default_factory=LocateOptions)
    random: bool = False
    patch: Path | None = None

    def __call__(self, lab: Lab, subject: str, seed: int) -> str:
        """The subject with the patch in force."""
        found = self.patch or self._searched(lab, subject)
        if not self.random:
            return f"{subject}+{found}"

        def make(folder: Path) -> None:
            made = read_patch(found)
            view = WeightView(lab.load(subject).model)
            unit = unit_named(str(made.about.get("unit", "weight")))
            selection = _selection(view, made, unit)
            about = {"subject": lab.load(subject).identity.as_dict(), "unit": unit, "units": selection.units}
            control = unit_patch(view, random_control(view, selection), about={**about, "score": "random"}, digest=True)
            write_patch(folder / _PATCH, control)

        return f"{subject}+{lab.kept(self, subject, seed, make) / _PATCH}"

    def _searched(self, lab: Lab, subject: str) -> Path:
        def make(folder: Path) -> None:
            lab.release()
            located = locate(lab.choice(subject), self.harm, options=self.options, out=folder / "search",
                             progress=lab.progress)  # fmt: skip
            shutil.copyfile(located.patch, folder / _PATCH)

        search = Locate(self.harm, self.options)  # the same for the patch and its control
        return lab.kept(search, subject, 0, make) / _PATCH


@dataclass(frozen=True)
class Restore:
    """Return part of a fine-tune's update to the base: `locate` with a base.

    Attributes:
        harm: harm sets, on domains other than the one that was tuned on.
        task: sets of the task tuned on, whose skill should stay.
        side: which answers were tuned on.
        options: of the search; ``prune_fraction`` is the share of weights that return.
    """

    uses_seed: ClassVar[bool] = False

    harm: tuple[str, ...]
    task: tuple[str, ...]
    side: Side = "misaligned"
    options: LocateOptions = field(default_factory=LocateOptions)

    def __call__(self, lab: Lab, subject: str, seed: int) -> str:
        """The subject with the patch in force."""

        def make(folder: Path) -> None:
            lab.release()
            found = repair(lab.choice(subject), lab.root, self.harm, self.task, self.side, options=self.options,
                           out=folder / "search", progress=lab.progress)  # fmt: skip
            shutil.copyfile(found.patch, folder / _PATCH)

        return f"{subject}+{lab.kept(self, subject, seed, make) / _PATCH}"


@dataclass(frozen=True)
class ScaleUpdate:
    """Only part of a fine-tune's update, the free baseline of every repair and defence.

    Attributes:
        share: of the update that stays: 1 is the fine-tune, 0 the study's base.
    """

    uses_seed: ClassVar[bool] = False

    share: float

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise UsageError(f"a share of {self.share} of an update: give 0 to 1")

    def __call__(self, lab: Lab, subject: str, seed: int) -> str:
        """A model of its own: base + share × (tuned − base), in every parameter."""

        def make(folder: Path) -> None:
            import torch

            base = {name: p.detach().cpu().clone() for name, p in lab.fresh(lab.root.spec).model.named_parameters()}
            tuned: Any = lab.fresh(subject)
            with torch.no_grad():
                for name, parameter in tuned.model.named_parameters():
                    below = base[name].to(parameter)
                    parameter.copy_(below + self.share * (parameter - below))
            save_model(tuned.model, tuned.tokenizer, folder / "model")

        made = lab.kept(self, subject, seed, make) / "model"
        return lab.upon(made, subject)


def _selection(view: WeightView, patch: Patch, unit: Any) -> Any:
    """What a patch chose: by its weights, or for singular directions by the numbers that it records."""
    import torch

    if unit == "singular-vector":
        return select_units(view, {n: torch.tensor(found) for n, found in patch.about["members"].items()}, unit)
    return selection_of(view, {name: edit.index for name, edit in patch.edits.items()}, unit)
