"""Figures as files: complete in themselves, with the page's light colours, numbers in full."""

from __future__ import annotations

import csv
import re
import struct
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from aftertune.errors import OutputError, UsageError
from aftertune.report import (
    Effects,
    HeatMap,
    Places,
    Section,
    Table,
    TradeOff,
    TradeOffLine,
    figure_files,
    render_png,
    render_svg,
    share_scales,
)
from aftertune.report._html import draw_sections
from aftertune.stats import ComparisonSection

SVG = "{http://www.w3.org/2000/svg}"
SHAPES = {"rect", "circle", "polygon", "line"}


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


def tags(svg: str) -> set[str]:
    return {element.tag.removeprefix(SVG) for element in ElementTree.fromstring(svg).iter()}


def test_an_svg_needs_no_style_sheet(section: Section) -> None:
    svg = render_svg(section)
    assert tags(svg) <= {"svg", "title", "desc", "text"} | SHAPES
    assert not re.search(r"var\(|currentColor|class=|<style|<script|href|url\(", svg)
    for element in ElementTree.fromstring(svg).iter():
        if element.tag.removeprefix(SVG) in {"rect", "polygon", "circle"}:
            assert re.fullmatch(r"#[0-9a-f]{6}|none", element.attrib["fill"])
        if element.tag == f"{SVG}line":
            assert re.fullmatch(r"#[0-9a-f]{6}", element.attrib["stroke"])
        if element.tag == f"{SVG}text":
            assert re.fullmatch(r"#[0-9a-f]{6}", element.attrib["fill"])


def test_every_shape_and_word_of_the_page_is_there(section: Section) -> None:
    (drawn,) = draw_sections([section], "s")
    pictures = [drawn.chart, *(panel.chart for panel in drawn.panels)]
    there = [e for chart in pictures if chart for e in ElementTree.fromstring(chart.wide).iter()]
    here = list(ElementTree.fromstring(render_svg(section)).iter())
    for tag in SHAPES | {"text"}:
        captions = len(drawn.panels) if tag == "text" else 1 if tag == "rect" else 0
        assert sum(e.tag == f"{SVG}{tag}" for e in here) == sum(e.tag == tag for e in there) + captions


def test_marks_keep_the_colours_of_the_page(make_section: Callable[..., ComparisonSection]) -> None:
    """Looked up by hand in the style sheet: pass #0b6b52, fail #b0261e, inconclusive #855400 and hollow."""
    root = ElementTree.fromstring(render_svg(make_section("careless", 1.0)))
    words = {e.text: e.attrib["fill"] for e in root.iter(f"{SVG}text")}
    assert (words["pass"], words["fail"], words["inconclusive"]) == ("#0b6b52", "#b0261e", "#855400")
    triangles = [e for e in root.iter(f"{SVG}polygon") if e.get("stroke") == "#855400"]
    assert [e.attrib["fill"] for e in triangles] == ["#ffffff"]


def test_a_png_holds_the_picture_and_its_words(section: Section) -> None:
    svg = render_svg(section)
    png = render_png(svg, zoom=1.0)
    box = ElementTree.fromstring(svg).attrib
    width, height = struct.unpack(">II", png[16:24])
    assert abs(width - float(box["width"])) <= 1
    assert abs(height - float(box["height"])) <= 1
    assert len(png) > 1.1 * len(render_png(re.sub(r"<text.*?</text>", "", svg), zoom=1.0)), "words take room"


def test_files_hold_every_number_in_full(tmp_path: Path, make_effects: Callable[..., Effects]) -> None:
    written = figure_files(make_effects(), tmp_path / "figures", "before-after")
    assert [path.name for path in written] == ["before-after.svg", "before-after.png", "before-after.csv"]
    with written[-1].open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {(r["measure"], r["edit"]): (float(r["low"]), float(r["difference"]), float(r["high"])) for r in rows}
    assert found == {
        (row.measure, e.label): (e.interval[0], e.difference, e.interval[1])
        for row in make_effects().rows
        for e in row.effects
    }


