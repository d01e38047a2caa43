"""Sections and claims, drawn: pictures in both layouts, and the tables that hold the same numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from aftertune.report._effects import edit_places, effect_forest, effects_table
from aftertune.report._heat_map import heat_map, heat_map_table
from aftertune.report._places import places_map, places_table
from aftertune.report._sections import Claim, EffectRow, Effects, HeatMap, Outcome, Places, Section, Table, TradeOff
from aftertune.report._trade_off import trade_off_chart, trade_off_table

# Claims look like verdicts: one that holds like a pass.
_LOOKS: dict[Outcome, str] = {"holds": "pass", "does not hold": "fail", "cannot be told": "inconclusive"}


@dataclass(frozen=True)
class Chart:
    """One chart in its two layouts; CSS shows the one that fits."""

    wide: Markup
    narrow: Markup


@dataclass(frozen=True)
class Panel:
    """A small chart of one measure."""

    row: EffectRow
    chart: Chart | None


@dataclass(frozen=True)
class Drawn:
    """A section for the template.

    Attributes:
        section: what it shows.
        table: its numbers.
        chart: its picture, if it has one.
        panels: its pictures, if it has one for each measure.
    """

    section: Section
    table: Table
    chart: Chart | None = None
    panels: tuple[Panel, ...] = ()


@dataclass(frozen=True)
class Claims:
    """Claims for the template: each with its look, and how many hold."""

    looks: tuple[tuple[Claim, str], ...]
    tally: str


def both_layouts(draw: Callable[..., str], *args: Any, name: str, **options: Any) -> Chart | None:
    """A chart drawn wide and narrow, or None where it draws nothing."""
    wide, narrow = (
        draw(*args, name=f"{name}-{layout}", narrow=layout == "narrow", **options) for layout in ("wide", "narrow")
    )
    # Markup is safe here: ElementTree escaped every text in it.
    return Chart(Markup(wide), Markup(narrow)) if wide else None


def draw_claims(claims: Sequence[Claim]) -> Claims:
    """Claims with their looks."""
    counts = Counter(claim.outcome for claim in claims)
    parts = [f"{outcome}: {counts[outcome]}" for outcome in _LOOKS if counts[outcome]]
    tally = f"{len(claims)} claims; {', '.join(parts)}" if len(claims) > 1 else ""
    return Claims(tuple((claim, _LOOKS[claim.outcome]) for claim in claims), tally)


def draw_sections(sections: Sequence[Section], prefix: str) -> list[Drawn]:
    """Sections with their pictures.

    Args:
        sections: what to draw.
        prefix: of the pictures' names, unique within the page.
    """
    return [_draw(section, f"{prefix}-{place}") for place, section in enumerate(sections)]


def _draw(section: Section, name: str) -> Drawn:
    match section:
        case TradeOff():
            return Drawn(section, trade_off_table(section), both_layouts(trade_off_chart, section, name=name))
        case HeatMap():
            return Drawn(section, heat_map_table(section), both_layouts(heat_map, section, name=name))
        case Places():
            return Drawn(section, places_table(section), both_layouts(places_map, section, name=name))
        case Effects():
            return Drawn(section, effects_table(section), panels=_panels(section, name))
        case Table():
            return Drawn(section, section)


def _panels(section: Effects, name: str) -> tuple[Panel, ...]:
    places = edit_places(section.rows)
    return tuple(
        Panel(row, both_layouts(effect_forest, row, places, name=f"{name}-{index}"))
        for index, row in enumerate(section.rows)
    )
