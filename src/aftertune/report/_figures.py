"""Figures as files: a section's picture as SVG and PNG with its colours written into it, its numbers as CSV."""

from __future__ import annotations

import csv
import functools
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

from aftertune.errors import OutputError, UsageError
from aftertune.report._charts import forest_plot
from aftertune.report._html import Drawn, draw_sections, template_text
from aftertune.report._sections import Effects, HeatMap, Places, Section, Table, TradeOff
from aftertune.report._text import clean
from aftertune.runs import write_bytes, write_text
from aftertune.stats import ComparisonSection

_FONTS = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"
# What SVG takes as attributes; the rest of a rule lays out the page.
_DRAWING = {
    "fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-linejoin", "opacity", "font-size", "font-weight",
    "paint-order",
}  # fmt: skip
_CAPTION = 26.0


def render_svg(section: Section | ComparisonSection) -> str:
    """A section's picture as an SVG file: complete in itself, on a light background, without style sheet or script.

    Args:
        section: a section of a study, or a comparison, whose metrics are drawn. The small charts of `Effects` stand
            one below the other.

    Raises:
        UsageError: the section has no picture: it is a table, or holds no number.
    """
    if isinstance(section, ComparisonSection):
        drawn, pictures = None, [("", forest_plot(section.findings, name="figure", title=section.title))]
    else:
        (drawn,) = draw_sections([section], "figure")
        pictures = list(_pictures(drawn))
    pictures = [(caption, svg) for caption, svg in pictures if svg]
    if not pictures:
        raise UsageError(f"{section.title}: has no picture, since it is a table or holds no numbers")
    parts = [(caption, ElementTree.fromstring(svg)) for caption, svg in pictures]
    boxes = [[float(end) for end in part.attrib["viewBox"].split()[2:]] for _, part in parts]
    width = max(box[0] for box in boxes)
    height = sum(box[1] + (_CAPTION if caption else 0.0) for (caption, _), box in zip(parts, boxes, strict=True))
    sizes = {"width": f"{width + 32:g}", "height": f"{height + 32:g}"}
    root = ElementTree.Element("svg", {
        "xmlns": "http://www.w3.org/2000/svg", "role": "img", "font-family": _FONTS,
        "viewBox": f"-16 -16 {sizes['width']} {sizes['height']}", **sizes,
    })  # fmt: skip
    ElementTree.SubElement(root, "title").text = clean(section.title)
    colours = _colours()
    ElementTree.SubElement(root, "rect", {"x": "-16", "y": "-16", **sizes, "fill": colours["surface"]})
    y = 0.0
    for (caption, part), (wide, high) in zip(parts, boxes, strict=True):
        if caption:
            text = {"x": "0", "y": f"{y + 16:g}", "font-size": "14", "font-weight": "bold", "fill": colours["ink"]}
            ElementTree.SubElement(root, "text", text).text = clean(caption)
            y += _CAPTION
        for element in part.iter():
            _inline(element)
        part.attrib.update({"x": "0", "y": f"{y:g}", "width": f"{wide:g}", "height": f"{high:g}"})
        root.append(part)
        y += high
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def render_png(svg: str, *, zoom: float = 2.0) -> bytes:
    """An SVG of `render_svg` as PNG.

    Args:
        svg: the picture.
        zoom: pixels for each unit of the picture.

    Raises:
        UsageError: the extra "figures" is not installed.
        OutputError: this machine has no font, and a picture without its words would mislead.
    """
    try:
        import resvg_py
    except ImportError:
        raise UsageError("a figure as PNG: needs resvg-py; pip install 'aftertune[figures]', or take the SVG") from None
    empty = '<svg xmlns="http://www.w3.org/2000/svg" width="20" height="20"><text y="16">{}</text></svg>'
    if resvg_py.svg_to_bytes(svg_string=empty.format("M")) == resvg_py.svg_to_bytes(svg_string=empty.format("")):
        raise OutputError("a figure as PNG: this machine has no font; install one, such as fonts-dejavu-core")
    return bytes(resvg_py.svg_to_bytes(svg_string=svg, zoom=zoom))


