"""A comparison in a few lines of Markdown, for job summaries and comments."""

from __future__ import annotations

import re

from aftertune.report._results import ComparisonSection
from aftertune.report._text import clean, unit, with_interval, with_unit, worsening
from aftertune.stats import Finding, describe_worst, first_line

_MARKUP = re.compile(r"([\\`*_\[\]<>#|~&@!$])")
# What would begin a list, a heading or a quotation within a list item.
_OPENING = re.compile(r"^(\d*)([-+=.)])")
_LINK = re.compile(r":(?=//)|(?<=www)\.", re.IGNORECASE)


def render_markdown(section: ComparisonSection) -> str:
    """Verdict, reasons, and a table of the metrics, in GitHub's Markdown; all texts are shown as they are.

    Args:
        section: a comparison; its breakdowns and examples are left out.
    """
    since = section.since
    first, verdict = first_line(section.verdict, section.findings)
    lines = [f"### aftertune: {verdict.decision}" + (f": {_escaped(first)}" if first else ""), ""]
    lines += [f"{_code(section.title)} against {_code(str(section.base.get('spec', 'its base')))}", ""]
    if verdict.note:
        lines += [f"Note: {_escaped(verdict.note)}", ""]
    if verdict.reasons:
        lines += [*(f"- {_escaped(reason)}" for reason in verdict.reasons), ""]
    if since:
        lines += [f"Since the baseline {_code(since.run)}: {since.tally}.", ""]
    lines += _table(section)
    lines += ["", "Decisions in brackets inform, they do not decide."]
    worst = [(f, f.worst) for f in section.findings if f.worst]
    if worst:
        lines += ["", *(f"- {_code(f.metric)} {_escaped(describe_worst(w, f.worse))}" for f, w in worst)]
    return "\n".join(lines) + "\n"


def _table(section: ComparisonSection) -> list[str]:
    header = ["metric", "decision", "worse by [interval]", "tolerance"]
    if section.since:
        header.append("since the baseline")
    lines = [_row(header), _row(["---", "---", "---:", "---:", "---"][: len(header)])]
    top = [f for f in section.findings if "/" not in f.metric]
    for finding in sorted(top, key=lambda f: not f.decides):
        worse = worsening(finding)
        cells = [
            _code(finding.metric),
            _decision(finding),
            with_interval(worse) if worse else "n/a",
            with_unit(f"{finding.margin:g}", unit(finding.metric)),
        ]
        if section.since:
            change = section.since.change(finding.metric)
            cells.append(f"{change.state} (was {change.before or 'not decided on'})" if change else "")
        lines.append(_row(cells))
    return lines


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _decision(finding: Finding) -> str:
    if not finding.decides:
        return f"({finding.decision})"
    return finding.decision if finding.decision == "pass" else f"**{finding.decision}**"


def _one_line(text: str) -> str:
    return " ".join(clean(text).split())


def _code(text: str) -> str:
    """A code span, in which nothing is markup; fit for a table's cell."""
    # How a bar is escaped within code differs between a table and elsewhere, and between readers.
    text = _one_line(text).replace("|", "¦") or "?"
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    return f"{fence} {text} {fence}" if "`" in text else f"{fence}{text}{fence}"


def _escaped(text: str) -> str:
    """A sentence with all that is markup escaped."""
    text = _OPENING.sub(r"\1\\\2", _MARKUP.sub(r"\\\1", _one_line(text)))
    return _LINK.sub(lambda found: f"\\{found[0]}", text)
