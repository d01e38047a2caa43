"""The page of an audit or a comparison, its first screen first.

But where it shows sampled answers: there one script of ours filters them, and the page is complete without it. The
page's policy names that script by its digest, so that no other runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from aftertune.report._answers import agreement_table, browse, confusion_table
from aftertune.report._charts import (
    MOST_GROUPS,
    Series,
    answer_shares,
    breakdown,
    forest_plot,
    groups_chart,
    groups_of,
    worst_first,
)
from aftertune.report._html import (
    Chart,
    as_mapping,
    both_layouts,
    draw_claims,
    draw_sections,
    fill,
    inline_script,
    manifest_parts,
    plain,
)
from aftertune.report._sections import ReportPage
from aftertune.report._text import unit, with_unit
from aftertune.report._words import Explanation, explain
from aftertune.runs import explain_damage, read_manifest
from aftertune.stats import ComparisonSection, Finding, leading_metrics
from aftertune.verbs import stored_section


def audit_page(folder: Path) -> ReportPage:
    """The report of a finished audit or comparison, from what its folder holds."""
    manifest, section = read_manifest(folder), stored_section(folder)
    with explain_damage(folder):
        return ReportPage(
            title=f"Audit of {section.title}",
            lede=f"{section.title} against {section.base['spec']}",
            sections=(section,),
            manifest=manifest,
            commands=(str(manifest.get("command", "")),),
            notes=(*((section.verdict.note,) if section.verdict.note else ()), *_marks(manifest)),
            redact=bool(manifest["config"].get("redact")),
        )


def _marks(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """What must be said of the judges that a run rests on."""
    graders = dict.fromkeys(
        str(n) for task in manifest.get("asked", ()) for names in task["graders"].values() for n in names
    )
    if not graders:
        return ()
    from aftertune.judges import offline_note  # brings Inspect with it

    return tuple(filter(None, map(offline_note, graders)))


_SAID = "answer of the tuned"
_DIGESTS = (
    ("weights SHA-256", "weights_sha256"),
    ("configuration SHA-256", "config_sha256"),
    ("tokenizer SHA-256", "tokenizer_sha256"),
    ("chat template SHA-256", "template_sha256"),
)


class _Comparison(NamedTuple):
    """A section, sorted for the template."""

    section: ComparisonSection
    words: Explanation
    forest: Chart | None
    deciding: tuple[Finding, ...]
    informing: tuple[Finding, ...]


class _Groups(NamedTuple):
    """One metric of all models by group, the most worsened first; the picture shows `drawn` of them, `rows` all."""

    metric: str
    chart: Chart
    rows: tuple[tuple[str, str, Finding], ...]
    groups: int
    drawn: int


class _Subject(NamedTuple):
    """A model that took part, once however often it was compared."""

    role: str
    facts: tuple[tuple[str, str], ...]
    digests: tuple[tuple[str, str], ...]


def render_report(page: ReportPage, *, redact: bool = False) -> str:
    """The page as HTML.

    Args:
        page: what to show; its texts may hold anything and are shown as text.
        redact: as a page can ask itself, see `ReportPage`.
    """
    redact = redact or page.redact
    shown = [s for s in page.sections if s.answers and s.answers.shown and not redact]
    answers = _series(page, answer_shares)
    title = "What became of the sampled answers, base and tuned"
    return fill(
        "report.html.j2",
        page=page,
        redact=redact,
        comparisons=[_comparison(place, section, page) for place, section in enumerate(page.sections)],
        domains=_domains(page),
        answers=both_layouts(groups_chart, answers, groups_of(answers), name="answers", title=title, about="share"),
        categories=_categories(page),
        judges=[
            (
                s.title,
                agreement_table(s.judges, f"Agreement of judges: {s.title}"),
                list(map(confusion_table, s.judges)),
            )
            for s in page.sections
            if s.judges
        ],
        browsers=[(s.title, browse(s.answers)) for s in shown if s.answers],
        script=inline_script("answers.js") if shown else None,
        said=any(_SAID in example.texts for section in page.sections for example in section.examples),
        drift=_drift(page),
        chapters=[
            (chapter, draw_claims(chapter.claims), draw_sections(chapter.sections, f"chapter-{place}"))
            for place, chapter in enumerate(page.chapters)
        ],
        subjects=_subjects(page),
        level=_level(page.manifest),
        **manifest_parts(page.manifest, page.commands),
    )


def _comparison(place: int, section: ComparisonSection, page: ReportPage) -> _Comparison:
    beside = [f for other in page.sections for f in other.findings]
    forest = both_layouts(forest_plot, section.findings, name=f"forest-{place}", title=section.title, beside=beside)
    top = [f for f in section.findings if "/" not in f.metric]
    deciding, informing = (tuple(f for f in top if f.decides == decides) for decides in (True, False))
    return _Comparison(section, explain(section), forest, deciding, informing)


def _series(page: ReportPage, groups: Callable[[tuple[Finding, ...]], Mapping[str, Finding]]) -> list[Series]:
    """The models that have such groups; each keeps its number on the page, and with it its mark."""
    found = ((place, section, groups(section.findings)) for place, section in enumerate(page.sections))
    return [Series(section.title, place, members) for place, section, members in found if members]


def _groups(
    series: list[Series], metric: str, name: str, title: str, *, in_order: bool = False, **options: Any
) -> _Groups | None:
    """One metric by group, the most worsened group first or as they come."""
    groups = groups_of(series) if in_order else worst_first(series)
    about = with_unit(options.pop("about", ""), unit(metric), ", ").removeprefix(", ")
    chart = both_layouts(groups_chart, series, groups[:MOST_GROUPS], name=name, title=title, about=about, **options)
    rows = tuple((g, one.label, one.groups[g]) for g in groups for one in series if g in one.groups)
    return _Groups(metric, chart, rows, len(groups), min(len(groups), MOST_GROUPS)) if chart else None


def _domains(page: ReportPage) -> _Groups | None:
    metric, sides = "preference.margin", ("← prefers aligned", "prefers misaligned →")
    series = _series(page, lambda findings: breakdown(findings, metric))
    return _groups(series, metric, "domains", "Preference by domain, base and tuned", sides=sides)


def _drift(page: ReportPage) -> _Groups | None:
    series = _series(page, lambda findings: breakdown(findings, "drift.kl"))
    return _groups(series, "drift.kl", "drift", "Drift by position in the answer", in_order=True)


def _categories(page: ReportPage) -> list[_Groups]:
    """The main metric of every task that asked in several categories."""
    heads = leading_metrics(f.metric.partition("/")[0] for section in page.sections for f in section.findings)
    drawn = []
    for place, metric in enumerate(heads.values()):
        series = _series(page, lambda findings, metric=metric: _asked(findings, metric))  # type: ignore[misc]
        found = _groups(series, metric, f"categories-{place}", f"{metric} by category")
        if found and found.groups > 1:
            drawn.append(found)
    return drawn


def _asked(findings: tuple[Finding, ...], metric: str) -> dict[str, Finding]:
    return {group: f for group, f in breakdown(findings, metric, exact=True).items() if f.items}


def _level(manifest: Mapping[str, Any]) -> str:
    """The intervals' coverage as "95 %", where the manifest tells."""
    for holder in (manifest, as_mapping(manifest.get("config"))):
        confidence = as_mapping(holder.get("policy")).get("confidence")
        if isinstance(confidence, float):
            return f"{100 * confidence:g} %"
    return ""


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
    shown = ("spec", "kind", "source", "revision", "base", "adapter", "parameters", "dtype")
    facts = [(key, plain(identity[key])) for key in shown if identity.get(key) not in (None, "", {})]
    digests = [(label, str(identity[key])) for label, key in _DIGESTS if identity.get(key)]
    return _Subject(role, tuple(facts), tuple(digests))
