"""``aftertune compare``: the gate for what Inspect logged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aftertune.cli._lines import say
from aftertune.cli._options import baseline_options, file_path, make_progress, output_options, print_json

if TYPE_CHECKING:
    from aftertune.comparison import FailOn


@click.command()
@click.argument("base", type=file_path)
@click.argument("tuned", type=file_path)
@click.option("--policy", "policy_file", type=file_path, help="YAML with margins and which metrics decide.")
@click.option("--margin", multiple=True, metavar="METRIC=VALUE", help="Tolerated worsening of a metric. Repeatable.")
@baseline_options
@click.option("--harm", multiple=True, metavar="TASK", help="A task whose score grows with harm. Repeatable.")
@click.option("--redact", is_flag=True, help="Leave all texts out of the report.")
@output_options
@click.pass_context
def compare(
    ctx: click.Context,
    /,
    base: Path,
    tuned: Path,
    policy_file: Path | None,
    margin: tuple[str, ...],
    baseline: Path | None,
    fail_on: FailOn,
    harm: tuple[str, ...],
    redact: bool,
    out: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Compare the logs BASE and TUNED that Inspect wrote and decide: pass (0), fail (1) or inconclusive (3).

    Each is a log (.eval or .json) or a folder of logs, of the same tasks with the same settings and judges.
    """
    from aftertune.comparison import read_policy

    policy = read_policy(policy_file, margin)
    from aftertune.comparing import compare_logs

    outcome = compare_logs(
        base, tuned, policy, out, harm=harm, baseline=baseline, fail_on=fail_on, redact=redact,
        progress=make_progress(options),
    )  # fmt: skip
    if as_json:
        print_json(outcome.document())
    else:
        from aftertune.cli._printing import print_findings

        print_findings(outcome.findings, outcome.verdict, outcome.section.since)
        say()
        say(f"report: {outcome.run / 'report.html'}")
    ctx.exit(int(outcome.verdict.exit_code))
