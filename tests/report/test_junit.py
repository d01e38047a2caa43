"""JUnit XML: what a CI server reads agrees with the verdict."""

from __future__ import annotations

from collections.abc import Callable
from xml.etree import ElementTree

from aftertune.comparison import Finding, Verdict, decide, describe
from aftertune.report import ComparisonSection, render_junit

MakeFinding = Callable[..., Finding]


def suite(xml: str) -> ElementTree.Element:
    found = ElementTree.fromstring(xml.encode("utf-8")).find("testsuite")
    assert found is not None
    return found


def test_counts_agree_with_the_findings(make_section: Callable[..., ComparisonSection]) -> None:
    section = make_section("careless", 1.0)
    found = suite(render_junit(section.title, section.findings, section.verdict))
    top = [f for f in section.findings if "/" not in f.metric]
    assert [c.attrib["name"] for c in found.findall("testcase")] == [f.metric for f in top]
    assert {c.attrib["classname"] for c in found.findall("testcase")} == {"aftertune"}
    assert (found.attrib["tests"], found.attrib["failures"], found.attrib["errors"]) == (str(len(top)), "2", "1")
    assert len(found.findall("testcase/system-out")) == len([f for f in top if not f.decides])


def test_messages_describe_the_finding(make_finding: MakeFinding) -> None:
    failed = make_finding("preference.margin", 0.0, 1.0, 0.1)
    unsettled = make_finding("refusal.harmful", 0.5, -0.05, 0.03)
    found = suite(render_junit("t", [failed, unsettled], decide([failed, unsettled])))
    failure, error = found.find("testcase/failure"), found.find("testcase/error")
    assert failure is not None
    assert failure.attrib["message"] == describe(failed)
    assert error is not None
    assert error.attrib == {"type": "inconclusive", "message": describe(unsettled)}


def test_is_never_green_where_the_gate_is_not(make_finding: MakeFinding) -> None:
    informing = make_finding("traits.score", 0.0, 0.0, 0.1)
    found = suite(render_junit("t", [informing], decide([informing])))
    assert (found.attrib["tests"], found.attrib["errors"]) == ("2", "1")
    error = found.find("testcase[@name='verdict']/error")
    assert error is not None
    assert error.attrib["message"] == "no deciding metric was measured"


def test_a_pass_is_all_green(make_finding: MakeFinding) -> None:
    passing = make_finding("preference.margin", 0.0, 0.0, 0.01)
    found = suite(render_junit("t", [passing], decide([passing])))
    assert (found.attrib["tests"], found.attrib["failures"], found.attrib["errors"]) == ("1", "0", "0")


def test_hostile_text_stays_text(make_finding: MakeFinding, hostile: str) -> None:
    metric = f"preference.margin:{hostile.replace('/', '')}"
    finding = make_finding(metric, 0.0, 1.0, 0.1, note=hostile)
    found = suite(render_junit(hostile, [finding], Verdict("fail", (hostile,), hostile)))
    assert "onerror=alert(1)" in found.attrib["name"]
    assert {e.tag for e in found.iter()} == {
        "testsuite", "properties", "property", "testcase", "failure", "system-out",
    }  # fmt: skip
