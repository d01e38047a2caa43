"""What a report shows, before it becomes HTML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aftertune.report._answers import SampledAnswers
from aftertune.report._judges import JudgeAgreement
from aftertune.report._sections import Claim, Section
from aftertune.stats import Finding, SinceBaseline, Verdict


@dataclass(frozen=True)
class Example:
    """An item on which the two models differ much.

    Attributes:
        metric: whose values are shown.
        item: the item's id.
        group: its domain or category.
        base: the base's value.
        tuned: the tuned model's value.
        texts: field → text; untrusted, escaped wherever shown.
    """

    metric: str
    item: str
    group: str
    base: float
    tuned: float
    texts: Mapping[str, str]


@dataclass(frozen=True)
class ComparisonSection:
    """One tuned model against its base.

    Attributes:
        title: what to call the tuned model.
        about: a sentence on how it came to be ("" for none).
        verdict: of the comparison.
        base: identity record of the base.
        tuned: identity record of the tuned model.
        findings: all of them, breakdowns (``metric/group``) included.
        examples: items that moved most, worst first.
        since: what changed since an earlier audit (None where it was held against none).
        answers: what both models said when asked (None where nothing was sampled, or texts are left out).
        judges: how far judges agree, where several rated the same answers.
    """

    title: str
    about: str
    verdict: Verdict
    base: Mapping[str, Any]
    tuned: Mapping[str, Any]
    findings: tuple[Finding, ...]
    examples: tuple[Example, ...] = ()
    since: SinceBaseline | None = None
    answers: SampledAnswers | None = None
    judges: tuple[JudgeAgreement, ...] = ()


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
    """

    title: str
    lede: str
    sections: tuple[ComparisonSection, ...]
    manifest: Mapping[str, Any] = field(default_factory=dict)
    commands: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    chapters: tuple[Chapter, ...] = ()


@dataclass(frozen=True)
class StudyPage:
    """One self-contained report of a study: its claims, then what they rest on.

    Attributes:
        title: of the page.
        lede: one or two sentences under it.
        claims: what was tested.
        sections: what it rests on.
        manifest: of the run: versions, command, seeds.
        commands: how to reproduce, one shell command each.
        notes: what a reader must know (scale, limits), one sentence each.
    """

    title: str
    lede: str
    claims: tuple[Claim, ...]
    sections: tuple[Section, ...]
    manifest: Mapping[str, Any] = field(default_factory=dict)
    commands: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
