"""A comparison in plain words: ship or not, why, what was asked and what was not, and what to do next."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from aftertune.data import DOMAINS
from aftertune.report._text import label, number, unit, with_unit
from aftertune.stats import (
    ComparisonSection,
    Decision,
    Finding,
    FindingDecision,
    base_metric,
    describe_worst,
    first_line,
    sampled_tasks,
)

_HEADLINES: dict[Decision, str] = {
    "pass": "Pass: ready to ship",
    "fail": "Fail: do not ship",
    "inconclusive": "Inconclusive: not settled yet",
}
# How more can be asked of a probe whose shipped prompts are too few.
_MORE = {
    "preference": "--contrasts mine.jsonl",
    "traits": "--traits mine.jsonl",
    "refusal": "--task over_refusal --task harmfulness --grader MODEL",
}


@dataclass(frozen=True)
class Step:
    """What to do next.

    Attributes:
        text: a sentence.
        command: that does it ("" where there is none).
    """

    text: str
    command: str = ""


@dataclass(frozen=True)
class Explanation:
    """The first screen of a report.

    Attributes:
        headline: the verdict, and whether to ship.
        why: one sentence, without metric ids.
        points: a sentence for each deciding metric that does not pass, and what else a reader must know.
        tally: how many deciding metrics there are, by decision ("" for fewer than two).
        asked: what was measured.
        not_asked: what was not.
        steps: what to do next.
    """

    headline: str
    why: str
    points: tuple[str, ...]
    tally: str
    asked: str
    not_asked: tuple[str, ...]
    steps: tuple[Step, ...]


def explain(section: ComparisonSection) -> Explanation:
    """A comparison in plain words."""
    deciding = [f for f in section.findings if f.decides and "/" not in f.metric]
    open_ = [f for f in deciding if f.decision != "pass"]
    measured = [f for f in deciding if f.items]
    alike = len(measured) > 1 and len({f.clusters for f in measured}) == 1
    prompts = ", ".join(label(f.metric) + ("" if alike else f" ({f.clusters} prompts)") for f in measured)
    prompts += f" ({measured[0].clusters} prompts each)" if alike else ""
    sampled = any(_task(f.metric) for f in section.findings)
    silent = () if sampled else ("No answers were sampled, so nothing here shows what the model writes.",)
    # What is not testable, and a reason that repeats a metric's numbers, stand in words already.
    _, rest = first_line(section.verdict, section.findings)
    named = tuple(f"{f.metric} " for f in section.findings)
    others = [reason for reason in rest.reasons if not reason.startswith(named)]
    notes = list(filter(None, rest.note.split("; ")))
    not_asked = [note for note in notes if "asked" in note]
    others += [note for note in notes if note not in not_asked]
    return Explanation(
        headline=_HEADLINES[section.verdict.decision],
        why=_why(section, deciding),
        points=(*map(_sentence, open_), *others),
        tally=_tally(deciding),
        asked=_capital(prompts) or "Nothing that decides.",
        not_asked=(*(note.removeprefix("not asked: ") for note in not_asked), *silent),
        steps=tuple(_steps(section, open_, sampled=sampled)),
    )


def _why(section: ComparisonSection, deciding: Sequence[Finding]) -> str:
    by_decision = {d: [f for f in deciding if f.decision == d] for d in get_args(FindingDecision)}
    blind, passed = by_decision["not testable"], len(by_decision["pass"])
    decision, since = section.verdict.decision, section.since
    if decision == "fail" and by_decision["fail"]:
        return f"{_listed(by_decision['fail'])} got worse by more than you tolerate."
    let_through = {c.metric for c in since.let_through} if since else set()
    if decision == "pass" and let_through:
        return f"Nothing that passed in the baseline got worse than you tolerate; {len(let_through)} known ones remain."
    if blind:
        verb = "is" if len(blind) == 1 else "are"
        return (
            f"Passes on {passed} of {len(deciding)} deciding metrics; {_names(blind)} {verb} not testable on this base."
        )
    if decision == "pass":
        return "Nothing that was asked got worse by more than you tolerate."
    if by_decision["inconclusive"]:
        it = "it" if len(by_decision["inconclusive"]) == 1 else "they"
        few = f"there are too few prompts to say whether {it} got worse by more than you tolerate"
        return f"{_listed(by_decision['inconclusive'])}: {few}. This is not a pass."
    return "There is nothing to decide on. This is not a pass."


def _sentence(finding: Finding) -> str:
    """What happened to one deciding metric that does not pass."""
    name, tolerated = _capital(label(finding.metric)), f"{finding.tolerance:g} is tolerated"
    said = f" ({finding.note})" if finding.note else ""
    if not finding.items:
        return f"{name}: no numbers to compare{said}."
    if finding.decision == "not testable":
        return f"{name} is not testable on this base{said}."
    if finding.decision == "fail":
        verb = "rose" if finding.difference > 0 else "fell"
        # "0.166 probability" is no English; nats are a unit like metres.
        nats = unit(finding.metric).replace("/", " per ") if unit(finding.metric).startswith("nats") else ""
        text = f"{name} {verb} by {with_unit(number(abs(finding.difference)), nats)}; {tolerated}{said}."
    else:
        worse = finding.worsening
        most = max(worse.high, -worse.low) if finding.worse in ("either", "unknown") else worse.high
        text = f"{name}: the change may be as bad as {number(most)}, and {tolerated}{said}."
        if finding.clusters_needed:
            text += f" About {finding.clusters_needed} prompts would settle it; {finding.clusters} were asked."
    if finding.hides_a_group and finding.worst:
        text += f" {_capital(describe_worst(finding.worst, finding.worse))}."
    return text


def _steps(section: ComparisonSection, open_: Sequence[Finding], *, sampled: bool) -> list[Step]:
    tuned = shlex.quote(str(section.tuned.get("spec", "TUNED")))
    base = shlex.quote(str(section.base.get("spec", "BASE")))
    again = f"aftertune audit {tuned} --base {base}"
    decision = section.verdict.decision
    steps = []
    if decision == "fail":
        steps.append(
            Step(
                "Find the weights behind it, and return as few of them as possible to the base.",
                f"aftertune locate {tuned} --base {base} {_harm(open_)}",
            )
        )
        tune = f"aftertune tune {base} my-data.jsonl --steps 30 --out again"
        steps.append(Step("Or tune again with fewer steps, and audit that.", tune))
    elif decision == "inconclusive":
        unsettled = [f.metric for f in open_ if f.decision == "inconclusive"]
        asked = sampled_tasks(unsettled)
        for kind in dict.fromkeys(metric.partition(".")[0] for metric in unsettled):
            more = f"--task {kind} --samples 10" if kind in asked else _MORE.get(kind)
            if more:
                steps.append(Step(f"Ask more about {kind.replace('_', ' ')}.", f"{again} {more}"))
        if any(f.decision == "not testable" and f.stands_in_the_way for f in open_):
            text = "Use a base that shows the behaviour, or accept that this base cannot show a loss."
            steps.append(Step(text, f"{again} --allow-untestable"))
        if not open_:
            steps.append(Step("Check that both paths name the models you mean.", again))
    else:
        if not sampled:
            tasks = "--task over_refusal --task emergent_misalignment --grader MODEL"
            steps.append(Step("Sample answers as well.", f"{again} {tasks}"))
        text = "Hold the next fine-tune against this one; RUN is the folder of this report."
        steps.append(Step(text, f"aftertune audit NEXT --base {base} --baseline RUN"))
    return steps


def _harm(findings: Sequence[Finding]) -> str:
    """The harm sets to search with: those of the domains that got worse most, else a file of one's own.

    What the model was tuned for is in the record that `tune` left; without one, locate asks for --task.
    """
    groups = dict.fromkeys(f.worst.group for f in findings if f.decision == "fail" and f.worst)
    shipped = [f"--harm dev/{group}" for group in groups if group in DOMAINS]
    return " ".join(shipped) or "--harm mine.jsonl --task my-data.jsonl"


def _tally(deciding: Sequence[Finding]) -> str:
    counts = Counter(f.decision for f in deciding)
    parts = [f"{counts[decision]} {decision}" for decision in get_args(FindingDecision) if counts[decision]]
    return f"{len(deciding)} deciding metrics: {', '.join(parts)}" if len(deciding) > 1 else ""


def _task(metric: str) -> bool:
    """Whether a metric is of sampled answers."""
    head = base_metric(metric).partition(".")[0]
    return bool(sampled_tasks([metric])) or head == "inspect"


def _names(findings: Sequence[Finding], most: int = 3) -> str:
    """Labels in a list of words; of many, the first ones and how many more."""
    names = [label(f.metric) for f in findings]
    if len(names) > most:
        names = [*names[: most - 1], f"{len(names) - most + 1} more"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _listed(findings: Sequence[Finding]) -> str:
    return _capital(_names(findings))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
