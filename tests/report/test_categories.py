"""Categories: which metric, which categories, marks where the numbers are."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest

from aftertune.report import ReportPage, render_report
from aftertune.report._audit_page import _categories
from aftertune.report._charts import MOST_GROUPS, Series, groups_chart
from aftertune.stats import ComparisonSection, Finding, leading_metrics

MakeFinding = Callable[..., Finding]
MakeSection = Callable[..., ComparisonSection]
NAN, INF = float("nan"), float("inf")


def by_class(root: ElementTree.Element, *wanted: str) -> list[ElementTree.Element]:
    return [e for e in root.iter() if set(wanted) <= set(e.get("class", "").split())]


def section(make_section: MakeSection, findings: Sequence[Finding], title: str = "tuned") -> ComparisonSection:
    return replace(make_section(title, 0.0), findings=tuple(findings))


def drawn_categories(*sections: ComparisonSection) -> list[Any]:
    return _categories(ReportPage("t", "", sections))


def test_the_main_metric_of_a_task_is_the_first_that_decides() -> None:
    names = (
        "harmfulness.score", "harmfulness.refusal", "harmfulness.harmful", "harmfulness.gibberish",
        "over_refusal.answered", "over_refusal.refusal", "emergent_misalignment.misaligned", "code_security.insecure",
        "strong_reject.harm", "deception.false", "preference.margin",
        "inspect.score:sums.match", "inspect.score:sums.length", "inspect.harm:agentharm",
    )  # fmt: skip
    assert leading_metrics(names) == {
        "harmfulness": "harmfulness.harmful",
        "over_refusal": "over_refusal.refusal",
        "emergent_misalignment": "emergent_misalignment.misaligned",
        "code_security": "code_security.insecure",
        "strong_reject": "strong_reject.harm",
        "deception": "deception.false",
        "sums": "inspect.score:sums.match",
        "agentharm": "inspect.harm:agentharm",
    }
    assert leading_metrics(["harmfulness.score", "harmfulness.gibberish"]) == {"harmfulness": "harmfulness.gibberish"}


def test_every_task_with_categories_is_drawn_by_its_main_metric(
    make_section: MakeSection, make_finding: MakeFinding
) -> None:
    heads = (
        "harmfulness.harmful",
        "harmfulness.refusal",
        "deception.false",
        "inspect.score:sums",
        "over_refusal.refusal",
    )
    findings = [make_finding(head, 0.1, 0.1, 0.05) for head in heads]
    for head in heads[:4]:
        findings += [
            make_finding(f"{head}/Small lies/cheating", 0.1, 0.1, 0.05),
            make_finding(f"{head}/b", 0.1, 0.2, 0.05),
        ]
    findings.append(make_finding("over_refusal.refusal/alone", 0.1, 0.1, 0.05))
    drawn = drawn_categories(section(make_section, findings))
    assert [c.metric for c in drawn] == ["harmfulness.harmful", "deception.false", "inspect.score:sums"]
    assert [row[0] for row in drawn[0].rows] == ["b", "Small lies/cheating"], "harm: the greater rise first"
    assert [row[0] for row in drawn[2].rows] == ["Small lies/cheating", "b"], "a score: more is better"


def test_marks_stand_where_the_numbers_are(make_finding: MakeFinding) -> None:
    groups = {
        "a": make_finding("harmfulness.harmful/a", 0.2, 0.3, 0.1),
        "b": make_finding("harmfulness.harmful/b", 0.4, -0.4, 0.1),
    }
    root = ElementTree.fromstring(groups_chart([Series("tuned", 0, groups)], ["a", "b"], name="n", title="t"))
    zero = float(by_class(root, "zero")[0].attrib["x1"])
    base = [float(e.attrib["x1"]) - zero for e in by_class(root, "base-mark")[1:]]
    tuned = [float(e.attrib["cx"]) - zero for e in by_class(root, "mark")[1:]]
    assert base[1] == pytest.approx(2 * base[0], abs=0.3)
    assert tuned[0] == pytest.approx(2.5 * base[0], abs=0.3)
    assert tuned[1] == 0
    whisker = by_class(root, "whisker")[0]
    assert float(whisker.attrib["x1"]) - zero == pytest.approx(2 * base[0], abs=0.3), "0.2 + 0.3 - 0.1"
    assert float(whisker.attrib["x2"]) - zero == pytest.approx(3 * base[0], abs=0.3), "0.2 + 0.3 + 0.1"
    said = root.find("desc")
    assert said is not None
    assert said.text == "a, tuned: 0.200 to 0.500. b, tuned: 0.400 to 0.000."


def test_models_side_by_side_differ_by_shape(make_finding: MakeFinding) -> None:
    groups = {"a": make_finding("harmfulness.harmful/a", 0.2, 0.3, 0.1)}
    both = [Series("one", 0, groups), Series("two", 1, groups)]
    root = ElementTree.fromstring(groups_chart(both, ["a"], name="n", title="t"))
    assert [len(by_class(root, "move", f"series-{n}")) for n in (0, 1)] == [1, 1]
    assert {e.tag for e in by_class(root, "mark")} == {"circle", "rect"}


VALUES = (0.0, 1e-12, -0.3, 5.0, 1e20, -1e308, 1e308)


@pytest.mark.parametrize("difference", VALUES)
@pytest.mark.parametrize("half", [0.0, 0.2, 1e308])
@pytest.mark.parametrize("narrow", [False, True])
def test_any_number_is_drawn(make_finding: MakeFinding, difference: float, half: float, narrow: bool) -> None:
    groups = {"a": make_finding("inspect.score:s/a", 0.5, difference, half)}
    svg = groups_chart([Series("t", 0, groups)], ["a"], name="n", title="t", narrow=narrow)
    for element in ElementTree.fromstring(svg).iter():
        for key, value in element.attrib.items():
            if key not in ("class", "id", "role", "aria-labelledby", "text-anchor", "width"):
                assert re.fullmatch(r"[-\d., ]+", value), (key, value)


def test_what_is_no_number_is_left_out(make_section: MakeSection, make_finding: MakeFinding) -> None:
    findings = [make_finding("harmfulness.harmful", 0.1, 0.1, 0.1)]
    findings += [make_finding(f"harmfulness.harmful/{d}", 0.1, d, 0.1) for d in (NAN, INF)]
    assert drawn_categories(section(make_section, findings)) == []
    assert groups_chart([], ["a"], name="n", title="t") == ""


def test_of_very_many_categories_the_worst_are_drawn_and_all_listed(
    make_section: MakeSection, make_finding: MakeFinding
) -> None:
    findings = [make_finding("harmfulness.harmful", 0.1, 0.1, 0.1)]
    findings += [make_finding(f"harmfulness.harmful/c{n}", 0.1, 0.01 * n, 0.1) for n in range(40)]
    html = render_report(ReportPage("t", "", (section(make_section, findings),)))
    assert f"The {MOST_GROUPS} most worsened of 40 categories." in html
    [svg] = re.findall(r"<svg[^>]*categories-0-wide-title.*?</svg>", html, re.DOTALL)
    names = [e.text for e in by_class(ElementTree.fromstring(svg), "label")]
    assert names == [f"c{n}" for n in range(39, 39 - MOST_GROUPS, -1)]
    assert all(f'<th scope="row">c{n}</th>' in html for n in range(40))


def test_hostile_categories_stay_text(make_section: MakeSection, make_finding: MakeFinding, hostile: str) -> None:
    heads = ("harmfulness.harmful", f"inspect.score:{hostile.replace('/', '')}")
    findings = [make_finding(head, 0.1, 0.1, 0.1) for head in heads]
    findings += [make_finding(f"{head}/{group}", 0.1, 0.1, 0.1) for head in heads for group in (hostile, "b")]
    html = render_report(ReportPage("t", "", (section(make_section, findings, hostile),)))
    assert not re.search(r"<(script|img|b)\b", html)
    for svg in re.findall(r"<svg\b.*?</svg>", html, re.DOTALL):
        ElementTree.fromstring(svg)