def figure_files(section: Section, folder: Path, name: str, *, png: bool | None = None) -> list[Path]:
    """Write a section's picture as ``name.svg`` and ``name.png`` and its numbers as ``name.csv``.

    A section without a picture gets its numbers alone. Sections whose heat maps share a colour scale are to be passed
    through `share_scales` first.

    Args:
        section: what to write.
        folder: where to; made if missing.
        name: of the files, without extension.
        png: whether to write the PNG; None to write it where the extra "figures" is installed.

    Returns:
        The files, in the order SVG, PNG, CSV.

    Raises:
        UsageError: `png` is asked for without the extra.
        OutputError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    (drawn,) = draw_sections([section], "figure")
    if any(svg for _, svg in _pictures(drawn)):
        svg = render_svg(section)
        written.append(folder / f"{name}.svg")
        write_text(written[-1], svg)
        if png or (png is None and _can_png()):
            written.append(folder / f"{name}.png")
            write_bytes(written[-1], render_png(svg))
    written.append(folder / f"{name}.csv")
    write_text(written[-1], _csv(section))
    return written


def _can_png() -> bool:
    from importlib.util import find_spec

    return find_spec("resvg_py") is not None


def _pictures(drawn: Drawn) -> Iterator[tuple[str, str]]:
    """Every picture of a section with its caption."""
    if drawn.chart:
        yield "", drawn.chart.wide
    for panel in drawn.panels:
        if panel.chart:
            yield panel.row.measure, panel.chart.wide


def _csv(section: Section) -> str:
    """A section's numbers in full, one row for each thing drawn; minus signs as machines read them."""
    header, rows = _numbers(section)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    for row in (header, *rows):
        writer.writerow(["" if cell is None else clean(str(cell)).replace("−", "-") for cell in row])
    return buffer.getvalue()


def _numbers(section: Section) -> tuple[Sequence[str], list[Sequence[object]]]:
    match section:
        case TradeOff():
            points = [(line.label, p.x, p.y, p.note) for line in section.lines for p in line.points]
            return ("line", section.x_label, section.y_label, "note"), [*points]
        case HeatMap():
            cells = zip(section.rows, section.values, strict=True)
            return (section.row_label, *section.columns), [(row, *values) for row, values in cells]
        case Places():
            sizes = section.total or {}
            named = sorted({*section.counts, *sizes})
            found = [(*matrix, section.counts.get(matrix, 0), sizes.get(matrix)) for matrix in named]
            return ("layer", "matrix", "chosen", "weights"), [*found]
        case Effects():
            effects = [(row, e) for row in section.rows for e in row.effects]
            header = ("measure", "edit", "before", "after", "difference", "low", "high", "unit")
            return header, [
                (row.measure, e.label, row.before, e.after, e.difference, *e.interval, row.unit) for row, e in effects
            ]
        case Table():
            return section.header, [*section.rows]


def _inline(element: ElementTree.Element) -> None:
    """Put what the style sheet says of an element into its attributes."""
    classes = set(element.attrib.pop("class", "").split())
    for attribute in ("role", "aria-labelledby", "id"):
        element.attrib.pop(attribute, None)
    found: dict[str, str] = {}
    for tag, wanted, said in _rules():
        if tag in ("", element.tag) and wanted <= classes:
            found.update(said)
    tone = found.get("--tone", "")
    for key, value in found.items():
        if key in _DRAWING:
            element.set(key, _resolved(value.replace("var(--tone)", tone)))
    # Few fonts have the weights between; a browser takes the next one, other programs the regular.
    if element.get("font-weight", "400") > "500":
        element.set("font-weight", "bold")


def _resolved(value: str) -> str:
    colours = _colours()
    value = re.sub(r"var\(--([\w-]+)\)", lambda found: colours[found[1]], value)
    return value.replace("currentColor", colours["ink"])


@functools.cache
def _rules() -> tuple[tuple[str, frozenset[str], Mapping[str, str]], ...]:
    """The charts' rules as (tag, classes, declarations), the more specific and the later ones last."""
    sheet = re.sub(r"@media[^{]*\{(?:[^{}]*\{[^{}]*\})*[^{}]*\}", "", template_text("charts.css"))
    rules = []
    for selectors, body in re.findall(r"([^{}]+)\{([^{}]*)\}", sheet):
        said = dict(part.split(":", 1) for part in re.sub(r"\s*([:;])\s*", r"\1", body.strip()).split(";") if part)
        for selector in selectors.split(","):
            tag, *classes = selector.strip().removeprefix(".chart ").split(".")
            rules.append((tag, frozenset(classes), said))
    return tuple(sorted(rules, key=lambda rule: len(rule[1])))


@functools.cache
def _colours() -> Mapping[str, str]:
    """The light theme's colours by name."""
    sheets = template_text("report.css"), template_text("sections.css")
    roots = "".join(body for sheet in sheets for body in re.findall(r":root \{(.*?)\}", sheet, re.DOTALL)[:1])
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", roots))
