"""What a run found, without pictures: Markdown for job summaries and comments, JUnit XML for machines."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from xml.etree import ElementTree

from aftertune.report._html import outcome_word, table_of
from aftertune.report._results import Claim
from aftertune.report._sections import Page, ReportPage, Section, Table
from aftertune.report._text import clean, decision_word, unit, with_interval, with_unit, worsening
from aftertune.stats import ComparisonSection, Finding, SinceBaseline, Verdict, describe, describe_worst, first_line

_CLASS = "aftertune"
_BAD = ("failure", "error")
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
    lines += _findings(section)
    lines += ["", "What is within or beyond its tolerance informs, it does not decide."]
    worst = [(f, f.worst) for f in section.findings if f.worst]
    if worst:
        lines += ["", *(f"- {_code(f.metric)} {_escaped(describe_worst(w, f.worse))}" for f, w in worst)]
    return "\n".join(lines) + "\n"


def page_markdown(page: Page) -> str:
    """Everything a page claims and its numbers as tables, in GitHub's Markdown.

    Args:
        page: of any verb; its pictures, examples and sampled answers are left out.
    """
    if isinstance(page, ReportPage):
        parts = [render_markdown(section) for section in page.sections]
        parts += [
            _chapter("###", chapter.title, chapter.lede, chapter.claims, chapter.sections) for chapter in page.chapters
        ]
        return "\n".join(parts)
    return _chapter("###", f"aftertune: {page.title}", page.lede, page.claims, page.sections)


def _chapter(level: str, title: str, lede: str, claims: Sequence[Claim], sections: Sequence[Section]) -> str:
    lines = [f"{level} {_escaped(title)}", ""]
    if lede:
        lines += [_escaped(lede), ""]
    if claims:
        lines += [*map(_claim, claims), ""]
    for section in sections:
        table = table_of(section)
        if table.rows:
            lines += [f"{level}# {_escaped(section.title)}", "", *_table(table), ""]
    return "\n".join(lines)


def _claim(claim: Claim) -> str:
    detail = f" ({_escaped(claim.detail)})" if claim.detail else ""
    return f"- **{outcome_word(claim.outcome)}**: {_escaped(claim.text)}{detail}"


def _table(table: Table) -> Iterator[str]:
    yield _row([_escaped(name) for name in table.header])
    yield _row(["---:" if column in table.numeric else "---" for column in range(len(table.header))])
    for row in table.rows:
        yield _row([_escaped(cell).replace("\\|", "¦") for cell in row])


def _findings(section: ComparisonSection) -> list[str]:
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
            with_unit(f"{finding.tolerance:g}", unit(finding.metric)),
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
        return decision_word(finding)
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


def render_junit(title: str, findings: Sequence[Finding], verdict: Verdict, since: SinceBaseline | None = None) -> str:
    """JUnit XML of one comparison.

    A deciding metric that fails is a failure, an inconclusive one an error. One that is not testable on this base is
    skipped, and so is what does not pass but has no say in the verdict. An informing metric passes with its numbers as
    output. There is a failure or an error if and only if the verdict is no pass: one that no metric explains becomes a
    test case of its own.

    Args:
        title: name of the test suite.
        findings: of one comparison; breakdowns are left out.
        verdict: of the comparison.
        since: what changed since a baseline; messages then begin with "new", "persistent" or "fixed".
    """
    return _document([_comparison(title, findings, verdict, since)])


def page_junit(page: Page) -> str:
    """JUnit XML of any page: a suite for each comparison, and one of the claims.

    A claim that does not hold is a failure; an inconclusive one is skipped, since a study has nothing to gate.

    Args:
        page: of any verb.
    """
    suites = []
    claims = page.chapters if isinstance(page, ReportPage) else (page,)
    if isinstance(page, ReportPage):
        suites = [_comparison(f"aftertune: {s.title}", s.findings, s.verdict, s.since) for s in page.sections]
    return _document([*suites, *(_claims(one.title, one.claims) for one in claims if one.claims)])


def _claims(title: str, claims: Sequence[Claim]) -> ElementTree.Element:
    suite = ElementTree.Element("testsuite", {"name": clean(title)})
    for claim in claims:
        case = _case(suite, claim.text)
        outcome = outcome_word(claim.outcome)
        said = f"{outcome}: {claim.detail}" if claim.detail else outcome
        if outcome == "does not hold":
            _bad(case, "fail", said)
        elif outcome == "inconclusive":
            _say(ElementTree.SubElement(case, "skipped"), said)
        elif claim.detail:
            ElementTree.SubElement(case, "system-out").text = clean(claim.detail)
    return suite


def _comparison(
    title: str, findings: Sequence[Finding], verdict: Verdict, since: SinceBaseline | None
) -> ElementTree.Element:
    suite = ElementTree.Element("testsuite", {"name": clean(title)})
    properties: dict[str, str] = {"verdict": verdict.decision}
    if since:
        properties |= {"baseline": clean(since.run), "fail-on": since.fail_on, "since-baseline": since.tally}
    listed = ElementTree.SubElement(suite, "properties")
    for name, value in properties.items():
        ElementTree.SubElement(listed, "property", {"name": name, "value": value})
    through = {c.metric for c in since.let_through} if since else set()
    for finding in findings:
        if "/" not in finding.metric:
            _metric(suite, finding, since, silent=verdict.decision == "pass" or finding.metric in through)
    if verdict.decision != "pass" and not any(suite.findall(f"testcase/{tag}") for tag in _BAD):
        reason = "; ".join(verdict.reasons) or verdict.note or verdict.decision
        _bad(_case(suite, "verdict"), verdict.decision, reason)
    if verdict.note:
        ElementTree.SubElement(suite, "system-out").text = clean(verdict.note)
    return suite


def _document(suites: Sequence[ElementTree.Element]) -> str:
    root = ElementTree.Element("testsuites")
    counted = {"failures": "/failure", "errors": "/error", "skipped": "/skipped", "tests": ""}
    for suite in suites:
        for name, tag in counted.items():
            suite.set(name, str(len(suite.findall(f"testcase{tag}"))))
        root.append(suite)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _case(suite: ElementTree.Element, name: str) -> ElementTree.Element:
    return ElementTree.SubElement(suite, "testcase", {"classname": _CLASS, "name": clean(name)})


def _metric(suite: ElementTree.Element, finding: Finding, since: SinceBaseline | None, *, silent: bool) -> None:
    case = _case(suite, finding.metric)
    change = since.change(finding.metric) if since else None
    said = f"{change.state}: {describe(finding)}" if change else describe(finding)
    if finding.worst and not finding.hides_a_group:
        said += f" ({describe_worst(finding.worst, finding.worse)})"
    if not finding.decides:
        ElementTree.SubElement(case, "system-out").text = clean(f"informs only: {said}")
    elif finding.decision == "pass":
        if change or finding.worst:
            ElementTree.SubElement(case, "system-out").text = clean(said)
    elif finding.decision == "not testable":
        _say(ElementTree.SubElement(case, "skipped"), said)
    elif silent:
        _say(ElementTree.SubElement(case, "skipped"), f"without effect on the verdict: {said}")
    else:
        _bad(case, finding.decision, said)


def _bad(case: ElementTree.Element, decision: str, message: str) -> None:
    tag = "failure" if decision == "fail" else "error"
    _say(ElementTree.SubElement(case, tag, {"type": decision}), message)


def _say(element: ElementTree.Element, message: str) -> None:
    """As attribute and as content: some readers show the one, some the other."""
    element.set("message", clean(message))
    element.text = clean(message)
