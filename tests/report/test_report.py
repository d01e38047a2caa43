"""The HTML report: complete, safe with any text, honest about what is left out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

import aftertune.report
from aftertune.comparison import Finding, Verdict, decide
from aftertune.report import ComparisonSection, Example, ReportPage, render_report

MakeFinding = Callable[..., Finding]
MakePage = Callable[..., ReportPage]
MakeSection = Callable[..., ComparisonSection]

VOID = {"meta", "br", "img", "link", "input", "hr"}
TEMPLATES = Path(aftertune.report.__file__).parent / "templates"


class Page(HTMLParser):
    """Collects elements and visible text, and insists that every element is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), f"attribute given twice on <{tag}>"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def tags(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == name]


def test_is_one_html_file_with_its_svgs_well_formed(make_page: MakePage) -> None:
    html = render_report(make_page())
    page = Page(html)
    assert html.lstrip().lower().startswith("<!doctype html>")
    assert page.tags("html") == [{"lang": "en"}]
    names = {m.get("name") for m in page.tags("meta")}
    assert {"viewport", "color-scheme"} <= names
    svgs = re.findall(r"<svg\b.*?</svg>", html, re.DOTALL)
    assert len([svg for svg in svgs if 'role="img"' in svg]) == 2 * 2 + 2 + 1
    for svg in svgs:
        ElementTree.fromstring(svg)
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    referred = {i for _, a in page.elements for i in (a.get("aria-labelledby") or "").split()}
    assert referred <= set(ids)


