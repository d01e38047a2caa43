"""The answer browser: complete without its script, safe with any text, bounded, and gone where texts are redacted."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from html.parser import HTMLParser

import pytest

from aftertune.report import ReportPage, render_report
from aftertune.stats import AnswerSide, SampledAnswer, SampledAnswers, fit_answers
from aftertune.stats._results import LONGEST_TEXT, MOST_ANSWERS, MOST_BYTES

MakePage = Callable[..., ReportPage]
MakeAnswer = Callable[..., SampledAnswer]
MakeAnswers = Callable[..., SampledAnswers]
STEERING = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Page(HTMLParser):
    """Elements in order, and the text outside of script and style."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.pieces: list[str] = []
        self._skip = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._skip = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._skip = False

    def handle_data(self, data: str) -> None:
        if not self._skip:
            self.text += data
            self.pieces.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.pieces).split())

    def tags(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == name]

    def rows(self) -> list[dict[str, str | None]]:
        return [a for a in self.tags("details") if "answer" in (a.get("class") or "").split()]


def put(page: ReportPage, answers: SampledAnswers | None) -> ReportPage:
    return replace(page, sections=(replace(page.sections[0], answers=answers), *page.sections[1:]))


@pytest.fixture
def html(make_page: MakePage, make_answers: MakeAnswers) -> str:
    return render_report(put(make_page(), make_answers()))


def test_every_answer_of_both_models_is_there_and_closed(html: str, make_answers: MakeAnswers) -> None:
    page = Page(html)
    words = page.words
    assert len(page.rows()) == 10
    assert all("open" not in attributes for attributes in page.tags("details"))
    assert "All 10 sampled answers" in words
    for row in make_answers().shown:
        assert f"question {row.question} answer of the base {row.base.text}" in words
        assert f"answer of the tuned {row.tuned.text}" in words
    assert "harmfulness · Nuisance · refused → answered harmful: no → yes How do I climb wall 0?" in words
    assert "tuned: Sure, take ladder 0." in words
    assert "harmful: no How do I climb wall 1?" in words
    assert "base, judged refusal; score 1" in words


def test_without_its_script_nothing_is_hidden_but_the_filters(html: str) -> None:
    page = Page(html)
    assert [attributes.get("class") for _, attributes in page.elements if "hidden" in attributes] == ["filters"]
    assert not {"link", "iframe", "img", "object", "form", "base"} & {tag for tag, _ in page.elements}
    assert not [a for _, a in page.elements if {"src", "href", "action"} & a.keys() or any(k[:2] == "on" for k in a)]


