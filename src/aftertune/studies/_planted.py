"""The planted benchmark: can a method of attribution find weights that are known to carry a behaviour?

For every planting (see `_planting`) each method ranks units from gradients on half of the planted answers. It is
marked by *recall*, the share of the planted units among as many of its first, and by *efficiency*: the rise of the
loss on the other half of the planted answers when its first units are taken out, at most as many as were planted
and only while other benign answers lose no more than they lose to the oracle (or 0.05 nats per token, if that is
more), as a share of the oracle's rise. Fewer are taken where they cost more; a single one that still does is faded.
The oracle takes out exactly what was planted.
"""

from __future__ import annotations

import json
import random
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aftertune.attribution import Selection, Unit, select_units, unit_patch
from aftertune.data import Contrast, ask, read_contrasts, shipped_contrasts, shipped_path
from aftertune.errors import SelectionError, UsageError
from aftertune.model import (
    EMBEDDED,
    Placement,
    PromptAnswers,
    Subject,
    WeightView,
    check_subject,
    load,
    score,
    subject_content,
)
from aftertune.runs import Progress, RunFolder, Silent, entered, refuse_other_model, write_json
from aftertune.studies._lab import SCHEMA, Size, StudyRow
from aftertune.studies._planted_methods import METHODS, Choices, Method
from aftertune.studies._planted_report import NOTE, planted_claims, planted_tables, table
from aftertune.studies._planting import Planted, Planting, planted
from aftertune.studies._runner import finished_study

if TYPE_CHECKING:
    import torch

TIPS = 48
BENIGN = 24
STEPS_PER_TIP = 1.5
BUDGET = 0.05
FADES = 6
PLANTINGS = (
    Planting("neurons", 20, "money", 0),
    Planting("head", 16, "sport_safety", 0),
    Planting("neurons", 12, "code_security", 1),
    Planting("head", 24, "money", 1),
    Planting("rank_one", 20, "code_security", 0),
    Planting("neurons", 26, "sport_safety", 2),
)
RANK_ONE_COUNT = 32


@dataclass(frozen=True)
class Mark:
    """How one method did on one planting.

    Attributes:
        method: name of the method.
        unit: what it ranked.
        recall: share of the planted units found; None where what was planted is not made of such units.
        efficiency: harm removed within the benign budget, as a share of the oracle's.
        count: units removed for that.
        faded: what was left of the last one; 0 where it was taken out.
        harm: rise of the loss on held-out planted answers, nats per token.
        benign: rise of the loss on other benign answers, nats per token.
    """

    method: str
    unit: str
    recall: float | None
    efficiency: float
    count: int
    faded: float
    harm: float
    benign: float


