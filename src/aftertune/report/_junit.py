"""JUnit XML: one test case per metric, for machines that already read it."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from aftertune.comparison import Finding, Verdict, describe
from aftertune.report._text import clean

_CLASS = "aftertune"


def render_junit(title: str, findings: Sequence[Finding], verdict: Verdict) -> str:
    """JUnit XML of one comparison.

    A deciding metric that fails is a failure, an inconclusive one an error; an informing one passes with its
    numbers as output. A verdict that no metric explains becomes a test case of its own, so that the
    file is never green where the gate is not.

    Args:
        title: name of the test suite.
        findings: of one comparison; breakdowns are left out.
        verdict: of the comparison.
    """
    suite = ElementTree.Element("testsuite", {"name": clean(title)})
    properties = ElementTree.SubElement(suite, "properties")
    ElementTree.SubElement(properties, "property", {"name": "verdict", "value": verdict.decision})
    for finding in findings:
        if "/" not in finding.metric:
            _metric(suite, finding)
    if verdict.decision != "pass" and suite.find("testcase/failure") is None and suite.find("testcase/error") is None:
        reason = "; ".join(verdict.reasons) or verdict.note or verdict.decision
        _bad(_case(suite, "verdict"), verdict.decision, reason)
    if verdict.note:
        ElementTree.SubElement(suite, "system-out").text = clean(verdict.note)
    counts = {
        "tests": len(suite.findall("testcase")),
        "failures": len(suite.findall("testcase/failure")),
        "errors": len(suite.findall("testcase/error")),
        "skipped": 0,
    }
    for key, count in counts.items():
        suite.set(key, str(count))
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _case(suite: ElementTree.Element, name: str) -> ElementTree.Element:
    return ElementTree.SubElement(suite, "testcase", {"classname": _CLASS, "name": clean(name)})


def _metric(suite: ElementTree.Element, finding: Finding) -> None:
    case = _case(suite, finding.metric)
    if not finding.decides:
        ElementTree.SubElement(case, "system-out").text = f"informs only: {clean(describe(finding))}"
    elif finding.decision != "pass":
        _bad(case, finding.decision, describe(finding))


def _bad(case: ElementTree.Element, decision: str, message: str) -> None:
    tag = "failure" if decision == "fail" else "error"
    ElementTree.SubElement(case, tag, {"type": decision, "message": clean(message)})
