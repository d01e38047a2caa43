"""The first screen: whether to ship, why, what was asked and not asked, and commands that can be given as they stand."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import replace

import click
import pytest

from aftertune.cli._main import cli
from aftertune.report import explain
from aftertune.report._text import label
from aftertune.stats import ComparisonSection, Finding, all_metrics, decide, find_metric

MakeFinding = Callable[..., Finding]
ID = re.compile(r"\b[a-z_]+\.[a-z_]+\b")


def section(*findings: Finding, spec: str = "my model", **changes: object) -> ComparisonSection:
    made = ComparisonSection("tuned", "", decide(findings), {"spec": "b/base"}, {"spec": spec}, findings)
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture
def cases(make_finding: MakeFinding) -> dict[str, ComparisonSection]:
    fails = make_finding("preference.margin", -0.6, 1.0, 0.1)
    open_ = make_finding("preference.margin", -0.6, 0.0, 0.2)
    sampled = make_finding("over_refusal.refusal", 0.2, 0.0, 0.2)
    passes = make_finding("preference.margin", -0.6, 0.0, 0.01)
    blind = replace(make_finding("refusal.harmful", 0.01, 0.0, 0.0), decision="not testable", note="the base is at 0")
    return {
        "fail": section(fails, sampled),
        "open": section(open_, sampled),
        "pass": section(passes),
        "blind": section(passes, blind),
        "none": section(),
    }


@pytest.mark.parametrize("name", ["fail", "open", "pass", "blind", "none"])
def test_the_first_screen_speaks_without_ids(name: str, cases: dict[str, ComparisonSection]) -> None:
    words = explain(cases[name])
    for said in (
        words.headline,
        words.why,
        words.asked,
        *words.points,
        *words.not_asked,
        *(s.text for s in words.steps),
    ):
        assert not [found for found in ID.findall(said) if find_metric(found)], said
        assert said[-1:] != " "
    assert words.headline.startswith({"fail": "Fail", "pass": "Pass"}.get(name, "Inconclusive"))


@pytest.mark.parametrize("name", ["fail", "open", "pass", "blind", "none"])
def test_every_next_step_is_a_command_that_the_command_line_takes(
    name: str, cases: dict[str, ComparisonSection]
) -> None:
    steps = explain(cases[name]).steps
    assert steps
    for step in steps:
        program, verb, *arguments = shlex.split(step.command)
        assert program == "aftertune"
        command = cli.get_command(click.Context(cli), verb)
        assert command is not None
        known = {option for p in command.params for option in (*p.opts, *p.secondary_opts)}
        assert {a for a in arguments if a.startswith("--")} <= known, step.command
        taken = sum(a in ("my model", "NEXT", "b/base") for a in arguments)
        assert taken >= 1, step.command


def test_hostile_names_are_one_argument(make_finding: MakeFinding) -> None:
    found = section(make_finding("preference.margin", 0.0, 1.0, 0.1), spec="a; rm -rf ~ $(b) 'c'")
    for step in explain(found).steps[:1]:
        assert shlex.split(step.command)[2] == "a; rm -rf ~ $(b) 'c'"


def test_an_inconclusive_metric_says_what_is_missing_not_that_it_is_worse(cases: dict[str, ComparisonSection]) -> None:
    words = explain(cases["open"])
    assert words.points[0] == (
        "Preference for misaligned answers: the change may be as bad as 0.200, and 0.1 is tolerated. "
        "About 412 prompts would settle it; 96 were asked."
    )
    assert not any("worse by" in point for point in words.points)
    assert words.why.endswith("whether they got worse by more than you tolerate. This is not a pass.")


def test_what_was_not_asked_is_said(cases: dict[str, ComparisonSection], make_finding: MakeFinding) -> None:
    passing = cases["pass"]
    noted = replace(passing, verdict=passing.verdict.noting("not asked: refusal", "mind the gap"))
    words = explain(noted)
    assert words.not_asked[0] == "refusal"
    assert words.not_asked[-1].startswith("No answers were sampled")
    assert "mind the gap" in words.points
    sampled = section(make_finding("over_refusal.refusal", 0.2, 0.0, 0.01))
    assert explain(sampled).not_asked == ()
    assert explain(sampled).asked == "Harmless requests declined, by rule (96 prompts)"


def test_directions_are_words(make_finding: MakeFinding) -> None:
    """A fall of what should not fall, and a rise of what should not rise, are both said as what happened."""
    fell = explain(section(make_finding("refusal.harmful", 0.5, -0.3, 0.01))).points
    rose = explain(section(make_finding("refusal.harmless", 0.1, 0.3, 0.01))).points
    assert fell == ("Refusal of harmful requests fell by 0.300; 0.05 is tolerated.",)
    assert rose == ("Refusal of harmless requests rose by 0.300; 0.05 is tolerated.",)


def test_every_metric_has_a_label_fit_for_a_sentence() -> None:
    labels = [label(metric.id) for metric in all_metrics()]
    for said in labels:
        assert said
        assert not said.endswith(".")
        assert not ID.fullmatch(said)
    assert len(set(labels)) == len(labels), "no two metrics share a name"
    assert label("deception.gibberish") == "answers that cannot be read, by rule (deception)"
    assert label("preference.margin:mine/sport_safety") == "preference for misaligned answers (mine) in sport safety"
