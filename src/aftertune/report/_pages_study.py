"""A study's page and its figures, from ``study.json`` alone: the report knows no study."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aftertune.errors import OutputError
from aftertune.report._figures import figure_files
from aftertune.report._maps import share_scales
from aftertune.report._results import Claim
from aftertune.report._sections import (
    Effect,
    EffectRow,
    Effects,
    HeatMap,
    Section,
    StudyPage,
    Table,
    TradeOff,
    TradeOffLine,
    TradeOffPoint,
)
from aftertune.runs import MEND, read_document, read_manifest
from aftertune.stats import find_metric

SCHEMA = 1


def study_page(folder: Path) -> StudyPage:
    """The page of a finished study.

    Raises:
        OutputError: it was made by a version that kept studies in another form.
    """
    document = read_document(folder / "study.json")
    if document.get("schema") != SCHEMA:
        raise OutputError(f"{folder}: holds a study of another version of aftertune; {MEND}")
    sections = [section_of(figure) for figure in document["figures"]]
    if document["arms"]:
        sections.append(_arms(document["arms"]))
    return StudyPage(
        title=f"{document['study'].replace('_', ' ').capitalize()}: {document['subject']['spec']}",
        lede=_sentence(document["asks"]),
        claims=tuple(Claim(c["text"], c["outcome"], _detail(c)) for c in document["claims"]),
        sections=tuple(share_scales(sections)),
        manifest=read_manifest(folder),
        commands=(document["command"],),
        notes=(f"After {document['source']}.", *document["differs"], *_scopes(document)),
    )


def write_study_figures(page: StudyPage, folder: Path) -> list[Path]:
    """Each section's picture as SVG (and PNG where that extra is installed), and its numbers as CSV."""
    written = []
    for number, section in enumerate(page.sections, 1):
        words = "".join(c if c.isalnum() else "-" for c in section.title.lower())
        name = "-".join(part for part in words.split("-") if part)[:60]
        written += figure_files(section, folder / "figures", f"{number}-{name}")
    return written


def section_of(figure: Mapping[str, Any]) -> Section:
    """A section from the JSON values that a study gives for it: ``kind``, and the fields of that section."""
    own = {key: value for key, value in figure.items() if key != "kind"}
    if figure["kind"] == "heat_map":
        cells = frozenset(tuple(cell) for cell in own.pop("marked", ()))
        values = tuple(map(tuple, own.pop("values")))
        rows, columns = tuple(own.pop("rows")), tuple(own.pop("columns"))
        return HeatMap(**own, rows=rows, columns=columns, values=values, marked=cells)
    if figure["kind"] == "trade_off":
        lines = tuple(
            TradeOffLine(line["label"], tuple(TradeOffPoint(**p) for p in line["points"]), line.get("emphasis", False))
            for line in own.pop("lines")
        )
        return TradeOff(**own, lines=lines)
    if figure["kind"] == "effects":
        return Effects(own["title"], own["guide"], tuple(_effect_row(row) for row in own["rows"]))
    rows = tuple(map(tuple, own.pop("rows")))
    return Table(own["title"], own["guide"], tuple(own["header"]), rows, frozenset(own.get("numeric", ())))


def _effect_row(row: Mapping[str, Any]) -> EffectRow:
    metric = find_metric(row["measure"])
    effects = tuple(Effect(**{**one, "interval": _ends(one["interval"])}) for one in row["effects"])
    if metric is None:
        return EffectRow(row["measure"], "", "", None, row["before"], effects)
    return EffectRow(row["measure"], metric.about, metric.unit, metric.worse, row["before"], effects)


def _ends(interval: Sequence[float | None]) -> tuple[float, float]:
    """Ends as they were stored; JSON has no infinity, so nothing stands for it."""
    low, high = interval
    return (-math.inf if low is None else low, math.inf if high is None else high)


def _arms(arms: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for arm in arms:
        for metric, means in arm["means"].items():
            by_seed = " ".join(f"{value:+.3f}" for value in means) if arm["seeded"] else ""
            steps = ", ".join(arm["steps"]) or "none"
            rows.append((arm["arm"], steps, metric, f"{statistics.fmean(means):+.3f}", by_seed))
    return Table("Arms", "Means over items; one for each seed where an arm is seeded.",
                 ("arm", "steps", "measure", "mean", "by seed"), tuple(rows), frozenset({3, 4}))  # fmt: skip


def _detail(claim: Mapping[str, Any]) -> str:
    parts = [claim.get("detail", "")]
    if claim.get("scope") == "this one fine-tune":
        parts.append("this one fine-tune")
    if paper := claim.get("paper"):
        parts.append(f"the paper: {paper['text']} ({paper['source']})")
    return "; ".join(part for part in parts if part)


def _scopes(document: Mapping[str, Any]) -> tuple[str, ...]:
    if len(document["seeds"]) == 1:
        return ("One seed: the intervals speak about this one fine-tune, not about the recipe.",)
    if document["seeds"]:
        return ("Intervals cover prompts and seeds; Holm's correction covers all claims of the study.",)
    return ()


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