def test_the_policy_admits_the_one_script_and_it_holds_nothing_of_the_report(html: str, make_page: MakePage) -> None:
    [script] = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    [policy] = [m["content"] for m in Page(html).tags("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:"
    other = SampledAnswers((SampledAnswer("t", "i", "g", "q", "", AnswerSide("a"), AnswerSide("b"), "open"),), 1)
    assert script in render_report(put(make_page(), other)), "the same whatever is shown"
    assert not re.search(r"innerHTML|insertAdjacent|document\.write|eval|fetch|XMLHttp|import|http", script)


def test_pages_without_answers_have_no_script(make_page: MakePage) -> None:
    for page in (make_page(), put(make_page(), SampledAnswers((), 0))):
        html = render_report(page)
        assert "<script" not in html
        assert "script-src" not in html
        assert "runs no scripts" in html


def test_filters_count_what_they_choose(html: str) -> None:
    """Ten rows: nine of one task in three categories, every third of which got worse, and one of another task."""
    page = Page(html)
    names = [a["data-filter"] for a in page.tags("select")]
    assert names == ["task", "group", "kinds", "change"]
    shown = dict(re.findall(r'<option value="(?:\d+)">([^<]*) \((\d+)\)</option>', html))
    assert shown == {
        "harmfulness": "9", "sums": "1", "Nuisance": "3", "Small lies/cheating": "3", "Privacy": "3", "none": "1",
        "refused": "6", "refused → answered": "3", "not sorted": "1", "worse": "3", "no change": "6", "no number": "1",
    }  # fmt: skip
    for name in names:
        counts = Counter(row[f"data-{name}"] for row in page.rows())
        block = re.search(rf'data-filter="{name}">(.*?)</select>', html, re.DOTALL)
        assert block is not None
        assert {key: str(counts[key]) for key in counts} == dict(
            re.findall(r'<option value="(\d+)">[^<]*\((\d+)\)', block[1])
        )


def test_a_filter_with_one_choice_is_left_out(make_page: MakePage, make_answer: MakeAnswer) -> None:
    html = render_report(put(make_page(), SampledAnswers(tuple(make_answer(9 * n) for n in range(2)), 2)))
    assert "data-filter" not in html
    assert "request-9#1" in html


def test_hostile_texts_stay_texts(html: str, make_page: MakePage, make_answer: MakeAnswer, hostile: str) -> None:
    h = hostile
    side = AnswerSide(h, h, h, 0.5)
    rows = (
        make_answer(0, task=h, item=h, group=h, question=h, metric=h, base=side, tuned=side),
        make_answer(
            1, question="</details></script><script>alert(2)</script><!--", tuned=AnswerSide("<img onerror=x>")
        ),
    )
    shown = render_report(put(make_page(), SampledAnswers(rows, 2)))
    page = Page(shown)
    assert {tag for tag, _ in page.elements} == {tag for tag, _ in Page(html).elements}
    assert shown.count("<script") == 1
    assert len(page.rows()) == 2
    assert not [a for _, a in page.elements if any(key.startswith("on") for key in a)]
    assert {value for row in page.rows() for key, value in row.items() if key.startswith("data-")} <= set("01")
    assert page.text.count("onerror=alert(1)") >= 6
    assert "{{ 7*7 }}{% raw %}&amp; \"'" in page.text
    assert "⟨U+202E⟩evil" in page.text
    assert "</details></script><script>alert(2)</script><!--" in page.text
    assert not STEERING.search(shown)


def test_redacting_leaves_no_answer_and_no_script(make_page: MakePage, make_answers: MakeAnswers) -> None:
    page = put(make_page(), make_answers())
    html = render_report(page, redact=True)
    for text in ("climb wall", "take ladder", "I am sorry", "What is 1", "request-", "<script", "sampled answers"):
        assert text not in html
    assert html == render_report(make_page(), redact=True)


def many(make_answer: MakeAnswer) -> list[SampledAnswer]:
    """A hundred of one category, six of another, one of a third."""
    sizes = {"much": 100, "some": 6, "rare": 1}
    names = [group for group, size in sizes.items() for _ in range(size)]
    return [make_answer(n, group=group) for n, group in enumerate(names)]


def test_all_categories_are_shown_alike(make_answer: MakeAnswer) -> None:
    rows = many(make_answer)
    chosen = fit_answers(rows, most=15)
    assert Counter(row.group for row in chosen.shown) == {"much": 8, "some": 6, "rare": 1}
    assert (chosen.sampled, chosen.left_out) == (107, 92)
    places = [rows.index(row) for row in chosen.shown]
    assert places == sorted(places), "in the order of the logs"
    assert fit_answers(rows).shown == tuple(rows)


def test_what_is_shown_depends_on_neither_texts_nor_order(make_answer: MakeAnswer) -> None:
    rows = many(make_answer)
    chosen = {row.item for row in fit_answers(rows, most=15).shown}
    others = [replace(row, tuned=AnswerSide("other"), change="better") for row in reversed(rows)]
    assert {row.item for row in fit_answers(others, most=15).shown} == chosen
    assert chosen != {row.item for row in rows[:15]}


def test_the_bound_on_bytes_holds_after_escaping(make_answer: MakeAnswer) -> None:
    # Every sign becomes four bytes: 4,000 for an answer, and little else.
    rows = [make_answer(3 * n, group="", tuned=AnswerSide("<" * 1000)) for n in range(10)]
    assert [len(fit_answers(rows, most_bytes=n).shown) for n in (3_999, 4_200, 8_400, 10**6)] == [0, 1, 2, 10]


def test_the_page_of_a_very_large_run_stays_small(make_page: MakePage, make_answer: MakeAnswer) -> None:
    long = AnswerSide("<&" * 700, "answer")
    rows = [make_answer(n, base=long, tuned=long) for n in range(MOST_ANSWERS + 500)]
    rows[0] = replace(rows[0], tuned=AnswerSide("y" * 10 * MOST_BYTES))
    page = make_page()
    empty = len(render_report(page).encode())
    answers = fit_answers(rows)
    html = render_report(put(page, answers))
    assert len(answers.shown) < len(rows)
    assert len(html.encode()) - empty < MOST_BYTES + 2000 * len(answers.shown)
    assert f"{answers.left_out} answers were left out" in html
    assert "<code>inspect view</code> opens the logs" in html
    assert f"{len(answers.shown)} of 2500 sampled answers" in Page(html).words


def test_no_more_rows_than_a_browser_bears(make_answer: MakeAnswer) -> None:
    answers = fit_answers([make_answer(n) for n in range(MOST_ANSWERS + 7)])
    assert (len(answers.shown), answers.left_out) == (MOST_ANSWERS, 7)


def test_a_text_that_is_cut_says_so(make_answer: MakeAnswer) -> None:
    [row] = fit_answers([make_answer(0, base=AnswerSide("x" * (LONGEST_TEXT + 1234)))]).shown
    assert row.base.text == "x" * LONGEST_TEXT + "… [1,234 more characters, see the log]"


def test_answers_are_stored_as_they_are(make_answers: MakeAnswers, make_answer: MakeAnswer, hostile: str) -> None:
    answers = make_answers(4, question=hostile)
    assert SampledAnswers.from_dict(json.loads(json.dumps(asdict(answers)))) == answers
