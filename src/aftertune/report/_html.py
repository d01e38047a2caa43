"""Pages as HTML that loads nothing: the templates, sections with their pictures and tables, and a study's page."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from aftertune.report._charts import edit_places, effect_forest, effects_table
from aftertune.report._maps import heat_map, heat_map_table, places_map, places_table, share_scales
from aftertune.report._results import Claim, Outcome
from aftertune.report._sections import EffectRow, Effects, HeatMap, Places, Section, StudyPage, Table, TradeOff
from aftertune.report._text import (
    about,
    clean,
    decision_word,
    label,
    number,
    signed,
    true_minus,
    unit,
    with_interval,
    worsening,
)
from aftertune.report._trade_off import trade_off_chart, trade_off_table
from aftertune.stats import Example, describe_worst

# Claims look like verdicts: one that holds like a pass. Older runs stored "cannot be told".
_LOOKS: dict[Outcome, str] = {
    "holds": "pass", "does not hold": "fail", "inconclusive": "inconclusive", "cannot be told": "inconclusive",
}  # fmt: skip
# An id of so many characters fits a column of a phone's table.
_LONG_ID = 22
_SUMMARY_KEYS = ("verb", "started", "platform", "cpus", "seed", "seeds", "fingerprint")


class Chart(NamedTuple):
    """One chart in its two layouts; CSS shows the one that fits."""

    wide: Markup
    narrow: Markup


class Panel(NamedTuple):
    """A small chart of one measure."""

    row: EffectRow
    chart: Chart | None


class Drawn(NamedTuple):
    """A section for the template: what it shows, its numbers, and its picture or one for each measure."""

    section: Section
    table: Table
    chart: Chart | None = None
    panels: tuple[Panel, ...] = ()


class Claims(NamedTuple):
    """Claims for the template: each with its outcome and its look, and how many hold."""

    looks: tuple[tuple[Claim, str, str], ...]
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
    words = [outcome_word(claim.outcome) for claim in claims]
    counts = Counter(words)
    parts = [f"{word}: {counts[word]}" for word in _LOOKS if counts[word]]
    tally = f"{len(claims)} claims; {', '.join(parts)}" if len(claims) > 1 else ""
    looks = tuple((claim, word, _LOOKS[claim.outcome]) for claim, word in zip(claims, words, strict=True))
    return Claims(looks, tally)


def outcome_word(outcome: Outcome) -> Outcome:
    """The outcome in today's words."""
    return "inconclusive" if outcome == "cannot be told" else outcome


def draw_sections(sections: Sequence[Section], prefix: str) -> list[Drawn]:
    """Sections with their pictures; heat maps of one scale group share their colours.

    Args:
        sections: what to draw.
        prefix: of the pictures' names, unique within the page.
    """
    return [_draw(section, f"{prefix}-{place}") for place, section in enumerate(share_scales(sections))]


def _draw(section: Section, name: str) -> Drawn:
    chart: Chart | None = None
    panels: tuple[Panel, ...] = ()
    match section:
        case TradeOff():
            chart = both_layouts(trade_off_chart, section, name=name)
        case HeatMap():
            chart = both_layouts(heat_map, section, name=name)
        case Places():
            chart = both_layouts(places_map, section, name=name)
        case Effects():
            places = edit_places(section.rows)
            panels = tuple(
                Panel(row, both_layouts(effect_forest, row, places, name=f"{name}-{index}"))
                for index, row in enumerate(section.rows)
            )
    return Drawn(section, table_of(section), chart, panels)


def table_of(section: Section) -> Table:
    """The numbers of a section."""
    match section:
        case TradeOff():
            return trade_off_table(section)
        case HeatMap():
            return heat_map_table(section)
        case Places():
            return places_table(section)
        case Effects():
            return effects_table(section)
        case Table():
            return section


def render_study(page: StudyPage) -> str:
    """The study as HTML: its claims, what they rest on, and how it was measured.

    Args:
        page: what to show; its texts may hold anything and are shown as text.
    """
    return fill(
        "study.html.j2",
        page=page,
        claims=draw_claims(page.claims),
        sections=draw_sections(page.sections, "section"),
        **manifest_parts(page.manifest, page.commands),
    )


def manifest_parts(manifest: Mapping[str, Any], commands: Sequence[str]) -> dict[str, Any]:
    """The template's variables on how a page was made: versions, machine, configuration, command.

    Args:
        manifest: of the run.
        commands: how to reproduce; the manifest's own stands in where there are none.
    """
    config = as_mapping(manifest.get("config"))
    written = json.dumps(config, indent=2, ensure_ascii=False, sort_keys=True, default=str) if config else ""
    return {
        "versions": as_mapping(manifest.get("versions")),
        "run": [(key, manifest[key]) for key in _SUMMARY_KEYS if manifest.get(key) not in (None, "")],
        "config": written,
        "commands": [c for c in commands if c] or [c for c in [str(manifest.get("command") or "")] if c],
    }


def as_mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def plain(value: Any) -> str:
    """A JSON value in words a reader can scan."""
    if isinstance(value, Mapping):
        return ", ".join(f"{str(k).replace('_', ' ')} {plain(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    return f"{value:g}" if isinstance(value, float) else str(value)


def fill(template: str, **variables: Any) -> str:
    """A template with its variables put in; all text is cleaned and escaped."""
    return _environment().get_template(template).render(**variables)


def template_text(name: str) -> str:
    """One of our templates or style sheets as it is."""
    return resources.files("aftertune.report").joinpath("templates", name).read_text("utf-8")


@functools.cache
def inline_script(name: str) -> tuple[Markup, str]:
    """One of our scripts, to the letter, and its SHA-256 in base64, by which the page's policy lets it run alone.

    Nothing of a report is ever put into it.
    """
    text = template_text(name)
    return Markup(text), base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("aftertune.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals.update(
        about=about, unit=unit, label=label, decision_word=decision_word, worsening=worsening,
        describe_worst=describe_worst,
    )  # fmt: skip
    environment.filters.update(
        number=number, signed=signed, moved=_moved, value=plain, with_interval=with_interval, true_minus=true_minus,
        breakable=_breakable,
    )  # fmt: skip
    return environment


def _finalize(value: Any) -> Any:
    """Everything a template prints passes here, before it is escaped."""
    if isinstance(value, Markup):
        return value
    return clean(value) if isinstance(value, str) else value


def _moved(example: Example) -> str:
    return f"{number(example.base)} → {number(example.tuned)} {unit(example.metric)}".rstrip()


def _breakable(name: str) -> Markup:
    """A metric's id; a long one breaks behind its dots, colons and underscores, and not within a word."""
    escaped = str(Markup.escape(clean(name)))
    return Markup(re.sub(r"([._:/])", r"\1<wbr>", escaped) if len(name) > _LONG_ID else escaped)
