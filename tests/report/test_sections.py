"""Pictures of studies: true positions, nothing by colour alone, safe and finite whatever the numbers."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from aftertune.report import (
    Effect,
    EffectRow,
    Effects,
    HeatMap,
    Places,
    Section,
    Table,
    TradeOff,
    TradeOffLine,
    TradeOffPoint,
)
from aftertune.report._html import draw_sections
from aftertune.report._text import compact, count, wrap

NAN, INF = float("nan"), float("inf")
VALUES = (0.0, -0.0, 0.3, -2.0, 5e-324, 1e-12, 1e20, 1e308, -1e308, NAN, INF, -INF)
NUMERIC = {"x", "y", "x1", "y1", "x2", "y2", "cx", "cy", "r", "width", "height", "points", "viewBox"}


def drawings(section: Section) -> list[ElementTree.Element]:
    """Wide and narrow, of every chart of a section."""
    (drawn,) = draw_sections([section], "s")
    charts = [drawn.chart, *(panel.chart for panel in drawn.panels)]
    return [ElementTree.fromstring(svg) for chart in charts if chart for svg in (chart.wide, chart.narrow)]


def wide(section: Section) -> ElementTree.Element:
    return drawings(section)[0]


def table(section: Section) -> Table:
    (drawn,) = draw_sections([section], "s")
    return drawn.table


def by_class(root: ElementTree.Element, *wanted: str) -> list[ElementTree.Element]:
    return [e for e in root.iter() if set(wanted) <= set(e.get("class", "").split())]


def texts(root: ElementTree.Element) -> list[str]:
    return [e.text or "" for e in root.iter("text")]


def said(root: ElementTree.Element) -> str:
    return root.findtext("desc") or ""


def place(mark: ElementTree.Element) -> tuple[float, float]:
    """The middle of a circle or square."""
    a = {key: float(value) for key, value in mark.attrib.items() if key in NUMERIC - {"points"}}
    return (a["cx"], a["cy"]) if mark.tag == "circle" else (a["x"] + a["width"] / 2, a["y"] + a["height"] / 2)


def check(section: Section) -> None:
    """What holds of every picture."""
    for root in drawings(section):
        assert root.attrib["role"] == "img"
        assert root.findtext("title")
        assert said(root)
        for element in root.iter():
            for key, value in element.attrib.items():
                assert key in NUMERIC | {"class", "id", "role", "aria-labelledby", "text-anchor"}
                assert key not in NUMERIC or re.fullmatch(r"[-\d., ]+|100%", value), (key, value)
        assert max(map(len, texts(root))) <= 64
    assert {len(row) for row in table(section).rows} <= {len(table(section).header)}


def line(*points: tuple[float, float], label: str = "patch", emphasis: bool = True) -> TradeOffLine:
    return TradeOffLine(label, tuple(TradeOffPoint(x, y, f"{x:g} weights") for x, y in points), emphasis)


def trade_off(*lines: TradeOffLine, budget: float | None = 0.05) -> TradeOff:
    return TradeOff("Trade-off", "", "cost", "removed", lines, budget)


def matrix(*rows: tuple[float | None, ...], **changes: object) -> HeatMap:
    names = tuple(f"r{i}" for i in range(len(rows)))
    columns = tuple(f"c{i}" for i in range(len(rows[0])))
    return replace(HeatMap("Matrix", "", names, columns, rows), **changes)  # type: ignore[arg-type]


def row(*effects: Effect, worse: str | None = "higher") -> EffectRow:
    return EffectRow("preference.margin", "", "nats/token", worse, 0.5, effects)  # type: ignore[arg-type]


@pytest.fixture(params=["trade-off", "heat map", "places", "effects"])
def section(
    request: pytest.FixtureRequest,
    make_trade_off: Callable[..., TradeOff],
    make_heat_map: Callable[..., HeatMap],
    make_places: Callable[..., Places],
    make_effects: Callable[..., Effects],
) -> Section:
    makers = {"trade-off": make_trade_off, "heat map": make_heat_map, "places": make_places, "effects": make_effects}
    return makers[request.param]()


def test_every_picture_has_its_words_and_its_table(section: Section) -> None:
    check(section)
    assert len(drawings(section)) >= 2
    assert len(table(section).rows) > 3


@pytest.mark.parametrize("layout", [0, 1], ids=["wide", "narrow"])
def test_names_within_a_page_are_unique(section: Section, layout: int) -> None:
    ids = [e.attrib["id"] for root in drawings(section) for e in root.iter() if "id" in e.attrib]
    assert len(ids) == len(set(ids))
    assert all(name.startswith("s-0") for name in ids)


# Trade-off


def test_a_point_on_the_budget_stands_on_its_line() -> None:
    root = wide(trade_off(line((0.01, 0.2), (0.05, 0.5))))
    (budget,) = by_class(root, "limit-line")
    marks = [place(m) for m in by_class(root, "mark", "series-0") if m.get("r") == "6.5"]
    assert marks[1][0] == pytest.approx(float(budget.attrib["x1"]), abs=0.2)
    assert marks[1][1] < marks[0][1], "more harm removed is higher"
    assert "budget 0.05" in texts(root)
    assert not by_class(wide(trade_off(line((0.01, 0.2)), budget=None)), "limit-line")


def test_the_patch_is_filled_and_strong_and_its_controls_are_hollow(make_trade_off: Callable[..., TradeOff]) -> None:
    root = wide(make_trade_off())
    strong = by_class(root, "curve", "strong")
    assert strong
    assert all("series-0" in e.attrib["class"] for e in strong)
    marks = [e for e in by_class(root, "mark") if e.get("r") != "5.5"]
    assert all("hollow" not in m.attrib["class"] for m in marks if m.get("r") == "6.5")
    shapes = {(m.tag, m.attrib["class"]) for m in by_class(root, "mark", "hollow")}
    assert len(shapes) == 4, "each control has its own shape or colour"


def test_points_beyond_the_plot_stand_at_its_edge_with_an_arrow() -> None:
    inside = line((0.01, 0.5), (0.04, 1.0))
    outside = line((9.0, 0.5), (0.01, -40.0), (-3.0, 0.1), (0.02, 70.0), label="control", emphasis=False)
    root = wide(trade_off(inside, outside))
    arrows = [m for m in by_class(root, "mark", "series-1") if m.tag == "polygon"]
    assert len(arrows) == 4
    assert "arrows: beyond the plot, see the table" in texts(root)
    assert ("control", "9.000", "0.500", "9 weights") in table(trade_off(inside, outside)).rows
    assert "arrows: beyond the plot, see the table" not in texts(wide(trade_off(inside)))


def test_of_points_beyond_the_same_side_only_the_first_is_marked() -> None:
    root = wide(trade_off(line((0.01, 0.5), (0.02, 0.6), (1.0, 0.7), (2.0, 0.8), (3.0, 0.9))))
    assert len([m for m in by_class(root, "mark", "series-0") if m.get("r") == "6.5"]) == 3


def test_a_line_that_leaves_the_plot_keeps_its_slope() -> None:
    root = wide(trade_off(line((0.0, 0.0), (1.0, 10.0)), line((0.0, 1.0), (0.02, 0.5), label="b")))
    first = by_class(root, "curve", "series-0")[0]
    x1, y1, x2, y2 = (float(first.attrib[key]) for key in ("x1", "y1", "x2", "y2"))
    ticks = {e.text: e for e in by_class(root, "axis")}
    for_a_twentieth = float(ticks["0.05"].attrib["x"]) - x1
    for_one = y1 - (float(ticks["1"].attrib["y"]) - 4)
    assert (y1 - y2) / (x2 - x1) == pytest.approx(0.5 * for_one / for_a_twentieth, rel=0.02)


def test_a_missing_point_breaks_its_line() -> None:
    root = wide(trade_off(line((0.01, 0.1), (NAN, 0.2), (0.03, 0.3), (0.04, 0.4))))
    assert len(by_class(root, "curve")) == 1
    assert ("patch", "n/a", "0.200", "nan weights") in table(trade_off(line((NAN, 0.2)))).rows


def test_the_best_within_the_budget_is_named() -> None:
    root = wide(trade_off(line((0.01, 0.2), (0.04, 0.9), (0.2, 1.5))))
    assert "at most 1.500 at 0.200 (0.2 weights); within the budget 0.900 at 0.040 (0.04 weights)" in said(root)
    assert "0.04 weights" in [e.text for e in by_class(root, "note")]
    assert "within the budget none" in said(wide(trade_off(line((0.2, 0.2)))))


def test_notes_stay_in_the_plot_and_off_one_another(make_trade_off: Callable[..., TradeOff]) -> None:
    crowd = tuple((0.0001 * i, 0.5 + 0.0001 * i) for i in range(60))
    for section in (make_trade_off(), trade_off(line(*crowd))):
        for root in drawings(section):
            notes = [(float(e.attrib["x"]), float(e.attrib["y"])) for e in by_class(root, "note")]
            assert notes
            assert all(abs(a[0] - b[0]) > 20 or abs(a[1] - b[1]) > 11 for a, b in itertools.combinations(notes, 2))


@pytest.mark.parametrize(("x", "y"), [*itertools.product(VALUES, VALUES)])
def test_any_point_is_drawn_or_left_out(x: float, y: float) -> None:
    check(trade_off(line((0.01, 0.3), (x, y), (0.02, 0.4)), line((x, y), label="oracle", emphasis=False)))
    check(trade_off(line((x, y)), budget=None))


@pytest.mark.parametrize("budget", VALUES)
def test_any_budget_will_do(budget: float) -> None:
    check(trade_off(line((0.01, 0.3), (0.2, 0.4)), budget=budget))


@pytest.mark.parametrize("lines", [(), (line(),), (line((NAN, 1.0)),)])
def test_no_points_no_picture(lines: tuple[TradeOffLine, ...]) -> None:
    assert drawings(trade_off(*lines)) == []


def test_a_frontier_holds_the_point_it_is_measured_by() -> None:
    """Giving the whole update back stands at (1, 1), far from the small edits, and is drawn where it is."""
    small = line((0.0001, 0.01), (0.0003, 0.027))
    whole = line((1.0, 1.0), label="full rollback", emphasis=False)
    far = line((0.01, 0.02), (90.0, 0.5), label="control", emphasis=False)
    root = wide(trade_off(small, whole, far, budget=None))
    ticks = {e.text: float(e.attrib["x"]) for e in by_class(root, "axis") if e.get("text-anchor") == "middle"}
    whole_mark = next(m for m in by_class(root, "mark", "series-1") if m.get("height") == "12.3")
    assert place(whole_mark)[0] == pytest.approx(ticks["1"], abs=0.3)
    arrows = [m for m in by_class(root, "mark") if m.tag == "polygon" and len(m.attrib["points"].split()) == 3]
    assert {m.attrib["class"] for m in arrows if "hollow" not in m.attrib["class"]} == {"mark series-2"}


# Heat map


def test_cells_hold_their_numbers_and_diverge_at_zero() -> None:
    root = wide(matrix((1.0, -0.5, 0.0), (0.05, None, NAN)))
    cells = [e.attrib["class"].split()[1] for e in by_class(root, "cell")][11:]
    assert cells == ["hot-5", "cold-2", "cold-0", "cold-0", "missing", "missing"]
    numbers = [e.text for e in root.iter("text") if e.get("class") in ("in", "over", "none")]
    assert numbers == ["1.00", "−0.50", "0", "0.05", "–", "n/a"]


def test_strong_cells_turn_their_ink() -> None:
    root = wide(matrix((1.0, 0.1)))
    assert [e.text for e in by_class(root, "over")] == ["1.00"]
    assert [e.text for e in by_class(root, "in")] == ["0.10"]


def test_one_colour_runs_from_the_least_to_the_greatest() -> None:
    root = wide(matrix((0.5, 0.6, 1.0), diverging=False))
    cells = [e.attrib["class"].split()[1] for e in by_class(root, "cell")][6:]
    assert cells == ["cold-0", "hot-1", "hot-5"]


def test_marked_cells_are_outlined(make_heat_map: Callable[..., HeatMap]) -> None:
    for root in drawings(make_heat_map()):
        assert len(by_class(root, "outline")) == 7
    assert not by_class(wide(make_heat_map(marked=frozenset({(90, 90)}))), "outline")


def test_a_phone_numbers_slender_columns(make_heat_map: Callable[..., HeatMap]) -> None:
    section = make_heat_map()
    _, narrow = drawings(section)
    assert {"1 money", "2 health", "1", "7"} <= set(texts(narrow)), "rows that are the columns serve as their key"
    others = tuple(f"model {i}" for i in range(7))
    _, narrow = drawings(replace(section, rows=others))
    assert {"model 0", "1 money", "7 humans_and_ai"} <= set(texts(narrow))


def test_many_columns_scroll_rather_than_shrink() -> None:
    for root in drawings(matrix(*[tuple(float(i) for i in range(40))] * 80)):
        width = float(root.attrib["width"])
        assert width >= 40 * 44
        assert root.attrib["viewBox"].startswith(f"0 0 {width:g} ")
    assert {root.attrib["width"] for root in drawings(matrix((1.0, 2.0)))} == {"100%"}


def test_a_small_matrix_is_told_in_full_and_a_large_one_by_its_extremes() -> None:
    assert "r0, c0: 0.250; r0, c1: −0.500. 1 without a number." in said(wide(matrix((0.25, -0.5, None))))
    large = matrix(*[tuple(float(10 * i + j) for j in range(10)) for i in range(10)])
    assert "Greatest: r9, c9: 99.000. Least: r0, c0: 0.000." in said(wide(large))
    assert said(wide(matrix((None, NAN)))) == "No cell holds a number."


@pytest.mark.parametrize(("one", "diverging"), [*itertools.product(VALUES, (True, False))])
def test_any_cell_is_drawn(one: float, diverging: bool) -> None:
    check(matrix((one, 0.5), (None, -one), diverging=diverging))
    check(matrix((one,), diverging=diverging))


def test_a_matrix_must_have_its_shape() -> None:
    with pytest.raises(ValueError, match="not 2 rows of 1"):
        HeatMap("t", "", ("a", "b"), ("c",), ((1.0,), (1.0, 2.0)))
    assert drawings(HeatMap("t", "", (), ("c",), ())) == []
    assert drawings(HeatMap("t", "", ("a",), (), ((),))) == []


# Places


def test_sums_stand_in_the_margins(make_places: Callable[..., Places]) -> None:
    section = Places("p", "", 2, ("q", "down"), {(0, "q"): 3, (1, "q"): 4, (1, "down"): 1500})
    for root in drawings(section):
        assert {"7", "1500", "3", "4"} <= set(texts(root))
        bars = [float(e.attrib["width"]) * float(e.attrib["height"]) for e in by_class(root, "bar")]
        assert len([b for b in bars if b > 0]) >= 2
    assert said(wide(section)) == (
        "1,507 weights in 3 of 4 matrices. By kind: down 1,500, q 7. Most in layer 1 1,504, layer 0 3."
    )
    assert table(section).rows == (("0", "3", "0", "3"), ("1", "4", "1,500", "1,504"), ("all", "7", "1,500", "1,507"))


def test_colour_shows_the_share_where_sizes_are_known() -> None:
    counts, total = {(0, "q"): 10, (0, "down"): 10}, {(0, "q"): 100, (0, "down"): 1000}
    with_sizes, without = (
        [e.attrib["class"] for e in by_class(wide(Places("p", "", 1, ("q", "down"), counts, sizes)), "cell")][6:]
        for sizes in (total, None)
    )
    assert with_sizes == ["cell hot-5", "cell hot-1"]
    assert without == ["cell hot-5", "cell hot-5"]
    assert table(Places("p", "", 1, ("q", "down"), counts, total)).rows[0][1] == "10 (10.000 %)"


def test_a_matrix_that_does_not_exist_is_not_empty() -> None:
    section = Places("p", "", 2, ("q", "gate"), {}, {(0, "q"): 9, (1, "q"): 9, (1, "gate"): 9})
    assert len(by_class(wide(section), "missing")) == 1
    assert table(section).rows[0] == ("0", "0", "–", "0")


@pytest.mark.parametrize("layers", [1, 12, 30, 80, 200])
def test_any_depth_stays_readable(make_places: Callable[..., Places], layers: int) -> None:
    section = make_places(layers)
    check(section)
    across, down = drawings(section)
    cells = [e for e in by_class(across, "cell") if e.find("title") is not None]
    assert len(cells) == 7 * layers
    assert min(float(e.attrib["width"]) for e in cells) >= 6
    assert len(texts(down)) > layers, "a phone shows every layer's number"
    base = max(float(e.attrib["y"]) for e in by_class(across, "axis"))
    shown = [float(e.attrib["x"]) for e in by_class(across, "axis") if float(e.attrib["y"]) == base]
    assert all(after - before >= 16 for before, after in itertools.pairwise(shown[1:]))


def test_nothing_chosen_and_unlisted_places(make_places: Callable[..., Places]) -> None:
    check(make_places(4, counts={}))
    check(make_places(4, counts={}, total=None))
    assert drawings(Places("p", "", 0, (), {})) == []
    assert drawings(Places("p", "", 3, (), {})) == []
    assert table(Places("p", "", 3, (), {})).rows == ()
    stray = Places("p", "", 1, ("q",), {(5, "router"): 2})
    check(stray)
    assert "2 weights in 1 of 4 matrices" in said(wide(stray)), "what lies outside the grid is not lost"


def test_huge_counts_are_short() -> None:
    check(Places("p", "", 2, ("q",), {(0, "q"): 10**18, (1, "q"): 1}, {(0, "q"): 10**18, (1, "q"): 10**18}))
    assert [count(n) for n in (0, 9999, 15_300, 999_499, 999_500, 2_340_000, 12_000_000_000)] == [
        "0", "9999", "15k", "999k", "1.0M", "2.3M", "12B",
    ]  # fmt: skip


# Effects


def test_each_measure_has_its_own_scale_around_no_change() -> None:
    small = row(Effect("patch", 0.4, -0.1, (-0.2, 0.0), emphasis=True))
    large = row(Effect("patch", -9.5, -10.0, (-20.0, 0.0), emphasis=True))
    first, _, second, _ = drawings(Effects("e", "", (small, large)))
    assert place(by_class(first, "mark")[0]) == place(by_class(second, "mark")[0])
    whisker = by_class(first, "whisker")[0]
    (zero,) = by_class(first, "zero")
    assert float(whisker.attrib["x2"]) == pytest.approx(float(zero.attrib["x1"]), abs=0.2)


def test_the_patch_differs_from_its_controls_by_more_than_colour(make_effects: Callable[..., Effects]) -> None:
    root = wide(make_effects())
    marks = by_class(root, "mark")
    assert [("hollow" in m.attrib["class"]) for m in marks] == [False, True, True, True, True]
    assert [m.tag for m in marks[:2]] == ["circle", "rect"]
    assert texts(root).count("patch") == 1


def test_an_edit_keeps_its_mark_from_measure_to_measure() -> None:
    patch = Effect("patch", 0.4, -0.1, (-0.2, 0.0), emphasis=True)
    random, opposite = (Effect(label, 0.5, 0.0, (-0.1, 0.1)) for label in ("random", "opposite"))
    first, _, second, _ = drawings(Effects("e", "", (row(random, opposite, patch), row(opposite))))
    opposite_marks = [[m for m in by_class(root, "mark") if m.tag == "polygon"] for root in (first, second)]
    assert [len(found) for found in opposite_marks] == [1, 1]


def test_a_control_that_breaks_the_model_is_clipped() -> None:
    patch = Effect("patch", 0.4, -0.1, (-0.2, 0.0), emphasis=True)
    broken = Effect("opposite", 12.5, 12.0, (11.0, 13.0))
    section = Effects("e", "", (row(patch, broken),))
    root = wide(section)
    (whisker, *_) = by_class(root, "whisker", "series-0")
    assert float(whisker.attrib["x2"]) - float(whisker.attrib["x1"]) > 60, "the patch is still seen"
    assert [m for m in by_class(root, "mark", "mark-informing") if m.tag == "polygon"]
    assert "+12.000" in texts(root)
    assert table(section).rows[1] == (
        "preference.margin", "opposite", "0.500", "12.500", "+12.000 [+11.000, +13.000]", "nats/token",
    )  # fmt: skip


def test_which_way_is_worse_is_said() -> None:
    effect = Effect("patch", 0.4, -0.1, (-0.2, 0.0))
    shown = {worse: texts(wide(Effects("e", "", (row(effect, worse=worse),)))) for worse in ("higher", "lower", None)}
    assert "worse →" in shown["higher"]
    assert "← worse" in shown["lower"]
    assert not any("worse" in text for text in shown[None])


@pytest.mark.parametrize(("difference", "half"), [*itertools.product(VALUES, (0.0, 0.2, 1e308, NAN, INF))])
def test_any_effect_is_drawn_or_left_out(difference: float, half: float) -> None:
    other = Effect("patch", 0.4, -0.1, (-0.2, 0.0), emphasis=True)
    effect = Effect("random", NAN, difference, (difference - half, difference + half))
    check(Effects("e", "", (row(other, effect), row(effect), row())))


# Words


def test_labels_break_where_they_can() -> None:
    assert wrap("code_security", 7, 3) == ["code_", "securi…"]
    assert wrap("honesty_at_work", 11, 3) == ["honesty_at_", "work"]
    assert wrap("", 7, 3) == [""]
    assert wrap("one two three four", 5, 2) == ["one", "two…"]
    assert wrap("数字" * 20, 8, 2) == ["数字数…"]


def test_numbers_in_cells_are_short() -> None:
    values = (0.0, 0.951, -0.62, 12.34, 312.4, 12345.6, 1e20, -2e-5, 1e308, NAN)
    assert [compact(v) for v in values] == [
        "0", "0.95", "−0.62", "12.3", "312", "12346", "1e20", "−2e−5", "1e308", "n/a",
    ]  # fmt: skip


def test_a_table_must_be_rectangular() -> None:
    with pytest.raises(ValueError, match="has not 2 cells"):
        Table("t", "", ("a", "b"), (("1",),))


def test_hostile_labels_stay_text(hostile: str) -> None:
    h = hostile
    many = tuple(TradeOffPoint(0.1 * i, 0.2 * i, h) for i in range(3))
    sections: tuple[Section, ...] = (
        TradeOff(h, h, h, h, (TradeOffLine(h, many, True), TradeOffLine(h, many)), 0.1, h, h),
        HeatMap(h, h, (h, h), (h, h), ((1.0, None), (2.0, NAN)), h, h, h),
        Places(h, h, 2, (h,), {(0, h): 3}, {(0, h): 7, (1, h): 7}),
        Effects(h, h, (EffectRow(h, h, h, "higher", 1.0, (Effect(h, 2.0, 1.0, (0.5, 1.5), True),)),)),
    )
    for section in sections:
        check(section)
        for root in drawings(section):
            assert {e.tag for e in root.iter()} <= {"svg", "title", "desc", "text", "line", "rect", "circle", "polygon"}
            text = "".join(root.itertext())
            assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\u202a-\u202e\u2066-\u2069]", text)