def test_loads_nothing_and_runs_nothing(make_page: MakePage) -> None:
    html = render_report(make_page())
    page = Page(html)
    assert not {"script", "link", "iframe", "img", "object", "form", "base"} & {t for t, _ in page.elements}
    for _, attributes in page.elements:
        assert not {"src", "href", "srcset", "action", "xlink:href"} & attributes.keys()
        assert not [key for key in attributes if key.startswith("on")]
    style = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    assert "url(" not in "".join(style)
    assert "@import" not in "".join(style)
    (policy,) = [m["content"] for m in page.tags("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_headings_descend_in_order(make_page: MakePage) -> None:
    levels = [int(tag[1]) for tag, _ in Page(render_report(make_page())).elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_several_sections_show_their_verdicts_in_words(make_page: MakePage) -> None:
    page = Page(render_report(make_page()))
    assert re.search(r"careless LoRA .*? Fail At least one deciding metric", page.words)
    assert re.search(r"careful LoRA .*? Pass Every deciding metric stayed", page.words)
    assert "4 deciding metrics: 1 pass, 2 fail, 1 inconclusive" in page.words
    for reason in make_page().sections[0].verdict.reasons:
        assert reason in page.words


def test_inconclusive_is_not_a_pass(inconclusive_section: ComparisonSection) -> None:
    words = Page(render_report(ReportPage("Audit", "", (inconclusive_section,)))).words
    assert "Inconclusive The data do not settle every deciding metric. This is not a pass." in words
    assert "about 412 prompts would settle it" in words


def test_a_verdicts_note_replaces_the_sentence(make_section: MakeSection) -> None:
    section = replace(make_section("same", 0.0), verdict=decide([], identical=True))
    words = Page(render_report(ReportPage("Audit", "", (section,)))).words
    assert "base and tuned have identical weights: there is nothing to compare" in words
    assert "Every deciding metric stayed" not in words


def test_parts_without_content_are_left_out(inconclusive_section: ComparisonSection) -> None:
    page = Page(render_report(ReportPage("Audit", "", (inconclusive_section,))))
    headings = {a.get("id") for t, a in page.elements if t == "h2"}
    assert headings == {"verdict", "changed", "method"}
    empty = replace(inconclusive_section, findings=())
    assert "What changed" not in Page(render_report(ReportPage("Audit", "", (empty,)))).words


def test_says_who_was_compared_with_what(make_page: MakePage) -> None:
    page = Page(render_report(make_page()))
    assert page.words.count("smollm2") >= 3
    assert Counter(a.get("title") for a in page.tags("code"))["ab12" * 16] == 1, "the common base is listed once"
    assert "method LORA, rank 16, alpha 32, rank stabilised yes, scale 8" in page.words
    assert "transformers 5.23.0" in page.words
    assert "The 95 % intervals come from a paired cluster bootstrap" in page.words
    assert "Holm" in page.words
    assert "aftertune report runs/demo --html report.html" in page.words


def test_the_manifests_command_stands_in_for_missing_ones(make_page: MakePage) -> None:
    words = Page(render_report(make_page(commands=()))).words
    assert "How to reproduce aftertune demo --out runs/demo" in words


def test_informing_metrics_and_examples_are_collapsed(make_page: MakePage) -> None:
    page = Page(render_report(make_page()))
    details = page.tags("details")
    assert len(details) == 2 + 1 + 4 + 1
    assert all("open" not in attributes for attributes in details)


def test_redacting_drops_every_example_text(make_page: MakePage) -> None:
    html = render_report(make_page(), redact=True)
    words = Page(html).words
    for section in make_page().sections:
        for example in section.examples:
            assert example.item in words
            for text in example.texts.values():
                assert text[:20] not in words
    assert "Redacted. The items’ texts were left out" in words
    assert "−1.204 → 1.611 nats/token" in words


def hostile_pages(make_page: MakePage, make_finding: MakeFinding, h: str) -> Iterator[tuple[str, ReportPage]]:
    page = make_page()
    section = page.sections[0]

    def put(**changes: object) -> ReportPage:
        return replace(page, sections=(replace(section, **changes),))  # type: ignore[arg-type]

    yield "title", replace(page, title=h)
    yield "lede", replace(page, lede=h)
    yield "commands", replace(page, commands=(h, h))
    yield "notes", replace(page, notes=(h,))
    yield "manifest", replace(page, manifest={"versions": {h: h}, "started": h, "seed": [h], "config": {h: {h: h}}})
    yield "command", replace(page, commands=(), manifest={"command": h})
    yield "section title", put(title=h)
    yield "about", put(about=h)
    yield "reasons", put(verdict=Verdict("fail", (h,), h))
    yield "identity", put(base={"spec": h, "adapter": {h: h}, "weights_sha256": h}, tuned={"spec": h, "revision": h})
    flat = h.replace("/", "")
    stem = make_finding(f"preference.margin:{flat}", 0, 0, 1, note=h)
    informing = make_finding(f"traits.score:{flat}", 0, 0, 1, note=h)
    domain, band = (make_finding(f"{m}/{h}", 0, 0, 1) for m in ("preference.margin", "drift.kl"))
    yield "findings", put(findings=(stem, informing, domain, band))
    yield "example", put(examples=(Example(f"preference.margin:{h}", h, h, 0.0, 1.0, {h: h}),))


def test_hostile_text_in_every_field_stays_text(make_page: MakePage, make_finding: MakeFinding, hostile: str) -> None:
    known = {tag for tag, _ in Page(render_report(make_page())).elements}
    for field, page in hostile_pages(make_page, make_finding, hostile):
        html = render_report(page)
        parsed = Page(html)
        assert {tag for tag, _ in parsed.elements} <= known, field
        assert not [a for _, a in parsed.elements if any(k.startswith("on") for k in a)], field
        assert "onerror=alert(1)" in parsed.words, field
        assert "{{ 7*7 }}{% raw %}" in parsed.words, f"{field}: template syntax was run"
        assert "&amp; \"'" in parsed.words, f"{field}: escaped too little or twice"
        assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\u202a-\u202e\u2066-\u2069]", html), field
        html.encode("utf-8")
        for svg in re.findall(r"<svg\b.*?</svg>", html, re.DOTALL):
            ElementTree.fromstring(svg)


def test_bidi_overrides_are_shown_and_line_breaks_kept(make_page: MakePage) -> None:
    example = Example("preference.margin", "x", "", 0.0, 1.0, {"prompt": "a\u202eb\r\n\r\nc"})
    page = make_page()
    page = replace(page, sections=(replace(page.sections[0], examples=(example,)),))
    assert "a⟨U+202E⟩b\n\nc</dd>" in render_report(page)


def test_numbers_that_are_none_are_not_shown_as_nan(make_page: MakePage, make_finding: MakeFinding) -> None:
    nan = float("nan")
    finding = make_finding("preference.margin", nan, nan, nan, decision="inconclusive")
    example = Example("preference.margin", "x", "", nan, float("inf"), {})
    section = ComparisonSection("t", "", Verdict("inconclusive", ("no number",)), {}, {}, (finding,), (example,))
    html = render_report(make_page(sections=(section,)))
    outside = re.sub(r"<desc.*?</desc>", "", html)
    assert not re.search(r"\b(nan|inf)\b", outside)


def palette(css: str) -> tuple[dict[str, str], dict[str, str]]:
    light, dark = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    pattern = r"--([\w-]+): (#[0-9a-f]{6})"
    return dict(re.findall(pattern, light)), dict(re.findall(pattern, dark))


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_colours_meet_wcag_aa(theme: int) -> None:
    colours = palette((TEMPLATES / "report.css").read_text("utf-8"))[theme]
    pairs = [(ink, on) for ink in ("ink", "muted", "pass", "fail", "open") for on in ("page", "surface", "sunken")]
    pairs += [(ink, f"{ink}-tint") for ink in ("pass", "fail", "open")]
    pairs += [("ink", "open-tint"), ("muted", "fail-tint"), *((f"series-{i}", "surface") for i in range(5))]
    for ink, on in pairs:
        high, low = sorted((luminance(colours[ink]), luminance(colours[on])), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, f"{ink} on {on}"
