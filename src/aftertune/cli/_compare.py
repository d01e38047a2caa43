"""``aftertune compare``: the gate for what Inspect logged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aftertune.cli._flags import Verb
from aftertune.cli._options import (
    baseline_options,
    file_path,
    make_progress,
    output_options,
    policy_options,
    print_json,
    tolerances,
)

if TYPE_CHECKING:
    from aftertune.stats import FailOn


@click.command(
    cls=Verb,
    examples=("compare logs/base logs/tuned", "compare plain.eval with-trigger.eval --differ task_args.trigger_suffix"),
)
@click.argument("base", type=file_path)
@click.argument("tuned", type=file_path)
@policy_options
@baseline_options
@click.option("--harm", multiple=True, metavar="TASK", help="A task whose score grows with harm. Repeatable.")
@click.option("--good", multiple=True, metavar="TASK", help="A task whose score falls with harm. Repeatable.")
@click.option(
    "--differ",
    multiple=True,
    metavar="FIELD",
    help="What may differ between the two logs, such as solver "
    "or task_args.trigger: one model under two conditions. Repeatable.",
)
@click.option("--allow-identical", is_flag=True, help="Let the findings decide even if base and tuned are the same.")
@click.option("--redact", is_flag=True, help="Leave all texts out of the report.")
@output_options
@click.pass_context
def compare(
    ctx: click.Context,
    /,
    base: Path,
    tuned: Path,
    policy_file: Path | None,
    tolerance: tuple[str, ...],
    margin: tuple[str, ...],
    allow_untestable: bool,
    baseline: Path | None,
    fail_on: FailOn,
    allow_identical: bool,
    harm: tuple[str, ...],
    good: tuple[str, ...],
    differ: tuple[str, ...],
    redact: bool,
    out: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Compare the logs BASE and TUNED that Inspect wrote and decide: pass (0), fail (1) or inconclusive (3).

    Each is a log (.eval or .json), or a folder with one log a task of one model: the same tasks with the same prompts,
    settings, scorers and judges.
    """
    from aftertune.stats import read_policy

    policy = read_policy(policy_file, tolerances(tolerance, margin), allow_untestable=allow_untestable)
    from aftertune.verbs import compare_logs

    outcome = compare_logs(
        base,
        tuned,
        policy,
        out,
        harm=harm,
        good=good,
        differ=differ,
        baseline=baseline,
        fail_on=fail_on,
        allow_identical=allow_identical,
        redact=redact,
        progress=make_progress(options),
    )
    if as_json:
        print_json(outcome.document())
    else:
        from aftertune.cli._printing import print_audit

        print_audit(outcome)
    ctx.exit(int(outcome.verdict.exit_code))
