"""JUnit XML: one test case per metric, for machines that already read it."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from aftertune.report._text import clean
from aftertune.stats import Finding, SinceBaseline, Verdict, describe, describe_worst

_CLASS = "aftertune"
_BAD = ("failure", "error")


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
    counted = {"failures": "/failure", "errors": "/error", "skipped": "/skipped", "tests": ""}
    for name, tag in counted.items():
        suite.set(name, str(len(suite.findall(f"testcase{tag}"))))
    root = ElementTree.Element("testsuites")
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
