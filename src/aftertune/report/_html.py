"""The report as one HTML file that loads nothing and runs nothing."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from aftertune.comparison import Decision, Finding
from aftertune.report._charts import Series, breakdown, domain_chart, drift_chart, worst_first
from aftertune.report._forest import forest_plot
from aftertune.report._page import ComparisonSection, Example, ReportPage
from aftertune.report._text import about, clean, decision_word, number, signed, unit, worsening

_VERDICTS: dict[Decision, tuple[str, str]] = {
    "pass": ("Pass", "Every deciding metric stayed within its margin."),
    "fail": ("Fail", "At least one deciding metric is worse than its margin allows."),
    "inconclusive": ("Inconclusive", "The data do not settle every deciding metric. This is not a pass."),
}
_SUMMARY_KEYS = ("verb", "started", "platform", "cpus", "seed", "seeds", "fingerprint")


@dataclass(frozen=True)
class _Chart:
    """One chart in its two layouts; CSS shows the one that fits."""

    wide: Markup
    narrow: Markup


@dataclass(frozen=True)
class _Comparison:
    """A section, sorted for the template."""

    section: ComparisonSection
    word: str
    sentence: str
    tally: str
    forest: _Chart | None
    deciding: tuple[Finding, ...]
    informing: tuple[Finding, ...]


@dataclass(frozen=True)
class _Subject:
    """A model that took part, once however often it was compared."""

    role: str
    facts: tuple[tuple[str, str], ...]
    digests: tuple[tuple[str, str], ...]


def render_report(page: ReportPage, *, redact: bool = False) -> str:
    """The page as HTML.

    Args:
        page: what to show; its texts may hold anything and are shown as text.
        redact: leave out the examples' texts, so that the file may be shared where the data may not.
    """
    preference, drift = _series(page, "preference.margin"), _series(page, "drift.kl")
    return _environment().get_template("report.html.j2").render(
        page=page,
        redact=redact,
        comparisons=[_comparison(place, section, page) for place, section in enumerate(page.sections)],
        domains=_domains(preference),
        domain_rows=_rows(preference),
        drift=Markup(drift_chart(drift, name="drift")),
        subjects=_subjects(page),
        level=_level(page.manifest),
        versions=_mapping(page.manifest.get("versions")),
        run=[(key, page.manifest[key]) for key in _SUMMARY_KEYS if page.manifest.get(key) not in (None, "")],
        config=_config(page.manifest),
        commands=page.commands or tuple(filter(None, [str(page.manifest.get("command") or "")])),
    )  # fmt: skip


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
    environment.globals.update(about=about, unit=unit, decision_word=decision_word, worsening=worsening)
    environment.filters.update(number=number, signed=signed, moved=_moved, value=_plain)
    return environment


def _finalize(value: Any) -> Any:
    """Everything a template prints passes here, before it is escaped."""
    if isinstance(value, Markup):
        return value
    return clean(value) if isinstance(value, str) else value


def _comparison(place: int, section: ComparisonSection, page: ReportPage) -> _Comparison:
    word, sentence = _VERDICTS[section.verdict.decision]
    beside = [f for other in page.sections for f in other.findings]
    wide, narrow = (
        forest_plot(section.findings, name=f"forest-{place}-{size}", title=section.title, narrow=small, beside=beside)
        for size, small in (("wide", False), ("narrow", True))
    )
    top = [f for f in section.findings if "/" not in f.metric]
    deciding = tuple(f for f in top if f.decides)
    informing = tuple(f for f in top if not f.decides)
    return _Comparison(section, word, sentence, _tally(deciding), _chart(wide, narrow), deciding, informing)


def _tally(deciding: tuple[Finding, ...]) -> str:
    counts = Counter(f.decision for f in deciding)
    parts = [f"{counts[decision]} {decision}" for decision in _VERDICTS if counts[decision]]
    return f"{len(deciding)} deciding metrics: {', '.join(parts)}" if len(deciding) > 1 else ""


def _chart(wide: str, narrow: str) -> _Chart | None:
    # Markup is safe here: ElementTree escaped every text in it.
    return _Chart(Markup(wide), Markup(narrow)) if wide else None


def _series(page: ReportPage, metric: str) -> list[Series]:
    return [
        Series(section.title, place, groups)
        for place, section in enumerate(page.sections)
        if (groups := breakdown(section.findings, metric))
    ]


def _domains(series: list[Series]) -> _Chart | None:
    wide, narrow = (
        domain_chart(series, name=f"domains-{layout}", narrow=layout == "narrow") for layout in ("wide", "narrow")
    )
    return _chart(wide, narrow)


def _rows(series: list[Series]) -> list[tuple[str, str, Finding]]:
    return [
        (group, one.label, one.groups[group]) for group in worst_first(series) for one in series if group in one.groups
    ]


def _moved(example: Example) -> str:
    return f"{number(example.base)} → {number(example.tuned)} {unit(example.metric)}".rstrip()


def _subjects(page: ReportPage) -> list[_Subject]:
    """Bases first; the same model named by two sections is listed once."""
    found: dict[str, _Subject] = {}
    named = [("base", s.base) for s in page.sections] + [(s.title, s.tuned) for s in page.sections]
    for role, identity in named:
        if identity:
            key = json.dumps([role == "base" or role, identity], sort_keys=True, default=str)
            found.setdefault(key, _subject(role, identity))
    return list(found.values())


def _subject(role: str, identity: Mapping[str, Any]) -> _Subject:
    plain = ("spec", "kind", "source", "revision", "base", "adapter", "parameters", "dtype")
    facts = [(key, _plain(identity[key])) for key in plain if identity.get(key) not in (None, "", {})]
    digests = [
        (label, str(identity[key]))
        for label, key in (("weights SHA-256", "weights_sha256"), ("chat template SHA-256", "template_sha256"))
        if identity.get(key)
    ]
    return _Subject(role, tuple(facts), tuple(digests))


def _plain(value: Any) -> str:
    """A JSON value in words a reader can scan."""
    if isinstance(value, Mapping):
        return ", ".join(f"{str(k).replace('_', ' ')} {_plain(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    return f"{value:g}" if isinstance(value, float) else str(value)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _level(manifest: Mapping[str, Any]) -> str:
    """The intervals' coverage as "95 %", where the manifest tells."""
    for place in (manifest, _mapping(manifest.get("config"))):
        confidence = _mapping(place.get("policy")).get("confidence")
        if isinstance(confidence, float):
            return f"{100 * confidence:g} %"
    return ""


def _config(manifest: Mapping[str, Any]) -> str:
    config = _mapping(manifest.get("config"))
    return json.dumps(config, indent=2, ensure_ascii=False, sort_keys=True, default=str) if config else ""
