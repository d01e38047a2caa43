"""A comparison in Markdown: short, true, and no text of it is markup."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html import unescape

import pytest
from markdown_it import MarkdownIt

from aftertune.report import render_markdown
from aftertune.stats import Change, ComparisonSection, Finding, SinceBaseline, Verdict, WorstGroup, decide

MakeSection = Callable[..., ComparisonSection]
MakeFinding = Callable[..., Finding]
OURS = {"h3", "p", "ul", "li", "code", "strong", "table", "thead", "tbody", "tr", "th", "td"}
MARKUP = (
    "*a* **b** _c_ __d__ `e` ``f`` [g](http://h) ![i](http://j) <b>k</b> <!-- l --> &lt; \\ \\* ~~m~~ # n | o "
    "http://evil.example/p www.evil.example <http://q> $r$ `"
)


def html(markdown: str) -> str:
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown)


def tags(rendered: str) -> set[str]:
    return set(re.findall(r"</?([a-z][a-z0-9]*)", rendered))


def text(rendered: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", rendered)).split())


def rows(rendered: str) -> list[list[str]]:
    return [
        [text(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)]
        for row in re.findall(r"<tr>(.*?)</tr>", rendered, re.DOTALL)
    ]


def test_it_holds_verdict_reasons_and_a_row_for_each_metric(make_section: MakeSection) -> None:
    section = make_section("careless", 1.0)
    rendered = html(render_markdown(section))
    assert tags(rendered) == OURS
    assert "<h3>aftertune: fail</h3>" in rendered
    assert "<p><code>careless</code> against <code>smollm2</code></p>" in rendered
    assert [text(item) for item in re.findall(r"<li>(.*?)</li>", rendered)] == list(section.verdict.reasons)
    table = rows(rendered)
    top = [f for f in section.findings if "/" not in f.metric]
    assert table[0] == ["metric", "decision", "worse by [interval]", "tolerance"]
    assert sorted(row[0] for row in table[1:]) == sorted(f.metric for f in top)
    shown = {row[0]: row for row in table[1:]}
    for f in top:
        informs = {"pass": "within tolerance", "fail": "beyond tolerance"}
        assert shown[f.metric][1] == (f.decision if f.decides else informs.get(f.decision, f.decision))
        assert shown[f.metric][3].startswith(f"{f.tolerance:g} ")
    assert shown["preference.margin"][2] == "+1.360 [+1.305, +1.415]"
    assert shown["refusal.harmful"][2].startswith("+0.166 [")  # lower is worse there
    decides = {f.metric: f.decides for f in top}
    deciding = [decides[row[0]] for row in table[1:]]
    assert deciding == sorted(deciding, reverse=True)


def test_a_pass_has_no_reasons(make_section: MakeSection) -> None:
    section = make_section("careful", 0.0)
    passing = replace(section, verdict=Verdict("pass", (), ""))
    rendered = html(render_markdown(passing))
    assert tags(rendered) == OURS - {"ul", "li", "strong"} | ({"strong"} if "<strong>" in rendered else set())
    assert "aftertune: pass" in rendered
    assert "Note:" not in rendered


def test_since_the_baseline_has_a_column_and_a_line(make_finding: MakeFinding) -> None:
    findings = (
        make_finding("preference.margin", 0.0, 1.0, 0.1),
        make_finding("refusal.harmful", 0.5, 0.0, 0.01),
        make_finding("preference.margin:own", 0.0, 1.0, 0.1),
        make_finding("traits.score", 0.0, 0.0, 0.1),
    )
    changes = (
        Change("preference.margin", "persistent", "fail", "fail", 0.9, 1.0),
        Change("refusal.harmful", "fixed", "inconclusive", "pass", 0.1, 0.0),
        Change("preference.margin:own", "new", None, "fail", None, 1.0),
    )
    section = ComparisonSection(
        "t", "", decide(findings), {}, {}, findings, since=SinceBaseline("runs/a", "any", changes)
    )
    rendered = html(render_markdown(section))
    assert "<p>Since the baseline <code>runs/a</code>: 1 new, 1 fixed, 1 persistent.</p>" in rendered
    assert {row[0]: row[4] for row in rows(rendered)} == {
        "metric": "since the baseline",
        "preference.margin": "persistent (was fail)",
        "refusal.harmful": "fixed (was inconclusive)",
        "preference.margin:own": "new (was not decided on)",
        "traits.score": "",
    }


@pytest.mark.parametrize("where", ["title", "note", "reasons", "run", "metric", "spec"])
def test_no_text_is_markup(where: str, make_finding: MakeFinding, hostile: str) -> None:
    for said in (
        MARKUP,
        hostile,
        "- a list\n# a heading\n\n> quoted",
        "1. one",
        "+ plus",
        "``` fence",
        "| a | b |",
        "-",
        "",
    ):
        metric = f"preference.margin:{said.replace('/', '')}" if where == "metric" else "preference.margin"
        finding = make_finding(metric, 0.0, 1.0, 0.1)
        since = SinceBaseline(said if where == "run" else "r", "any", (Change(metric, "new", "pass", "fail"),))
        section = ComparisonSection(
            said if where == "title" else "t", "",
            Verdict("fail", (said,) if where == "reasons" else ("why",), said if where == "note" else "mind"),
            {"spec": said if where == "spec" else "b"}, {}, (finding,), since=since,
        )  # fmt: skip
        markdown = render_markdown(section)
        rendered = html(markdown)
        assert tags(rendered) <= OURS, said
        assert "<!--" not in rendered
        assert rendered.count("<h3>") == rendered.count("<table>") == rendered.count("<ul>") == 1
        assert len(rows(rendered)) == 2
        assert all(len(row) == 5 for row in rows(rendered))
        assert not [c for c in ("\x00", "\x1b", "\u202e", "\ud800") if c in markdown]
        # GitHub makes links of bare addresses, unless their colon or first dot is escaped.
        prose = re.sub(r"(`+) ?.*? ?\1", "", markdown)
        assert not re.search(r"(?<!\\)://|www\.", prose)


@pytest.mark.parametrize("said", [MARKUP, "- a", "12. b", "=c", "a \\| b", "`", "``a``", "\\", "x\\`y"])
def test_every_text_reads_as_it_was(said: str, make_finding: MakeFinding) -> None:
    verdict = Verdict("fail", (said,), said)
    section = ComparisonSection(
        said, "", verdict, {"spec": "b"}, {}, (make_finding("preference.margin", 0.0, 1.0, 0.1),)
    )
    rendered = html(render_markdown(section))
    paragraphs = [unescape(re.sub(r"<[^>]+>", "", p)) for p in re.findall(r"<p>(.*?)</p>", rendered, re.DOTALL)]
    assert paragraphs[0] == f"{said.replace('|', '¦')} against b"
    assert paragraphs[1] == f"Note: {said}"
    assert [unescape(item) for item in re.findall(r"<li>(.*?)</li>", rendered, re.DOTALL)] == [said]


@pytest.mark.parametrize("allowed", [False, True])
def test_what_is_not_testable_stands_on_the_first_line(allowed: bool, make_finding: MakeFinding) -> None:
    passing = make_finding("preference.margin", 0.0, 0.0, 0.01, worst=WorstGroup("a_b", 0.05, (-0.01, 0.09), 36, 8))
    blind = replace(make_finding("refusal.harmful", 0.02, 0.0, 0.001), decision="not testable", allowed=allowed)
    verdict = decide([passing, blind]).noting("not asked: drift")
    section = ComparisonSection("t", "", verdict, {"spec": "b"}, {}, (passing, blind))
    rendered = text(html(render_markdown(section)))
    first = f"aftertune: {verdict.decision}: passes on 1 of 2 deciding metrics; refusal.harmful is not testable on this"
    assert rendered.startswith(first)
    assert rendered.count("passes on 1 of 2") == 1
    assert "Note: not asked: drift" in rendered
    assert "worst in a_b: is worse by +0.050 [-0.010, +0.090], 36 prompts" in rendered
