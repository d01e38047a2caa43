"""From a run folder to a report, Markdown and JUnit, whichever verb made it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

import pytest
from markdown_it import MarkdownIt

from aftertune.errors import OutputError
from aftertune.report import (
    Chapter,
    ReportPage,
    StudyPage,
    page_of,
    render,
    render_report,
    render_study,
    summary,
    write_report,
)
from aftertune.report._summaries import page_junit, page_markdown
from aftertune.stats import ComparisonSection
from aftertune.verbs import Audit, store_audit

STORED = Path(__file__).parents[2] / "benchmarks" / "results" / "studies"
MakeStudy = Callable[..., StudyPage]
MakePage = Callable[..., ReportPage]
OURS = {"h3", "h4", "p", "ul", "li", "code", "strong", "table", "thead", "tbody", "tr", "th", "td"}


def manifest(folder: Path, verb: str, **config: object) -> None:
    fields = {"verb": verb, "status": "finished", "fingerprint": "ab", "command": f"aftertune {verb}", "config": config}
    (folder / "manifest.json").write_text(json.dumps(fields), "utf-8")


def html(markdown: str) -> str:
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown)


def rows(rendered: str) -> list[list[str]]:
    return [
        [unescape(re.sub(r"<[^>]+>", "", cell)) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)]
        for row in re.findall(r"<tr>(.*?)</tr>", rendered, re.DOTALL)
    ]


@pytest.fixture
def audited(tmp_path: Path, make_section: Callable[..., ComparisonSection]) -> Path:
    section = make_section("careless", 1.0)
    store_audit(tmp_path, Audit(section, tmp_path))
    manifest(tmp_path, "audit", policy={})
    return tmp_path


def test_an_audit_is_reported_in_every_form(audited: Path, make_section: Callable[..., ComparisonSection]) -> None:
    path = write_report(audited)
    assert path == audited / "report.html"
    assert "Fail: do not ship" in path.read_text("utf-8")
    assert summary(audited, "markdown").startswith("### aftertune: fail")
    suites = ElementTree.fromstring(summary(audited, "junit").encode())
    stored = ElementTree.parse(audited / "junit.xml").getroot()
    cases = [(c.get("name"), [child.tag for child in c]) for c in suites.iter("testcase")]
    assert cases == [(c.get("name"), [child.tag for child in c]) for c in stored.iter("testcase")]


def test_a_redacted_run_stays_so(audited: Path) -> None:
    assert not page_of(audited).redact  # type: ignore[union-attr]
    manifest(audited, "audit", policy={}, redact=True)
    page = page_of(audited)
    assert isinstance(page, ReportPage)
    assert page.redact


@pytest.mark.parametrize("name", ["compression", "transfer"])
def test_a_stored_study_is_reported_in_every_form(name: str, tmp_path: Path) -> None:
    shutil.copy(STORED / f"{name}.json", tmp_path / "study.json")
    manifest(tmp_path, f"study {name}")
    page = page_of(tmp_path)
    assert write_report(tmp_path).read_text("utf-8") == render(page)
    rendered = html(summary(tmp_path, "markdown"))
    for claim in page.claims:  # type: ignore[union-attr]
        assert claim.text in unescape(rendered)
    assert len(rows(rendered)) > 4
    cases = list(ElementTree.fromstring(summary(tmp_path, "junit").encode()).iter("testcase"))
    assert [case.get("name") for case in cases] == [claim.text for claim in page.claims]  # type: ignore[union-attr]


def test_claims_are_cases_by_their_outcome(make_study: MakeStudy) -> None:
    suite = ElementTree.fromstring(page_junit(make_study()).encode()).find("testsuite")
    assert suite is not None
    assert [[child.tag for child in case] for case in suite.iter("testcase")] == [
        ["system-out"],
        ["skipped"],
        ["failure"],
    ]
    counts = {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "3", "failures": "1", "errors": "0", "skipped": "1"}


def test_markdown_holds_claims_and_every_table(make_study: MakeStudy) -> None:
    rendered = html(page_markdown(make_study()))
    assert set(re.findall(r"</?([a-z][a-z0-9]*)", rendered)) <= OURS
    said = [unescape(re.sub(r"<[^>]+>", "", item)) for item in re.findall(r"<li>(.*?)</li>", rendered)]
    assert [item.partition(":")[0] for item in said] == ["holds", "inconclusive", "does not hold"]
    table = rows(rendered)
    assert ["preference.margin:harm", "patch", "0.210", "−0.410", "−0.620 [−0.700, −0.540]", "nats/token"] in table
    assert ["patch", "0.005", "1.080", ""] not in table
    assert ["restored by benefit", "1e-05", "0.93"] in table
    assert rendered.count("<table>") == 5


def test_a_page_of_several_parts_has_them_all(make_page: MakePage, make_chapter: Callable[..., Chapter]) -> None:
    page = make_page(chapters=(make_chapter(),))
    rendered = html(page_markdown(page))
    assert [rendered.count(f"aftertune: {d}") for d in ("fail", "pass")] == [1, 1]
    assert "<h3>Where it lives</h3>" in rendered
    names = [suite.get("name") for suite in ElementTree.fromstring(page_junit(page).encode())]
    assert names == ["aftertune: careless", "aftertune: careful", "Where it lives"]


def test_hostile_text_is_no_markup_in_a_study(make_study: MakeStudy, hostile: str) -> None:
    for said in (hostile, "| a | b |", "*x* [y](http://z) `c`", "- list"):
        study = make_study(title=said, lede=said)
        claims = tuple(replace(claim, text=said, detail=said) for claim in study.claims)
        table = replace(study.sections[-1], title=said, header=(said, "b", "c"), rows=((said, said, "1"),))
        markdown = page_markdown(replace(study, claims=claims, sections=(table,)))
        rendered = html(markdown)
        assert set(re.findall(r"</?([a-z][a-z0-9]*)", rendered)) <= OURS, said
        assert [len(row) for row in rows(rendered)] == [3, 3], said
        assert not [c for c in ("\x00", "\x1b", "\u202e", "\ud800") if c in markdown]
        ElementTree.fromstring(page_junit(replace(study, claims=claims)).encode())


def test_what_has_no_report_is_said_in_one_line(tmp_path: Path) -> None:
    manifest(tmp_path, "measure")
    with pytest.raises(OutputError, match="is a run of `measure`, which has no report; reports are of audit, compare"):
        write_report(tmp_path)
    manifest(tmp_path, "study transfer")
    (tmp_path / "study.json").write_text('{"study": "transfer", "falls": {}}', "utf-8")
    with pytest.raises(OutputError, match="holds a study of another version of aftertune; run the same command again"):
        write_report(tmp_path)


def test_pages_are_rendered_by_their_kind(make_page: MakePage, make_study: MakeStudy) -> None:
    assert render(make_page()) == render_report(make_page())
    assert render(make_study()) == render_study(make_study())
    assert render(make_page(redact=True)) == render_report(make_page(), redact=True)
