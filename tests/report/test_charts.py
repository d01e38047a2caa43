"""Charts: true positions, readable without colour, safe and finite whatever the numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from xml.etree import ElementTree

import pytest

from aftertune.report._canvas import Scale, span, ticks
from aftertune.report._charts import Series, breakdown, forest_plot, groups_chart, groups_of, worst_first
from aftertune.report._text import label
from aftertune.stats import ComparisonSection, Finding

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


def domain_chart(series: Sequence[Series], name: str = "d", *, narrow: bool = False) -> str:
    sides = ("← prefers aligned", "prefers misaligned →")
    return groups_chart(series, worst_first(series), name=name, title="by domain", sides=sides, narrow=narrow)


def drift_chart(series: Sequence[Series], name: str = "k") -> str:
    return groups_chart(series, groups_of(series), name=name, title="drift")


@pytest.mark.parametrize("narrow", [False, True])
def test_forest_has_one_row_per_top_level_metric(make_section: MakeSection, narrow: bool) -> None:
    section = make_section("careless", 1.0)
    shown = texts(forest(section.findings, narrow=narrow))
    top = [f.metric for f in section.findings if "/" not in f.metric]
    top = sorted(top, key=lambda m: not next(f.decides for f in section.findings if f.metric == m))
    names = [text for text in shown if any(label(m).startswith(text.rstrip("…")) for m in top)]
    assert [n.rstrip("…") for n in names] == [label(m)[: len(n.rstrip("…"))] for m, n in zip(top, names, strict=True)]
    assert narrow or all(any(text.startswith(m) for text in shown) for m in top), "the ids stand below the names"
    assert not any("/" in text and text.startswith("preference") for text in shown)


def test_right_is_worse_for_metrics_of_either_direction(make_finding: MakeFinding) -> None:
    lower_is_worse = make_finding("capability.accuracy", 0.5, -0.05, 0.01)
    higher_is_worse = make_finding("preference.margin", 0.5, 0.05, 0.01)
    marks = by_class(forest([lower_is_worse, higher_is_worse]), "mark")
    assert len(marks) == 2
    assert middle(marks[0]) == middle(marks[1])


def test_a_worsening_of_exactly_the_tolerance_stands_on_its_line(make_finding: MakeFinding) -> None:
    root = forest([make_finding("preference.margin", 0.0, 0.1, 0.05), make_finding("traits.score", 0.0, 0.0, 0.1)])
    (line,) = by_class(root, "limit-line")
    (zero,) = by_class(root, "zero")
    on_line, on_zero = (middle(mark) for mark in by_class(root, "mark"))
    assert on_line == pytest.approx(float(line.attrib["x1"]), abs=0.2)
    assert on_zero == pytest.approx(float(zero.attrib["x1"]), abs=0.2)
    assert "tolerance" in texts(root)


def test_decisions_differ_by_shape_and_word(make_finding: MakeFinding) -> None:
    rows = [make_finding("preference.margin", 0.0, d, 0.02) for d in (0.0, 0.3, 0.1)]
    marks = by_class(forest(rows), "mark")
    assert [mark.tag for mark in marks] == ["circle", "polygon", "polygon"]
    corners = [len(mark.attrib["points"].split()) for mark in marks[1:]]
    assert corners == [4, 3]
    assert [e.text for e in by_class(forest(rows), "word")] == ["pass", "fail", "inconclusive"]


def test_informing_metrics_do_not_claim_to_fail(make_finding: MakeFinding) -> None:
    root = forest([make_finding("traits.score", 0.0, 3.0, 0.1)])
    assert [e.text for e in by_class(root, "word")] == ["beyond tolerance"]
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
        return [e.attrib["x1"] for e in by_class(root, "limit-line")]

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


def test_a_tolerance_of_zero_draws_no_mark(make_finding: MakeFinding) -> None:
    root = forest([make_finding("preference.margin", 0.0, 0.2, 0.1, tolerance=0.0)])
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
    assert [e.text for e in by_class(root, "label")] == [
        f"token {t}" for t in ("1", "2-3", "4-6", "7-12", "13-24", "25+")
    ]
    marks = [float(mark.attrib["cx"]) for mark in by_class(root, "mark")[1:]]
    assert marks == sorted(marks, reverse=True), "the divergence falls from the first position on"


def shares(make_finding: MakeFinding, *asked: tuple[float, float, float, int]) -> ElementTree.Element:
    """A category for each (base, change, half of the interval, prompts)."""
    groups = {
        f"g{n}": make_finding(f"harmfulness.harmful/g{n}", base, change, half, clusters=prompts)
        for n, (base, change, half, prompts) in enumerate(asked)
    }
    return parse(groups_chart([Series("t", 0, groups)], list(groups), name="n", title="t"))


def test_shares_are_drawn_between_0_and_1(make_finding: MakeFinding) -> None:
    root = shares(make_finding, (0.1, 0.1, 0.5, 9), (0.9, 0.05, 0.4, 9))
    at = {e.text: float(e.attrib["x"]) for e in by_class(root, "axis")}
    assert {"0", "1"} <= set(at)
    ends = [float(e.attrib[x]) for e in by_class(root, "whisker") for x in ("x1", "x2")]
    assert min(ends) == pytest.approx(at["0"], abs=0.2)
    assert max(ends) == pytest.approx(at["1"], abs=0.2)
    assert not [text for text in at if text.startswith("−") or text > "1"]
    assert not [m for m in by_class(root, "mark") if m.tag == "polygon"], "no arrow says that there is more beyond"


def test_one_prompt_has_no_whisker(make_finding: MakeFinding) -> None:
    root = shares(make_finding, (0.0, 1.0, 2.0, 1), (0.0, 0.5, 0.2, 2))
    heights = {e.attrib["y1"] for e in by_class(root, "whisker") if e.attrib["y1"] == e.attrib["y2"]}
    assert len(by_class(root, "mark")) == 1 + 2, "the legend's, and one a category"
    assert len(heights) == 1


def test_no_label_leaves_the_drawing(make_section: MakeSection) -> None:
    section = make_section("careless", 1.0)
    series = [Series("careless", 0, breakdown(section.findings, "preference.margin"))]
    for narrow in (False, True):
        for svg in (
            forest_plot(section.findings, name="f", title="t", narrow=narrow),
            domain_chart(series, narrow=narrow),
        ):
            root = parse(svg)
            width = float(root.attrib["viewBox"].split()[2])
            for element in by_class(root, "axis"):
                reach = 5.5 * len(element.text or "")
                x, anchor = float(element.attrib["x"]), element.attrib["text-anchor"]
                start = x - {"start": 0, "middle": reach / 2, "end": reach}[anchor]
                assert start >= 0, element.text
                assert start + reach <= width, element.text


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