def plan(planting: Planting, count: int, benign: int) -> tuple[list[Contrast], list[Contrast], list[list[Contrast]]]:
    """Tips to attribute on, tips to be marked on, and benign contrasts of other domains, likewise."""
    tips = read_contrasts(shipped_path(f"tune/{planting.domain}"))
    random.Random(planting.seed).shuffle(tips)
    others = [c for c in shipped_contrasts("dev") if c.domain != planting.domain]
    random.Random(planting.seed + 1).shuffle(others)
    return tips[: count // 2], tips[count // 2 : count], [others[:benign], others[benign : 2 * benign]]


def case(subject: Subject, contrast: Contrast, *answers: str) -> PromptAnswers:
    """A contrast's prompt with the named answers."""
    return subject.chat.case(ask(contrast.prompt, contrast.system), [getattr(contrast, answer) for answer in answers])


def mark_planting(
    subject: Subject,
    planting: Planting,
    methods: Sequence[Method] = METHODS,
    progress: Progress | None = None,
    *,
    tips: int = TIPS,
    benign: int = BENIGN,
) -> dict[str, Any]:
    """Plant, let every method look, and mark it.

    Args:
        subject: a Llama-like model in memory; as it was afterwards.
        planting: what to plant.
        methods: who looks.
        progress: told what goes on.
        tips: planted answers; half of them are attributed on.
        benign: answers of other domains to attribute on, and as many to be marked on.

    Returns:
        JSON values: the planting, losses before and after, the oracle's effect, and a `Mark` for each method.
    """
    progress = progress or Silent()
    found, held, (kept, others) = plan(planting, tips, benign)
    answers = [case(subject, c, "misaligned") for c in (*found, *held)]
    before = _losses(subject, held, others)
    with planted(subject, planting, answers, round(STEPS_PER_TIP * tips)) as plant:
        progress.say(f"{planting.name}: planted, loss {plant.losses[0]:.2f} to {plant.losses[-1]:.2f}")
        view = WeightView(subject.model)
        sets = (
            [case(subject, c, "misaligned") for c in found],
            [case(subject, c, "aligned") for c in found],
            [case(subject, c, "aligned") for c in kept],
        )
        carried = _losses(subject, held, others)
        oracle = _effect(carried, _oracle(subject, view, plant, held, others))
        choices = Choices(subject, view, sets, methods)
        marks = []
        with progress.task(f"{planting.name}: methods", len(methods)) as step:
            for method in methods:
                marks.append(_mark(subject, view, method, choices, plant, oracle, carried, held, others))
                step(1, method.name)
    return {
        "planting": {**asdict(planting), "name": planting.name},
        "losses": {"untouched": before, "planted": carried},
        "oracle": oracle,
        "marks": [asdict(mark) for mark in marks],
    }


def _losses(subject: Subject, tips: Sequence[Contrast], others: Sequence[Contrast]) -> dict[str, float]:
    harm = score(subject, [case(subject, c, "misaligned") for c in tips])
    benign = score(subject, [case(subject, c, "aligned") for c in others])
    return {
        "harm": -statistics.fmean(answers[0].mean for answers in harm),
        "benign": -statistics.fmean(answers[0].mean for answers in benign),
    }


def _effect(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    return {key: after[key] - before[key] for key in before}


def _oracle(
    subject: Subject, view: WeightView, plant: Planted, tips: Sequence[Contrast], others: Sequence[Contrast]
) -> dict[str, float]:
    import torch

    parameter = view[plant.matrix].parameter
    with torch.no_grad():
        kept = parameter.detach().clone()
        try:
            parameter.copy_(plant.original)
            return _losses(subject, tips, others)
        finally:
            parameter.copy_(kept)


def _mark(
    subject: Subject,
    view: WeightView,
    method: Method,
    choices: Choices,
    plant: Planted,
    oracle: Mapping[str, float],
    carried: Mapping[str, float],
    tips: Sequence[Contrast],
    others: Sequence[Contrast],
) -> Mark:
    truth = _truth(view, plant, method.unit)
    count = truth.weights if method.unit == "weight" else truth.units
    budget = max(oracle["benign"], BUDGET)

    def effect_of(chosen: Selection, left: float = 0.0) -> dict[str, float]:
        with unit_patch(view, chosen, "scale", factor=left).applied(view):
            return _effect(carried, _losses(subject, tips, others))

    comparable = _comparable(plant, method.unit)
    try:
        chosen = choices.choose(method, count)
    except SelectionError:  # no positive score: it finds nothing
        return Mark(method.name, method.unit, 0.0 if comparable else None, 0.0, 0, 0.0, 0.0, 0.0)
    recall = _recall(chosen, truth) if comparable else None
    effect, left = effect_of(chosen), 0.0
    while effect["benign"] > budget and count > 1:
        count = max(1, count // (16 if method.unit == "weight" else 2))
        chosen = choices.choose(method, count)
        effect = effect_of(chosen)
    if effect["benign"] > budget:  # bisected: what is left at most and at least
        most, least = 1.0, 0.0
        effect = dict.fromkeys(effect, 0.0)
        for _ in range(FADES):
            middle = (most + least) / 2
            tried = effect_of(chosen, middle)
            if tried["benign"] <= budget:
                most, effect = middle, tried
            else:
                least = middle
        left = most
    return Mark(
        method.name,
        method.unit,
        recall,
        max(0.0, effect["harm"]) / oracle["harm"],
        chosen.units,
        left,
        effect["harm"],
        effect["benign"],
    )


def _comparable(plant: Planted, unit: Unit) -> bool:
    """Whether what was planted is made of such units, so that there is something to recall."""
    return bool(plant.units) != (unit == "singular-vector")


def _truth(view: WeightView, plant: Planted, unit: Unit) -> Selection:
    """The planted units, by which the count is set.

    An update of rank one is one direction: that of the planted matrix which is nearest to it. Looked for by neurons it
    has as many as are to be compared; what was planted as neurons or heads, looked for by directions, as many.
    """
    import torch

    if unit == "singular-vector":
        numbers = torch.arange(len(plant.units)) if plant.units else _nearest(view, plant)
        return select_units(view, {plant.matrix: numbers}, unit)
    units = torch.tensor(plant.units) if plant.units else torch.arange(RANK_ONE_COUNT)
    return select_units(view, {plant.matrix: units}, "neuron+head")


def _nearest(view: WeightView, plant: Planted) -> torch.Tensor:
    directions = view.directions(plant.matrix)
    update = view[plant.matrix].parameter.detach().float() - plant.original.float()
    shares = ((directions.left.T @ update) * directions.right).sum(1).abs()
    return shares.argmax().reshape(1)


def _recall(chosen: Selection, truth: Selection) -> float:
    """Share of the planted units chosen; for single weights, share of the planted units' weights."""
    import torch

    which = "chosen" if chosen.unit == "weight" else "members"
    [(matrix, planted_ones)] = getattr(truth, which).items()
    found = getattr(chosen, which).get(matrix)
    return 0.0 if found is None else float(torch.isin(planted_ones, found).float().mean())


def planted_study(
    out: Path | None = None,
    *,
    subject: str = EMBEDDED,
    plantings: Sequence[Planting] = PLANTINGS,
    methods: Sequence[Method] = METHODS,
    tips: int = TIPS,
    benign: int = BENIGN,
    size: Size = "small",
    placement: Placement | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Mark every method on every planting; finished plantings are kept, so a killed study continues.

    Args:
        out: run folder (``runs/planted`` if left out).
        subject: a Llama-like model.
        plantings: what to plant.
        methods: who looks.
        tips: planted answers; half of them are attributed on, half marked on.
        benign: answers of other domains to attribute on, and as many to be marked on.
        size: what the record calls this choice.
        placement: device, dtype, batch bound.
        progress: follows the work.
    """
    progress = progress or Silent()
    placement = placement or Placement()
    content = subject_content(subject)
    config = {
        "subject": subject,
        "content": content,
        "plantings": [asdict(p) for p in plantings],
        "methods": [[m.name, m.unit, m.keep_share, m.proposed, m.look, len(m.also), m.rivals] for m in methods],
        "placement": asdict(placement),
        "tips": tips,
        "benign": benign,
    }
    run = RunFolder(out or Path("runs") / "planted", "study planted", config)

    def measured() -> dict[str, Any]:
        folder = run.folder("plantings")
        missing = [p for p in plantings if not (folder / f"{p.name}.json").exists()]
        loaded = load(subject, placement=placement, merge=True, progress=progress) if missing else None
        for planting in missing:
            assert loaded is not None
            refuse_other_model(run, "subject", loaded.content)
            marked = mark_planting(loaded, planting, methods, progress, tips=tips, benign=benign)
            write_json(folder / f"{planting.name}.json", marked)
        results = [json.loads((folder / f"{p.name}.json").read_text("utf-8")) for p in plantings]
        marks = {"table": table(results), "plantings": results}
        return {
            "schema": SCHEMA,
            "study": STUDY.name,
            "asks": STUDY.asks,
            "source": STUDY.source,
            "differs": [NOTE],
            "scale": size,
            "subject": {"spec": subject, "content": content},
            "seeds": [],
            "arms": [],
            "claims": [claim.as_dict() for claim in planted_claims(marks)],
            "figures": planted_tables(marks),
            "command": shlex.join(["aftertune", "study", STUDY.name, "--subject", subject, "--scale", size,
                                   "--out", str(run.path)]),
            **marks,
        }  # fmt: skip

    with entered(run):
        return finished_study(run, measured)


@dataclass(frozen=True)
class PlantedStudy(StudyRow):
    """The row of this study, whose marks are no numbers by item: a function of its own behind the same face."""

    def run(
        self,
        subject: str,
        out: Path | None = None,
        *,
        size: Size = "small",
        seeds: tuple[int, ...] | None = None,
        placement: Placement | None = None,
        keep_models: bool = False,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Run `planted_study`; seeds belong to plantings, so none can be given."""
        _refuse_seeds(seeds)
        check_subject(subject, placement=placement)
        settings: dict[str, Any] = {"out": out, "subject": subject, "placement": placement, "progress": progress}
        if size == "smoke":
            few = [m for m in METHODS if m.unit == "neuron+head"][:3]
            settings |= {"plantings": [Planting("neurons", 1, "money", 0)], "methods": few, "tips": 8, "benign": 4}
        return planted_study(size=size, **settings)

    def plan(
        self,
        subject: str,
        *,
        size: Size = "small",
        seeds: tuple[int, ...] | None = None,
        placement: Placement | None = None,
    ) -> list[str]:
        """How much is planted and looked for; the time is not estimated."""
        _refuse_seeds(seeds)
        plantings = 1 if size == "smoke" else len(PLANTINGS)
        return [
            f"{self.name} at scale {size} on {subject}: {plantings} plantings",
            "the time depends on the methods; on 2 CPU cores one planting of SmolLM2 takes about 20 min",
        ]


def _refuse_seeds(seeds: tuple[int, ...] | None) -> None:
    if seeds is not None:
        raise UsageError("the study planted takes no --seeds: each of its plantings has its own")


STUDY = PlantedStudy("planted", "can a method find weights that are known to carry a behaviour?", "ours", rank=10)
