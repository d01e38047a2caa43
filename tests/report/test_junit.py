"""JUnit XML: what a CI server reads agrees with the verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from xml.etree import ElementTree

from aftertune.report import render_junit
from aftertune.stats import ComparisonSection, Finding, Verdict, WorstGroup, decide, describe

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


def test_there_is_a_case_for_each_metric_and_none_for_breakdowns(make_finding: MakeFinding) -> None:
    deciding = make_finding("preference.margin", 0.0, 0.0, 0.01)
    informing = make_finding("preference.share", 0.0, 0.0, 0.01)
    breakdown = make_finding("preference.margin/money", 0.0, 1.0, 0.01)
    found = suite(render_junit("t", [deciding, breakdown, informing], decide([deciding])))
    assert [c.attrib["name"] for c in found.findall("testcase")] == ["preference.margin", "preference.share"]


def test_messages_stand_in_the_content_too(make_finding: MakeFinding) -> None:
    bad = [make_finding("preference.margin", 0.0, 1.0, 0.1), make_finding("refusal.harmful", 0.5, -0.05, 0.03)]
    found = suite(render_junit("t", bad, decide(bad)))
    said = [e for case in found.findall("testcase") for e in case]
    assert [e.text for e in said] == [e.attrib["message"] for e in said] == [describe(f) for f in bad]


def test_what_a_pass_overrules_is_skipped(make_finding: MakeFinding) -> None:
    unsettled = make_finding("preference.margin", 0.0, 0.0, 0.3)
    found = suite(render_junit("t", [unsettled], Verdict("pass", (), "let through")))
    counts = {key: found.attrib[key] for key in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "1", "failures": "0", "errors": "0", "skipped": "1"}


def test_a_model_compared_with_itself_is_no_green_suite(make_finding: MakeFinding) -> None:
    settled = make_finding("preference.margin", 0.0, -0.05, 0.05)
    assert decide([settled]).decision == "pass"
    found = suite(render_junit("t", [settled], decide([settled], identical=True)))
    assert found.attrib["errors"] == "1"
    assert [c.attrib["name"] for c in found.findall("testcase")] == ["preference.margin", "verdict"]


def test_what_xml_forbids_is_removed_and_all_else_kept(make_finding: MakeFinding) -> None:
    # Char of XML 1.0 (fifth edition), section 2.2; the Unicode controls and overrides are ours to remove or spell out.
    allowed = [0x9, 0xA, *range(0x20, 0x7F), *range(0xA0, 0xD800, 97), *range(0xE000, 0xFFFE, 97), 0xFFFD, 0x1F600]
    forbidden = [*range(0x9), 0xB, 0xC, *range(0xE, 0x20), 0xD800, 0xDFFF, 0xFFFE, 0xFFFF]
    text = "".join(
        chr(c) for pair in zip(allowed * 2, (forbidden * 100)[: 2 * len(allowed)], strict=True) for c in pair
    )
    finding = make_finding("preference.margin", 0.0, 1.0, 0.1, note=text)
    xml = render_junit(text, [finding], Verdict("fail", (text,), text))
    found = suite(xml)
    out = found.findtext("system-out")
    assert out is not None
    kept = set(out) - {"\ufffd"}
    assert kept == {chr(c) for c in allowed} - {"\ufffd"}
    message = found.find("testcase/failure")
    assert message is not None
    assert set(message.attrib["message"]) >= kept
    assert set(map(ord, xml)).isdisjoint(forbidden)


def blind(finding: Finding, *, allowed: bool) -> Finding:
    return replace(finding, decision="not testable", note="the base is at 0.02", allowed=allowed)


def test_what_is_not_testable_is_skipped_and_never_green_alone(make_finding: MakeFinding) -> None:
    passing = make_finding("preference.margin", 0.0, 0.0, 0.01)
    for allowed in (False, True):
        untestable = blind(make_finding("refusal.harmful", 0.02, 0.0, 0.001), allowed=allowed)
        verdict = decide([passing, untestable])
        found = suite(render_junit("t", [passing, untestable], verdict))
        skipped = found.find("testcase[@name='refusal.harmful']/skipped")
        assert skipped is not None
        assert "not testable (the base is at 0.02)" in skipped.attrib["message"]
        assert (found.attrib["failures"], found.attrib["skipped"]) == ("0", "1")
        assert found.attrib["errors"] == ("0" if allowed else "1")
        error = found.find("testcase[@name='verdict']/error")
        assert (error is None) == allowed
        if error is not None:
            assert "refusal.harmful is not testable on this base" in error.attrib["message"]


def test_the_worst_group_is_named_with_its_interval(make_finding: MakeFinding) -> None:
    worst = WorstGroup("money", 0.05, (-0.01, 0.09), 36, 8)
    passing = make_finding("preference.margin", 0.0, 0.0, 0.01, worst=worst)
    found = suite(render_junit("t", [passing], decide([passing])))
    said = found.findtext("testcase/system-out")
    assert said is not None
    assert "worst in money: is worse by +0.050 [-0.010, +0.090], 36 prompts" in said
    beyond = replace(passing, decision="inconclusive", worst=replace(worst, difference=0.4, interval=(0.3, 0.5)))
    found = suite(render_junit("t", [beyond], decide([beyond])))
    error = found.find("testcase/error")
    assert error is not None
    assert error.attrib["message"].count("worst in money: is worse by +0.400 [+0.300, +0.500]") == 1


def test_what_was_not_asked_stands_in_the_output(make_finding: MakeFinding) -> None:
    passing = make_finding("preference.margin", 0.0, 0.0, 0.01)
    found = suite(render_junit("t", [passing], decide([passing]).noting("not asked: refusal, capability")))
    assert found.findtext("system-out") == "not asked: refusal, capability"