@pytest.mark.parametrize("kind", ["trade-off", "heat map", "places", "table"])
def test_csv_columns(
    kind: str,
    tmp_path: Path,
    make_trade_off: Callable[..., TradeOff],
    make_heat_map: Callable[..., HeatMap],
) -> None:
    sections: dict[str, tuple[Section, list[list[str]]]] = {
        "trade-off": (
            make_trade_off(lines=make_trade_off().lines[-1:]),
            [["line", "benign cost", "harm removed", "note"], ["full rollback", "0.41", "1.7", ""]],
        ),
        "heat map": (
            HeatMap("t", "", ("a",), ("b", "c"), ((0.123456789, None),), row_label="from"),
            [["from", "b", "c"], ["a", "0.123456789", ""]],
        ),
        "places": (
            Places("t", "", 2, ("q",), {(0, "q"): 3}, {(0, "q"): 9, (1, "q"): 9}),
            [["layer", "matrix", "chosen", "weights"], ["0", "q", "3", "9"], ["1", "q", "0", "9"]],
        ),
        "table": (Table("t", "", ("a", "b"), (("x", "−0.5"),)), [["a", "b"], ["x", "-0.5"]]),
    }
    section, expected = sections[kind]
    written = figure_files(section, tmp_path, "f", png=False)
    assert [path.suffix for path in written] == ([".csv"] if kind == "table" else [".svg", ".csv"])
    assert list(csv.reader(written[-1].open(newline=""))) == expected


def test_a_table_has_no_picture() -> None:
    for section in (Table("numbers", "", ("a",), (("1",),)), TradeOff("empty", "", "x", "y", (TradeOffLine("l", ()),))):
        with pytest.raises(UsageError, match="has no picture"):
            render_svg(section)


def test_without_the_extra_a_png_is_refused_and_the_rest_is_written(
    tmp_path: Path, section: Section, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(UsageError, match=r"pip install 'aftertune\[figures\]'"):
        figure_files(section, tmp_path, "f", png=True)
    assert [path.name for path in figure_files(section, tmp_path, "f")] == ["f.svg", "f.csv"]


def test_a_machine_without_fonts_is_told(section: Section, monkeypatch: pytest.MonkeyPatch) -> None:
    import resvg_py

    real = resvg_py.svg_to_bytes
    monkeypatch.setattr(resvg_py, "svg_to_bytes", lambda **options: real(skip_system_fonts=True, **options))
    with pytest.raises(OutputError, match="no font"):
        render_png(render_svg(section))


def test_hostile_text_stays_text_in_a_figure(hostile: str, make_trade_off: Callable[..., TradeOff]) -> None:
    line = replace(make_trade_off().lines[1], label=hostile)
    svg = render_svg(make_trade_off(title=hostile, x_label=hostile, lines=(line,)))
    assert tags(svg) <= {"svg", "title", "desc", "text"} | SHAPES
    assert "\u202e" not in svg
    assert "\x00" not in svg


def test_heat_maps_of_a_group_share_their_colours() -> None:
    """The random control, a tenth as strong as the patch, must look so."""

    def matrix(value: float, group: str) -> HeatMap:
        return HeatMap("t", "", ("a",), ("b", "c"), ((value, -value / 2),), scale_group=group)

    patch, control, alone = draw_sections(share_scales([matrix(1.0, "g"), matrix(0.1, "g"), matrix(0.1, "")]), "s")
    fills = [
        [
            (e.get("class") or "").split()[1]
            for e in ElementTree.fromstring(one.chart.wide).iter("rect")
            if e.find("title") is not None
        ]
        for one in (patch, control, alone)
        if one.chart
    ]
    assert fills == [["hot-5", "cold-2"], ["cold-0", "cold-0"], ["hot-5", "cold-2"]]
