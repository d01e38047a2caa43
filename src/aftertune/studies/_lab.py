"""An experiment as data: steps make subjects, arms name them, readings ask them, claims say what must come out.

A study is written once, as a `Study`; `_runner` makes, reads, decides and keeps it. Everything here is frozen, so
that what a study does is its own identity: data counts by content, never by the name of the function that reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias

from aftertune._registered import row_named, rows
from aftertune.data import Conversation
from aftertune.errors import UsageError
from aftertune.model import EMBEDDED
from aftertune.probes import LikelihoodProbe, MeasurePlan
from aftertune.runs import Progress
from aftertune.stats import ClaimResult, Effects, Expect, Measurement, read_effects
from aftertune.tuning import TuneOptions

if TYPE_CHECKING:
    from aftertune.inspect_bridge import TaskPlan
    from aftertune.model import Placement
    from aftertune.studies._workshop import Lab

SCHEMA = 1
_SIZES = ("smoke", "small", "full")
Size = Literal["smoke", "small", "full"]
Figure: TypeAlias = Mapping[str, Any]
"""What a report draws, as JSON values: ``kind`` ("heat_map", "trade_off", "effects", "table") and its fields."""


class Step(Protocol):
    """Makes one subject of another. A frozen dataclass: its fields are its identity.

    Attributes:
        uses_seed: whether it makes another subject with every seed; arms share what is the same with all.
    """

    uses_seed: ClassVar[bool]

    def __call__(self, lab: Lab, subject: str, seed: int) -> str:
        """The spec of the subject it made of ``subject``."""


@dataclass(frozen=True)
class Arm:
    """A subject of a study: the base put through steps.

    Attributes:
        name: unique in its study; ``@`` is reserved for conditions.
        steps: in order.
        seeded: whether it is made once for each seed.
        subject: another base than the study's (None for the study's).
    """

    name: str
    steps: tuple[Step, ...] = ()
    seeded: bool = False
    subject: str | None = None

    def __post_init__(self) -> None:
        if "@" in self.name:
            raise ValueError(f"arm {self.name!r}: '@' parts an arm from a condition; choose another name")


@dataclass(frozen=True)
class Condition:
    """How a reading asks: part of the reading, so one model under two conditions compares like two models.

    Attributes:
        name: what claims call it, as in ``tuned@trigger``.
        system: a system prompt, in place of the question's own.
        shots: conversations that stand before each question.
        prefix: stands before the last user message, such as a trigger.
        suffix: stands behind it, such as a demanded format.
    """

    name: str
    system: str | None = None
    shots: tuple[Conversation, ...] = ()
    prefix: str = ""
    suffix: str = ""


@dataclass(frozen=True)
class Reading:
    """What is asked of every arm.

    Attributes:
        plan: probes (or a function that gives them), a plan of an audit, or tasks that sample answers.
        condition: how it is asked; None for plainly.
    """

    plan: MeasurePlan | TaskPlan | Callable[[], MeasurePlan | Sequence[LikelihoodProbe]] | Search
    condition: Condition | None = None

    @property
    def name(self) -> str:
        """Name of its condition ("" for none)."""
        return self.condition.name if self.condition else ""


class Search(Protocol):
    """A reading that is a document instead of numbers by item, such as a search for weights."""

    def document(self, lab: Lab, subject: str, folder: Path) -> dict[str, Any]:
        """JSON values of what was found; ``folder`` outlives a kill."""


@dataclass(frozen=True)
class PaperFinding:
    """What a paper reported.

    Attributes:
        text: in a sentence, with its number.
        source: section, table or figure.
    """

    text: str
    source: str


@dataclass(frozen=True)
class Claim:
    """What must come out, fixed before anything is measured.

    Attributes:
        text: the sentence.
        metric: what is compared.
        arm: whose numbers; ``ARM@CONDITION`` for those under a condition.
        against: the arm they are compared with; three arms (b, c, d) ask whether arm − b differs from c − d.
        expect: where the mean effect should lie. More is worse, so harm that falls is "lower".
        tolerance: at least so far ("lower", "higher"), or at most ("within"), in the metric's unit.
        paper: what the paper reported.
        differs: how the efforts of its seeded arms differ, where they differ on purpose.
        known_above: nothing is claimed unless ``against`` lies surely above this, as chance level ("cannot be lost").
        effects: gives the effects where they are no difference of two arms.
    """

    text: str
    metric: str
    arm: str
    against: str | tuple[str, str, str]
    expect: Expect
    tolerance: float = 0.0
    paper: PaperFinding | None = None
    differs: str = ""
    known_above: float | None = None
    effects: Callable[[Results], Effects] | None = field(default=None, compare=False)

    @property
    def arms(self) -> tuple[str, ...]:
        """All arms it speaks about, without their conditions."""
        against = (self.against,) if isinstance(self.against, str) else self.against
        return tuple(name.partition("@")[0] for name in (self.arm, *against))


@dataclass(frozen=True)
class Scale:
    """How large a study is run.

    Attributes:
        rows: rows to tune on, at most (None for all).
        steps: optimiser steps (None for those of the study).
        items: items of each probe, at most, evenly spread (None for all).
        seeds: of seeded arms (None for those of the study).
        subjects: the models of the paper; the first is the default subject of that scale.
        settings: fields of steps and searches that it replaces, such as ``{"count": 4}``.
        options: fields of `TuneOptions` that it replaces.
    """

    rows: int | None = None
    steps: int | None = None
    items: int | None = None
    seeds: tuple[int, ...] | None = None
    subjects: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def of(self, step: Any) -> Any:
        """A step or search at this scale."""
        own = {f.name: getattr(step, f.name) for f in fields(step)}
        changed = {name: value for name, value in self.settings.items() if name in own}
        if isinstance(own.get("options"), TuneOptions):
            steps = {"steps": self.steps, "epochs": None} if self.steps else {}
            changed["options"] = TuneOptions(**{**own["options"].model_dump(), **steps, **self.options})
        if "limit" in own and self.rows is not None:
            changed.setdefault("limit", self.rows)
        return replace(step, **changed) if changed else step


@dataclass(frozen=True)
class StudyRow:
    """What lists and the command line know of a study. A study's file exports one as ``STUDY``.

    Attributes:
        name: what ``aftertune study`` calls it.
        asks: the question, for lists and titles.
        source: the paper and finding that it tests.
        rank: where it stands in lists.
    """

    name: str
    asks: str
    source: str
    rank: int = field(default=50, kw_only=True)

    def folder(self, size: Size = "small") -> Path:
        """The run folder where none is named."""
        return Path("runs") / (self.name if size == "small" else f"{self.name}-{size}")

    def usual_subject(self, size: Size) -> str:
        """The subject where none is named: at full scale the first of the paper's."""
        return EMBEDDED

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
        """Run it; see `run_study`."""
        raise NotImplementedError

    def plan(
        self,
        subject: str,
        *,
        size: Size = "small",
        seeds: tuple[int, ...] | None = None,
        placement: Placement | None = None,
    ) -> list[str]:
        """What running it takes, in lines; see `plan_study`."""
        raise NotImplementedError


