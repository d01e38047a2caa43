"""What changed since a baseline, in the report and in JUnit."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest

from aftertune.report import ReportPage, render_junit, render_report
from aftertune.stats import Change, ComparisonSection, Finding, SinceBaseline, decide, decide_since, describe

MakeFinding = Callable[..., Finding]
CHANGES = (
    Change("preference.margin", "persistent", "fail", "fail", 0.98, 1.0, (-0.06, 0.09), 0.1),
    Change("refusal.harmful", "fixed", "inconclusive", "pass", 0.1, 0.0),
    Change("preference.margin:own", "new", None, "inconclusive", None, 0.1),
)


class Page(HTMLParser):
    """Tags and visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.pieces: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]

    def handle_data(self, data: str) -> None:
        self.pieces.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.pieces).split())


@pytest.fixture
def make(make_finding: MakeFinding) -> Callable[..., ComparisonSection]:
    """One persistent failure, one fixed metric, one new inconclusive one, one that informs."""

    def section(fail_on: Any, **changes: Any) -> ComparisonSection:
        findings = (
            make_finding("preference.margin", 0.0, 1.0, 0.1),
            make_finding("refusal.harmful", 0.5, 0.0, 0.01),
            make_finding("preference.margin:own", 0.0, 0.1, 0.1),
            make_finding("traits.score", 0.0, 3.0, 0.1),
        )
        since = replace(SinceBaseline("runs/earlier", fail_on, CHANGES), **changes)
        return ComparisonSection(
            "tuned", "", decide_since(decide(findings), findings, since), {}, {}, findings, since=since
        )

    return section


def suite(section: ComparisonSection) -> ElementTree.Element:
    xml = render_junit("t", section.findings, section.verdict, section.since)
    found = ElementTree.fromstring(xml.encode()).find("testsuite")
    assert found is not None
    return found


def cases(section: ComparisonSection) -> dict[str, tuple[str, str]]:
    """Metric → (kind, what is said)."""
    found = {}
    for case in suite(section).findall("testcase"):
        child = next(iter(case), None)
        assert len(case) <= 1
        said = "" if child is None else str(child.text)
        assert child is None or child.get("message", said) == said
        found[str(case.get("name"))] = ("passed" if child is None else child.tag, said)
    return found


# --- the report -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fail_on", ["any", "new"])
def test_the_report_has_a_table_of_changes(fail_on: str, make: Callable[..., ComparisonSection]) -> None:
    section = make(fail_on)
    page = Page(render_report(ReportPage("Audit", "", (section,))))
    assert "Since the baseline runs/earlier : 1 new, 1 fixed, 1 persistent" in page.words
    silent = " does not decide" if fail_on == "new" else ""
    assert f"preference.margin persistent{silent} fail → fail +0.980 → +1.000 nats/token" in page.words
    assert "refusal.harmful fixed inconclusive → pass +0.100 → 0.000 probability" in page.words
    assert "preference.margin:own new none → inconclusive n/a → +0.100 nats/token" in page.words
    assert ("unless it fails now and was only inconclusive then" in page.words) == (fail_on == "new")
    assert {"any": "Fail", "new": "Inconclusive"}[fail_on] in page.words
    assert section.verdict.note in page.words.replace("−", "-")


def test_without_a_baseline_or_without_changes_there_is_no_table(make: Callable[..., ComparisonSection]) -> None:
    section = make("any")
    for quiet in (replace(section, since=None), make("any", changes=())):
        page = Page(render_report(ReportPage("Audit", "", (quiet,))))
        assert "Since the baseline: tuned" not in page.words
        assert not [i for i in page.ids if i.startswith("since-")]
    assert "0 new, 0 fixed, 0 persistent" in page.words


def test_each_section_has_its_own(make: Callable[..., ComparisonSection]) -> None:
    page = Page(render_report(ReportPage("Audit", "", (make("any"), make("new")))))
    assert [i for i in page.ids if i.startswith("since-")] == ["since-0", "since-1"]
    assert len(page.ids) == len(set(page.ids))


def test_hostile_names_stay_text(make: Callable[..., ComparisonSection], hostile: str) -> None:
    change = Change(f"preference.margin:{hostile}", "new", None, "fail")
    html = render_report(ReportPage("Audit", "", (make("any", run=hostile, changes=(change,)),)))
    page = Page(html)
    assert not page.tags & {"script", "img", "b"}
    assert page.words.count("onerror=alert(1)") >= 3
    assert not re.search("[\x00\x1b\u202e]", html)


# --- JUnit ----------------------------------------------------------------------------------------------


def test_messages_say_the_state_and_what_is_let_through_is_skipped(make: Callable[..., ComparisonSection]) -> None:
    section = make("any")
    said = {f.metric: describe(f) for f in section.findings}
    own, margin = "preference.margin:own", "preference.margin"
    expected = {
        margin: ("failure", f"persistent: {said[margin]}"),
        "refusal.harmful": ("system-out", f"fixed: {said['refusal.harmful']}"),
        own: ("error", f"new: {said[own]}"),
        "traits.score": ("system-out", f"informs only: {said['traits.score']}"),
    }
    assert cases(section) == expected
    expected[margin] = ("skipped", f"without effect on the verdict: persistent: {said[margin]}")
    assert cases(make("new")) == expected
    found = suite(make("new"))
    assert {key: found.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "4", "failures": "0", "errors": "1", "skipped": "1",
    }  # fmt: skip
    assert {p.get("name"): p.get("value") for p in found.findall("properties/property")} == {
        "verdict": "inconclusive",
        "baseline": "runs/earlier",
        "fail-on": "new",
        "since-baseline": "1 new, 1 fixed, 1 persistent",
    }


def test_all_let_through_is_green(make: Callable[..., ComparisonSection]) -> None:
    section = make("new")
    findings = section.findings[:2]
    since = replace(section.since or SinceBaseline("", "new", ()), changes=CHANGES[:2])
    verdict = decide_since(decide(findings), findings, since)
    found = suite(replace(section, findings=findings, verdict=verdict, since=since))
    assert (found.get("failures"), found.get("errors"), found.get("skipped")) == ("0", "0", "1")
    assert found.findtext("system-out") == verdict.note
