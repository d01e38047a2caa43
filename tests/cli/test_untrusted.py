"""Texts from data are shown as texts: not run by a browser, not obeyed by a terminal."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

Run = Callable[..., Any]
Rows = Callable[..., Path]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}]]>&lt;!-- \x1b[31mred\x1b]0;title\x07\x9b2J\x00 "
    "[bold]markup[/bold] \u202eback\u202c \"'"
)
STEERING = ("\x1b", "\x9b", "\x07", "\x00", "\u202e")


class Page(HTMLParser):
    """Notes tags, attributes and visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def hostile(rows: Rows, contrasts: Callable[..., list[Any]]) -> Path:
    """Contrasts whose every field is hostile."""
    fields = ("id", "domain", "prompt", "aligned", "misaligned")
    return rows([{**row, **{f: f"{HOSTILE} {row[f]}" for f in fields}, "system": HOSTILE} for row in contrasts(12)])


@pytest.fixture
def command(hostile: Path, base: Path, tiny_folder: Callable[[str], Path], place: Path) -> tuple[object, ...]:
    """An audit of a hostile name on hostile contrasts."""
    name = "<script>alert(3)<b>[red]&amp;"
    shutil.copytree(tiny_folder("qwen2"), place / name)
    return ("audit", name, "--base", base, "--probes", "", "--contrasts", hostile, "--out", "gate")


def test_a_report_shows_hostile_texts_and_runs_none(command: tuple[object, ...], run: Run, place: Path) -> None:
    assert run(*command).code in (0, 1, 3)
    html = (place / "gate" / "report.html").read_text("utf-8")
    page = Page(html)
    assert not page.tags & {"script", "img", "iframe", "object", "link", "base", "form"}
    assert not {name for name in page.attributes if name.startswith("on")}
    assert "<script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}" in page.text
    assert "<script>alert(3)<b>[red]&amp;" in page.text
    assert "[bold]markup[/bold]" in page.text
    assert not [character for character in STEERING if character in html]
    report = place / "gate" / "report.html"
    before = report.read_bytes()
    run("report", "gate")
    assert report.read_bytes() == before


def test_junit_and_json_stay_well_formed(command: tuple[object, ...], run: Run, place: Path) -> None:
    outcome = run(*command, "--json")
    suite = ElementTree.parse(place / "gate" / "junit.xml").getroot().find("testsuite")
    assert suite is not None
    assert len(suite.findall("testcase")) == 3
    assert "<script>alert(3)<b>[red]&amp;" in suite.get("name", "")
    domains = {f["metric"].partition("/")[2] for f in outcome.document["breakdowns"]}
    assert domains == {f"{HOSTILE} {domain}" for domain in ("even", "odd")}
    assert json.loads((place / "gate" / "verdict.json").read_text("utf-8")) == outcome.document


@pytest.mark.parametrize("display", ["plain", "rich"])
@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_a_terminal_gets_no_escape_sequence_from_data(
    display: str, options: list[str], command: tuple[object, ...], run: Run
) -> None:
    outcome = run(*command, *options, "--display", display)
    assert outcome.code in (0, 1, 3)
    for stream in (outcome.out, outcome.err):
        assert not [character for character in STEERING if character in stream]
    assert "[red]" in outcome.err  # told as it is, not taken for a colour


def test_complaints_about_hostile_rows_are_one_plain_line(
    refused: Callable[..., str], rows: Rows, base: Path, place: Path, hostile: Path
) -> None:
    row = json.loads((place / hostile).read_text("utf-8").splitlines()[0])
    cases: list[tuple[list[Any], str]] = [
        ([row, {**row, "domain": "other"}], "stands already on line 1"),
        ([{**row, "\x1b[2J\nerror: none": 1}], "is unknown in a contrast"),
        ([row, {**row, "id": "long", "prompt": HOSTILE * 40}], "shorten or remove it"),
    ]
    for content, says in cases:
        file = rows(content, "\x1b[31mred [bold].jsonl")
        line = refused("measure", base, "--probes", "", "--contrasts", file, says=[says, "\\x1b[31mred [bold].jsonl"])
        assert line.isprintable()
    line = refused(
        "measure", base, "--traits", rows([{"\x1b[2J\r\u2028": 1}]), says=["is missing (the row has: \\x1b[2J"]
    )
    assert line.isprintable()
    chat = {"messages": [{"role": "\x1b[2J", "content": "x"}]}
    assert refused("tune", base, rows([chat]), "--out", "out", says=["has the role"]).isprintable()


def test_own_metrics_are_named_safely_whatever_the_file_is_called(
    run: Run, rows: Rows, base: Path, contrasts: Any
) -> None:
    file = rows(contrasts(12), "\x1b[31m<b>a b:c-ü.jsonl")
    outcome = run("measure", base, "--probes", "", "--contrasts", file)
    assert outcome.code == 0
    assert outcome.out.splitlines()[1].startswith("preference.margin:__31m_b_a_b_c-ü ")
