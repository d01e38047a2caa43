"""The report as one HTML file that loads nothing and runs nothing.

But where it shows sampled answers: there one script of ours filters them, and the page is complete without it. The
page's policy names that script by its digest, so that no other runs.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from markupsafe import Markup

from aftertune.report._browser import Browser, browse
from aftertune.report._categories import draw_categories
from aftertune.report._charts import (
    Series,
    answer_shares,
    answers_chart,
    breakdown,
    domain_chart,
    drift_chart,
    worst_first,
)
from aftertune.report._drawing import Chart, Claims, Drawn, both_layouts, draw_claims, draw_sections
from aftertune.report._forest import forest_plot
from aftertune.report._judges import agreement_table, confusion_table
from aftertune.report._manifest import level, manifest_parts, plain
from aftertune.report._page import Chapter, ComparisonSection, ReportPage
from aftertune.report._sections import Table
from aftertune.report._template import fill, inline_script
from aftertune.stats import Decision, Finding, FindingDecision, first_line
from aftertune.tasks import PUBLISHED, PUBLISHED_SOURCE, PublishedRate

_VERDICTS: dict[Decision, tuple[str, str]] = {
    "pass": ("Pass", "Every deciding metric stayed within its margin."),
    "fail": ("Fail", "At least one deciding metric is worse than its margin allows."),
    "inconclusive": ("Inconclusive", "The data do not settle every deciding metric. This is not a pass."),
}


_SAID = "answer of the tuned"


@dataclass(frozen=True)
class _Comparison:
    """A section, sorted for the template."""

    section: ComparisonSection
    word: str
    sentence: str
    note: str
    reasons: tuple[str, ...]
    tally: str
    forest: Chart | None
    deciding: tuple[Finding, ...]
    informing: tuple[Finding, ...]


@dataclass(frozen=True)
class _Subject:
    """A model that took part, once however often it was compared."""

    role: str
    facts: tuple[tuple[str, str], ...]
    digests: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Judged:
    """Two judges' agreement on the answers of one section."""

    title: str
    table: Table
    confusions: tuple[Table, ...]


@dataclass(frozen=True)
class _Chapter:
    """A chapter, drawn for the template."""

    chapter: Chapter
    claims: Claims
    sections: list[Drawn]


def render_report(page: ReportPage, *, redact: bool = False) -> str:
    """The page as HTML.

    Args:
        page: what to show; its texts may hold anything and are shown as text.
        redact: leave out the examples' texts and all sampled answers, so that the file may be shared where the data
            may not.
    """
    browsers = [] if redact else _browsers(page)
    preference, drift = _series(page, "preference.margin"), _series(page, "drift.kl")
    return fill(
        "report.html.j2",
        page=page,
        redact=redact,
        comparisons=[_comparison(place, section, page) for place, section in enumerate(page.sections)],
        domains=both_layouts(domain_chart, preference, name="domains"),
        domain_rows=_rows(preference),
        answers=both_layouts(answers_chart, _answers(page), name="answers"),
        categories=draw_categories(page.sections),
        judges=_judged(page),
        browsers=browsers,
        script=inline_script("answers.js") if browsers else None,
        published=_published(page),
        published_source=PUBLISHED_SOURCE,
        said=any(_SAID in example.texts for section in page.sections for example in section.examples),
        drift=Markup(drift_chart(drift, name="drift")),
        chapters=[_chapter(place, chapter) for place, chapter in enumerate(page.chapters)],
        subjects=_subjects(page),
        level=level(page.manifest),
        **manifest_parts(page.manifest, page.commands),
    )


def _comparison(place: int, section: ComparisonSection, page: ReportPage) -> _Comparison:
    word, sentence = _VERDICTS[section.verdict.decision]
    beside = [f for other in page.sections for f in other.findings]
    forest = both_layouts(forest_plot, section.findings, name=f"forest-{place}", title=section.title, beside=beside)
    top = [f for f in section.findings if "/" not in f.metric]
    deciding = tuple(f for f in top if f.decides)
    informing = tuple(f for f in top if not f.decides)
    first, rest = first_line(section.verdict, section.findings)
    said = first[:1].upper() + first[1:] or sentence
    tally = _tally(deciding)
    return _Comparison(section, word, said, rest.note, rest.reasons, tally, forest, deciding, informing)


def _chapter(place: int, chapter: Chapter) -> _Chapter:
    return _Chapter(chapter, draw_claims(chapter.claims), draw_sections(chapter.sections, f"chapter-{place}"))


def _tally(deciding: tuple[Finding, ...]) -> str:
    counts = Counter(f.decision for f in deciding)
    parts = [f"{counts[decision]} {decision}" for decision in get_args(FindingDecision) if counts[decision]]
    return f"{len(deciding)} deciding metrics: {', '.join(parts)}" if len(deciding) > 1 else ""


def _series(page: ReportPage, metric: str) -> list[Series]:
    return [
        Series(section.title, place, groups)
        for place, section in enumerate(page.sections)
        if (groups := breakdown(section.findings, metric))
    ]


def _answers(page: ReportPage) -> list[Series]:
    return [
        Series(section.title, place, shares)
        for place, section in enumerate(page.sections)
        if (shares := answer_shares(section.findings))
    ]


def _browsers(page: ReportPage) -> list[tuple[str, Browser]]:
    return [(s.title, browse(s.answers)) for s in page.sections if s.answers and s.answers.shown]


def _judged(page: ReportPage) -> list[_Judged]:
    return [
        _Judged(
            section.title,
            agreement_table(section.judges, f"Agreement of judges: {section.title}"),
            tuple(map(confusion_table, section.judges)),
        )
        for section in page.sections
        if section.judges
    ]


def _published(page: ReportPage) -> list[PublishedRate]:
    tasks = {f.metric.partition(".")[0] for section in page.sections for f in section.findings}
    return [rate for rate in PUBLISHED if rate.task in tasks]


def _rows(series: list[Series]) -> list[tuple[str, str, Finding]]:
    return [
        (group, one.label, one.groups[group]) for group in worst_first(series) for one in series if group in one.groups
    ]


def _subjects(page: ReportPage) -> list[_Subject]:
    """Bases first; the same model named by two sections is listed once."""
    found: dict[str, _Subject] = {}
    named = [("base", s.base) for s in page.sections] + [(s.title, s.tuned) for s in page.sections]
    for role, identity in named:
        if identity:
            key = json.dumps([role == "base" or role, identity], sort_keys=True, default=str)
            found.setdefault(key, _subject(role, identity))
    return list(found.values())


_DIGESTS = (
    ("weights SHA-256", "weights_sha256"),
    ("configuration SHA-256", "config_sha256"),
    ("tokenizer SHA-256", "tokenizer_sha256"),
    ("chat template SHA-256", "template_sha256"),
)


def _subject(role: str, identity: Mapping[str, Any]) -> _Subject:
    shown = ("spec", "kind", "source", "revision", "base", "adapter", "parameters", "dtype")
    facts = [(key, plain(identity[key])) for key in shown if identity.get(key) not in (None, "", {})]
    digests = [(label, str(identity[key])) for label, key in _DIGESTS if identity.get(key)]
    return _Subject(role, tuple(facts), tuple(digests))