@dataclass(frozen=True)
class Study(StudyRow):
    """An experiment.

    Attributes:
        arms: what is made.
        readings: what is asked of every arm.
        claims: what must come out.
        seeds: of seeded arms.
        scales: what "smoke" and "full" change; "small" is the study as written.
        differs: how it differs from the paper, a sentence each.
        figure: what the report draws beside the table of arms.
        also: further claims that rest on documents instead of numbers by item.
        effort_tolerance: by how much the supervised tokens of seeded arms may differ, as a share of the larger.
    """

    arms: tuple[Arm, ...] = ()
    readings: tuple[Reading, ...] = ()
    claims: tuple[Claim, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    scales: Mapping[str, Scale] = field(default_factory=dict)
    differs: tuple[str, ...] = ()
    figure: Callable[[Results], Sequence[Figure]] | None = None
    also: Callable[[Results], Sequence[ClaimResult]] | None = None
    effort_tolerance: float = 0.1

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        if len(set(names)) < len(names):
            raise ValueError(f"{self.name}: two arms share a name")
        for claim in self.claims:
            for name in claim.arms if claim.effects is None else ():
                if name not in names:
                    raise ValueError(f"{self.name}: the claim {claim.text!r} names no arm: {name!r}")
        if unknown := set(self.scales) - set(_SIZES):
            raise ValueError(f"{self.name}: there is no scale {sorted(unknown)[0]!r}; scales are {', '.join(_SIZES)}")

    def at(self, size: Size, seeds: tuple[int, ...] | None = None) -> Study:
        """The study at a scale, with its steps, readings and seeds as they will be used.

        Raises:
            UsageError: a seed is given twice.
        """
        scale = self.scales.get(size, Scale())
        arms = tuple(replace(arm, steps=tuple(map(scale.of, arm.steps))) for arm in self.arms)
        readings = tuple(replace(r, plan=scale.of(r.plan)) if hasattr(r.plan, "document") else r for r in self.readings)
        chosen = seeds if seeds is not None else scale.seeds or self.seeds
        if len(set(chosen)) < len(chosen) or not chosen:
            raise UsageError(f"seeds {','.join(map(str, chosen))}: give at least one seed, and each once")
        return replace(self, arms=arms, readings=readings, seeds=chosen)

    def usual_subject(self, size: Size) -> str:
        """The first subject of the scale, else the embedded one."""
        return (*self.scales.get(size, Scale()).subjects, EMBEDDED)[0]

    def items(self, size: Size) -> int | None:
        """Items of each probe at a scale."""
        return self.scales.get(size, Scale()).items

    def run(self, subject: str, out: Path | None = None, **settings: Any) -> dict[str, Any]:
        """Run it; see `run_study`."""
        from aftertune.studies._runner import run_study

        return run_study(self, subject, out, **settings)

    def plan(self, subject: str, **settings: Any) -> list[str]:
        """What running it takes; see `plan_study`."""
        from aftertune.studies._plan import plan_study

        return plan_study(self, subject, **settings)


@dataclass(frozen=True)
class Results:
    """What was read.

    Attributes:
        study: as it was run.
        measured: by arm, condition ("" for none) and seed (None for arms without), all numbers.
        documents: by arm and seed, what searches found.
        about: by arm and seed, facts on its making: ``effort`` of each fine-tune, ``weights`` digest.
    """

    study: Study
    measured: Mapping[tuple[str, str, int | None], Sequence[Measurement]]
    documents: Mapping[tuple[str, int | None], Mapping[str, Any]] = field(default_factory=dict)
    about: Mapping[tuple[str, int | None], Mapping[str, Any]] = field(default_factory=dict)

    def effects(self, arm: str, metric: str) -> Effects:
        """One arm's numbers of one metric; ``ARM@CONDITION`` for those under a condition.

        Raises:
            UsageError: the arm was not asked for this metric.
        """
        name, _, condition = arm.partition("@")
        found: dict[int | str | None, Sequence[Measurement]] = {
            seed: m for (a, c, seed), m in self.measured.items() if (a, c) == (name, condition)
        }
        try:
            return read_effects(found, metric)
        except ValueError as error:
            raise UsageError(f"study {self.study.name}, arm {arm}: {error}") from error

    def metrics(self) -> tuple[str, ...]:
        """All metrics that were read, in the order of the readings."""
        return tuple(dict.fromkeys(m.metric for found in self.measured.values() for m in found))


def studies() -> tuple[StudyRow, ...]:
    """All studies: ours and those of extensions.

    Raises:
        DataError: an extension is broken, see `aftertune._registered.rows`.
    """
    return rows("studies", "STUDY", StudyRow)


def study_named(name: str) -> StudyRow:
    """The study of this name.

    Raises:
        UsageError: there is none.
    """
    return row_named("studies", "STUDY", StudyRow, name)
