"""Charts: true positions, readable without colour, safe and finite whatever the numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from xml.etree import ElementTree

import pytest

from aftertune.report import ComparisonSection
from aftertune.report._charts import Series, breakdown, domain_chart, drift_chart
from aftertune.report._forest import forest_plot
from aftertune.report._svg import Scale, span, ticks
from aftertune.stats import Finding

MakeFinding = Callable[..., Finding]
MakeSection = Callable[..., ComparisonSection]


def parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def texts(root: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in root.iter("text")]


def by_class(root: ElementTree.Element, *wanted: str) -> list[ElementTree.Element]:
    return [e for e in root.iter() if set(wanted) <= set(e.get("class", "").split())]


def middle(element: ElementTree.Element) -> float:
    if element.tag == "circle":
        return float(element.attrib["cx"])
    xs = [float(point.split(",")[0]) for point in element.attrib["points"].split()]
    return (min(xs) + max(xs)) / 2


def forest(findings: Sequence[Finding], **options: bool) -> ElementTree.Element:
    return parse(forest_plot(findings, name="f", title="tuned", **options))


@pytest.mark.parametrize("narrow", [False, True])
def test_forest_has_one_row_per_top_level_metric(make_section: MakeSection, narrow: bool) -> None:
    section = make_section("careless", 1.0)
    shown = texts(forest(section.findings, narrow=narrow))
    top = [f.metric for f in section.findings if "/" not in f.metric]
    assert [text for text in shown if text in top] == sorted(
        top, key=lambda m: not next(f.decides for f in section.findings if f.metric == m)
    )
    assert not any("/" in text and text.startswith("preference") for text in shown)


def test_right_is_worse_for_metrics_of_either_direction(make_finding: MakeFinding) -> None:
    lower_is_worse = make_finding("capability.accuracy", 0.5, -0.05, 0.01)
    higher_is_worse = make_finding("preference.margin", 0.5, 0.05, 0.01)
    marks = by_class(forest([lower_is_worse, higher_is_worse]), "mark")
    assert len(marks) == 2
    assert middle(marks[0]) == middle(marks[1])


def test_a_worsening_of_exactly_the_margin_stands_on_the_margin_line(make_finding: MakeFinding) -> None:
    root = forest([make_finding("preference.margin", 0.0, 0.1, 0.05), make_finding("traits.score", 0.0, 0.0, 0.1)])
    (line,) = by_class(root, "margin-line")
    (zero,) = by_class(root, "zero")
    on_margin, on_zero = (middle(mark) for mark in by_class(root, "mark"))
    assert on_margin == pytest.approx(float(line.attrib["x1"]), abs=0.2)
    assert on_zero == pytest.approx(float(zero.attrib["x1"]), abs=0.2)
    assert len(by_class(root, "margin-tick")) == 2


def test_decisions_differ_by_shape_and_word(make_finding: MakeFinding) -> None:
    rows = [make_finding("preference.margin", 0.0, d, 0.02) for d in (0.0, 0.3, 0.1)]
    marks = by_class(forest(rows), "mark")
    assert [mark.tag for mark in marks] == ["circle", "polygon", "polygon"]
    corners = [len(mark.attrib["points"].split()) for mark in marks[1:]]
    assert corners == [4, 3]
    assert [e.text for e in by_class(forest(rows), "word")] == ["pass", "fail", "inconclusive"]


def test_informing_metrics_do_not_claim_to_fail(make_finding: MakeFinding) -> None:
    root = forest([make_finding("traits.score", 0.0, 3.0, 0.1)])
    assert [e.text for e in by_class(root, "word")] == ["beyond margin"]
    assert not by_class(root, "mark-fail")


@pytest.mark.parametrize("difference", [1.4, 1e6, 1e308, -1.4, -1e308])
def test_outliers_are_clipped_with_an_arrow_and_their_multiple(make_finding: MakeFinding, difference: float) -> None:
    root = forest([make_finding("preference.margin", 0.0, difference, 0.01)])
    arrows = [m for m in by_class(root, "mark") if m.tag == "polygon" and len(m.attrib["points"].split()) == 3]
    assert len(arrows) == 1
    (multiple,) = by_class(root, "multiple")
    expected = "14×" if abs(difference) == 1.4 else ">999×"
    assert multiple.text == ("−" if difference < 0 else "") + expected


def test_plots_beside_each_other_share_an_axis(make_section: MakeSection) -> None:
    calm, wild = make_section("careful", 0.0), make_section("careless", 1.0)

    def axis(section: ComparisonSection, beside: Sequence[Finding]) -> list[str]:
        root = parse(forest_plot(section.findings, name="f", title="t", beside=beside))
        return [e.attrib["x1"] for e in by_class(root, "margin-line")]

    both = (*calm.findings, *wild.findings)
    assert axis(calm, both) == axis(wild, both) != axis(calm, ())


def test_what_was_not_measured_has_a_row_without_a_mark(make_finding: MakeFinding) -> None:
    absent = make_finding("preference.margin", 0.0, 0.0, 0.0, items=0, decision="inconclusive", note="base only")
    root = forest([absent])
    assert not by_class(root, "mark")
    assert "base only" in texts(root)


EXTREMES = (0.0, -0.0, 1e-12, -0.3, 5.0, 1e20, -1e308, 1e308, float("nan"), float("inf"), float("-inf"))


@pytest.mark.parametrize("difference", EXTREMES)
@pytest.mark.parametrize("half", [0.0, 0.2, 1e308, float("nan")])
@pytest.mark.parametrize("narrow", [False, True])
def test_coordinates_are_finite_for_any_number(
    make_finding: MakeFinding, difference: float, half: float, narrow: bool
) -> None:
    rows = [
        make_finding(m, 0.5, difference, half)
        for m in ("preference.margin", "preference.margin/money", "drift.kl/token 1")
    ]
    series = [Series("a", 0, breakdown(rows, "preference.margin")), Series("b", 1, {})]
    drift = [Series("a", 0, breakdown(rows, "drift.kl"))]
    for svg in (
        forest_plot(rows, name="f", title="t", narrow=narrow),
        domain_chart(series, name="d", narrow=narrow),
        drift_chart(drift, name="k"),
    ):
        for element in parse(svg).iter() if svg else ():
            for key, value in element.attrib.items():
                if key not in ("class", "id", "role", "aria-labelledby", "text-anchor", "width"):
                    assert re.fullmatch(r"[-\d., ]+", value), (key, value)


def test_a_margin_of_zero_draws_no_mark(make_finding: MakeFinding) -> None:
    root = forest([make_finding("preference.margin", 0.0, 0.2, 0.1, margin=0.0)])
    assert not by_class(root, "mark")


def test_domains_show_base_tuned_and_the_differences_interval(make_finding: MakeFinding) -> None:
    finding = make_finding("preference.margin/money", -0.5, 1.0, 0.25)
    svg = domain_chart([Series("careless", 0, breakdown([finding], "preference.margin"))], name="d")
    root = parse(svg)
    base = float(by_class(root, "base-mark")[-1].attrib["x1"])
    tuned = middle(by_class(root, "mark")[-1])
    whisker = by_class(root, "whisker")[0]
    low, high = float(whisker.attrib["x1"]), float(whisker.attrib["x2"])
    assert (tuned - base) == pytest.approx(4 * (tuned - low), rel=0.01)
    assert (high - tuned) == pytest.approx(tuned - low, rel=0.01)


def test_domains_put_the_worst_first_and_name_every_model(make_section: MakeSection) -> None:
    sections = [make_section("careless", 1.0), make_section("careful", 0.0)]
    series = [Series(s.title, i, breakdown(s.findings, "preference.margin")) for i, s in enumerate(sections)]
    shown = texts(parse(domain_chart(series, name="d")))
    assert shown.index("money") < shown.index("sport safety") < shown.index("humans and ai")
    assert {"base", "careless", "careful"} <= set(shown)


def test_a_users_set_is_told_apart_in_the_breakdown(make_finding: MakeFinding) -> None:
    rows = [
        make_finding("preference.margin/money", 0, 0, 1),
        make_finding("preference.margin:mine/money", 0, 0, 1),
    ]
    assert list(breakdown(rows, "preference.margin")) == ["money", "money (mine)"]


def test_drift_keeps_the_order_of_positions(make_section: MakeSection) -> None:
    series = [Series("careless", 0, breakdown(make_section("careless", 1.0).findings, "drift.kl"))]
    root = parse(drift_chart(series, name="k"))
    below = [e.text for e in by_class(root, "axis") if e.get("text-anchor") == "middle"]
    assert below[:6] == ["1", "2-3", "4-6", "7-12", "13-24", "25+"]
    heights = [float(mark.attrib["cy"]) for mark in by_class(root, "mark")[1:]]
    assert heights == sorted(heights), "the divergence falls from the first position on"


def test_nothing_to_show_draws_nothing(make_finding: MakeFinding) -> None:
    assert forest_plot([make_finding("preference.margin/money", 0, 0, 1)], name="f", title="t") == ""
    assert domain_chart([], name="d") == ""
    assert drift_chart([], name="k") == ""


def test_every_chart_has_a_text_alternative_and_fits_its_container(make_section: MakeSection) -> None:
    findings = make_section("careless", 1.0).findings
    series = [Series("careless", 0, breakdown(findings, "preference.margin"))]
    drift = [Series("careless", 0, breakdown(findings, "drift.kl"))]
    svgs = (
        forest_plot(findings, name="f", title="t"),
        domain_chart(series, name="d"),
        drift_chart(drift, name="k"),
    )
    for svg in svgs:
        root = parse(svg)
        title, description = root.find("title"), root.find("desc")
        assert title is not None
        assert title.text
        assert description is not None
        assert description.text
        assert root.attrib["role"] == "img"
        assert root.attrib["width"] == "100%"
        assert root.attrib["viewBox"].startswith("0 0 ")
        assert root.attrib["aria-labelledby"].split() == [title.attrib["id"], description.attrib["id"]]
        assert "#" not in svg.replace("&#", ""), "colours belong to the style sheet, so that themes work"


def test_hostile_names_stay_text(make_finding: MakeFinding, hostile: str) -> None:
    top = make_finding(f"preference.margin:{hostile.replace('/', '')}", 0, 0, 1, note=hostile)
    group = make_finding(f"preference.margin/{hostile}", 0, 0, 1)
    for narrow in (False, True):
        for svg in (
            forest_plot([top], name="f", title=hostile, narrow=narrow),
            domain_chart([Series(hostile, 0, breakdown([group], "preference.margin"))], name="d", narrow=narrow),
        ):
            root = parse(svg)
            allowed = {"svg", "title", "desc", "text", "line", "rect", "circle", "polygon"}
            assert {e.tag for e in root.iter()} <= allowed
            assert not any(key.startswith("on") for e in root.iter() for key in e.attrib)
            assert "\u202e" not in svg
            assert "\x00" not in svg
            assert max(map(len, texts(root))) <= 64


def test_ticks_are_round_and_inside() -> None:
    assert ticks(-1.1, 1.1, 4) == [-1.0, -0.5, 0.0, 0.5, 1.0]
    low, high = span([3.0, 3.0], around=())
    assert low < 3.0 < high
    assert span([float("nan")]) == (0.0, 1.0)


def test_a_scale_keeps_values_within_its_ends() -> None:
    scale = Scale(0, 10, 100, 200)
    assert (scale(-5), scale(5), scale(1e308)) == (100, 150, 200)
