"""What a page shows, before it becomes pictures and HTML: sections of a study or a chapter, and the pages they make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from aftertune.report._results import Claim
from aftertune.stats import ComparisonSection, Worse


@dataclass(frozen=True)
class TradeOffPoint:
    """One edit: what it costs and what it removes.

    Attributes:
        x: benign cost.
        y: harm removed.
        note: what it is, such as "1,315 weights" ("" for none).
    """

    x: float
    y: float
    note: str = ""


@dataclass(frozen=True)
class TradeOffLine:
    """Edits of one kind, joined in the given order; a single one stands as a point.

    Attributes:
        label: what they are called.
        points: the edits.
        emphasis: whether this is what the chart is about; the others are controls, drawn more quietly.
    """

    label: str
    points: tuple[TradeOffPoint, ...]
    emphasis: bool = False


@dataclass(frozen=True)
class TradeOff:
    """Harm removed against benign cost.

    Attributes:
        title: of the section.
        guide: how to read it ("" for none).
        x_label: what lies on the horizontal axis.
        y_label: what lies on the vertical axis.
        lines: what is compared.
        budget: the most that may be paid: a dashed line (None for no line).
        x_unit: unit of x ("" for none).
        y_unit: unit of y ("" for none).
    """

    title: str
    guide: str
    x_label: str
    y_label: str
    lines: tuple[TradeOffLine, ...]
    budget: float | None = None
    x_unit: str = "nats/token"
    y_unit: str = "nats/token"


@dataclass(frozen=True)
class HeatMap:
    """A matrix of numbers, such as what removing one domain's weights does to another.

    Attributes:
        title: of the section.
        guide: how to read it ("" for none).
        rows: their labels.
        columns: their labels.
        values: by row and column; None where there is no number.
        unit: of the values ("" for none).
        row_label: what the rows are ("" for none).
        column_label: what the columns are ("" for none).
        diverging: two colours that part at 0; otherwise one, from the least value to the greatest.
        marked: cells to outline, as (row, column).
        scale_group: heat maps of one page with the same name here share one colour scale ("" for a scale of its own).
        limits: values of the ends of the colour scale; None for those of the matrix, or of its group.
    """

    title: str
    guide: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    unit: str = ""
    row_label: str = ""
    column_label: str = ""
    diverging: bool = True
    marked: frozenset[tuple[int, int]] = frozenset()
    scale_group: str = ""
    limits: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if len(self.values) != len(self.rows) or any(len(row) != len(self.columns) for row in self.values):
            raise ValueError(f"{self.title}: the values are not {len(self.rows)} rows of {len(self.columns)}")


@dataclass(frozen=True)
class Places:
    """Where the chosen weights sit.

    Attributes:
        title: of the section.
        guide: how to read it ("" for none).
        layers: how many the model has.
        roles: kinds of matrices, in the order of a layer.
        counts: (layer, role) → chosen weights; what is left out counts 0.
        total: (layer, role) → weights of the matrix; colours then show the share chosen, and what is left out does
            not exist. None where it is not known.
    """

    title: str
    guide: str
    layers: int
    roles: tuple[str, ...]
    counts: Mapping[tuple[int, str], int]
    total: Mapping[tuple[int, str], int] | None = None


@dataclass(frozen=True)
class Effect:
    """What one edit did to a measure.

    Attributes:
        label: the edit.
        after: the measure after it.
        difference: after minus before.
        interval: of the difference.
        emphasis: whether this is the edit under test; the others are its controls.
    """

    label: str
    after: float
    difference: float
    interval: tuple[float, float]
    emphasis: bool = False


@dataclass(frozen=True)
class EffectRow:
    """A measure before, and after each edit.

    Attributes:
        measure: its name.
        about: one sentence on it ("" for none).
        unit: its unit ("" for none).
        worse: the direction in which it worsens (None for neither).
        before: its value without any edit.
        effects: one for each edit.
    """

    measure: str
    about: str
    unit: str
    worse: Worse | None
    before: float
    effects: tuple[Effect, ...]


@dataclass(frozen=True)
class Effects:
    """A patch beside its controls, measure by measure.

    Attributes:
        title: of the section.
        guide: how to read it ("" for none).
        rows: the measures, each drawn on a scale of its own.
    """

    title: str
    guide: str
    rows: tuple[EffectRow, ...]


@dataclass(frozen=True)
class Table:
    """Numbers and words in rows.

    Attributes:
        title: of the section.
        guide: how to read it ("" for none).
        header: names of the columns.
        rows: cells as they are shown; the first names the row.
        numeric: columns to align at their right.
    """

    title: str
    guide: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if any(len(row) != len(self.header) for row in self.rows):
            raise ValueError(f"{self.title}: a row has not {len(self.header)} cells")


Section: TypeAlias = TradeOff | HeatMap | Places | Effects | Table


@dataclass(frozen=True)
class Chapter:
    """A study within a report, such as "the weights behind it, and what patching them does".

    Attributes:
        title: of the chapter.
        lede: one or two sentences under it ("" for none).
        claims: what was tested.
        sections: what it rests on.
    """

    title: str
    lede: str
    claims: tuple[Claim, ...]
    sections: tuple[Section, ...]


@dataclass(frozen=True)
class ReportPage:
    """One self-contained report.

    Attributes:
        title: of the page.
        lede: one or two sentences under it.
        sections: one for an audit; several are laid side by side.
        manifest: of the run: versions, command, seeds.
        commands: how to reproduce, one shell command each.
        notes: what a reader must know (scale, limits), one sentence each.
        chapters: what else was found out about the models.
        redact: leave out the examples' texts and all sampled answers, so that the file may be shared where the data
            may not.
    """

    title: str
    lede: str
    sections: tuple[ComparisonSection, ...]
    manifest: Mapping[str, Any] = field(default_factory=dict)
    commands: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    chapters: tuple[Chapter, ...] = ()
    redact: bool = False


@dataclass(frozen=True)
class StudyPage(Chapter):
    """One self-contained report of a study: its claims, then what they rest on.

    Attributes:
        manifest: of the run: versions, command, seeds.
        commands: how to reproduce, one shell command each.
        notes: what a reader must know (scale, limits), one sentence each.
    """

    manifest: Mapping[str, Any] = field(default_factory=dict)
    commands: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


Page: TypeAlias = ReportPage | StudyPage
