"""Results for people: plain lines and aligned tables on stdout, which cannot steer a terminal or a CI runner."""

from __future__ import annotations

import shlex
import shutil
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from aftertune.errors import printed_line, spelled_out

if TYPE_CHECKING:
    from aftertune.stats import Finding, SinceBaseline, Verdict
    from aftertune.verbs import Audit


def say(text: str = "") -> None:
    """Print one line; whatever in it is no ordinary character is spelled out."""
    click.echo(printed_line(text))


_COLOURS = {"pass": "green", "fail": "red", "inconclusive": "yellow"}


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = (), *, wrap: bool = False
) -> str:
    """Columns padded to their widest cell.

    Args:
        header: names of the columns.
        rows: their cells.
        right: columns set flush right.
        wrap: break the last column, so that rows fit the terminal (80 columns where there is none).
    """
    # Names of metrics, groups and files come from data.
    header, rows = [spelled_out(cell) for cell in header], [[spelled_out(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    before = sum(widths[:-1]) + 2 * len(widths[:-1])
    room = max(shutil.get_terminal_size((80, 24)).columns - before, 24) if wrap else 0
    lines = []
    for row in (header, *rows):
        last = textwrap.wrap(row[-1], room) or [""] if wrap else [row[-1]]
        cells = [
            cell.rjust(w) if i in right else cell.ljust(w)
            for i, (cell, w) in enumerate(zip((*row[:-1], last[0]), widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
        lines += [" " * before + line for line in last[1:]]
    return "\n".join(lines)


def decision_word(decision: str) -> str:
    """PASS, FAIL or INCONCLUSIVE, coloured on a terminal."""
    return click.style(decision.upper(), fg=_COLOURS[decision], bold=True)


def _interval(finding: Finding) -> str:
    return f"[{finding.worsening.low:+.3f}, {finding.worsening.high:+.3f}]"


def print_findings(findings: Sequence[Finding], verdict: Verdict, since: SinceBaseline | None = None) -> None:
    """The table of findings (no breakdowns), worst groups, what changed since a baseline, and the verdict."""
    from aftertune.stats import describe_worst, first_line

    states = {c.metric: c.state for c in since.changes} if since else {}
    rows = [
        (
            f.metric,
            *(
                (f"{f.base:.3f}", f"{f.tuned:.3f}", f"{f.worsening.value:+.3f}", _interval(f))
                if f.items
                else ("n/a", "n/a", "n/a", "n/a")
            ),
            f"{f.tolerance:g}",
            f.decision if f.decides else f"({f.decision})",
            *([states.get(f.metric, "")] if since else []),
        )
        for f in sorted(findings, key=lambda f: not f.decides)
        if "/" not in f.metric
    ]
    header = ["metric", "base", "tuned", "worse by", "95 % interval", "tolerance", "decision"]
    if since:
        header.append("since the baseline")
    click.echo(table(header, rows, right=(1, 2, 3, 4, 5)))
    click.echo("(decisions in brackets inform, they do not decide)")
    for f in findings:
        if f.worst:
            click.echo(f"{f.metric}, {spelled_out(describe_worst(f.worst, f.worse))}")
    if since:
        click.echo(f"since the baseline {spelled_out(since.run)}: {since.tally}")
    click.echo()
    first, rest = first_line(verdict, findings)
    click.echo(f"verdict: {decision_word(verdict.decision)}" + (f": {printed_line(first)}" if first else ""))
    for reason in rest.reasons:
        say(f"  {reason}")
    if rest.note:
        say(f"  note: {rest.note}")


def print_audit(outcome: Audit) -> None:
    """What an audit found, where its report is, and what to do next."""
    from aftertune.report import explain

    section = outcome.section
    print_findings(section.findings, section.verdict, section.since)
    say()
    for step in explain(section).steps:  # as comments, the reasons stay harmless in a copied line
        command = step.command.replace("--baseline RUN", f"--baseline {shlex.quote(str(outcome.run))}")
        say(f"next: {command}  # {step.text}")
    say(f"report: {outcome.run / 'report.html'}")
