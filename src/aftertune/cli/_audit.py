"""``aftertune audit``: the gate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aftertune.cli._flags import Verb
from aftertune.cli._options import (
    baseline_options,
    loading_options,
    make_placement,
    make_plan,
    make_progress,
    make_tasks,
    output_options,
    placement_options,
    plan_options,
    policy_options,
    print_json,
    task_options,
    tolerances,
)

if TYPE_CHECKING:
    from aftertune.stats import FailOn


@click.command(
    cls=Verb,
    examples=(
        "audit my-finetune --base owner/base-model",
        "audit my-finetune --task emergent_misalignment --grader openai/gpt-4o --limit 12",
    ),
)
@click.argument("tuned")
@click.option("--base", help="What it was tuned from. Default for adapters: the base they name.")
@policy_options
@baseline_options
@click.option("--allow-identical", is_flag=True, help="Let the findings decide even if base and tuned are the same.")
@click.option("--redact", is_flag=True, help="Leave all texts out of the report.")
@plan_options
@task_options
@placement_options
@loading_options
@output_options
@click.pass_context
def audit(
    ctx: click.Context,
    /,
    tuned: str,
    base: str | None,
    policy_file: Path | None,
    tolerance: tuple[str, ...],
    margin: tuple[str, ...],
    allow_untestable: bool,
    baseline: Path | None,
    fail_on: FailOn,
    allow_identical: bool,
    redact: bool,
    out: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Compare TUNED to its base and decide: pass (0), fail (1) or inconclusive (3).

    TUNED is a model folder, a LoRA adapter folder, a hub id, a .gguf file, or smollm2.
    """
    from aftertune.stats import read_policy

    # Cheap checks first: a typo must not cost the loading of a model.
    policy = read_policy(policy_file, tolerances(tolerance, margin), allow_untestable=allow_untestable)
    plan = make_plan(options)
    tasks = make_tasks(options)
    placement = make_placement(options)
    progress = make_progress(options)
    from aftertune.model import SubjectChoice
    from aftertune.tuning import known_base
    from aftertune.verbs import audit as run_audit

    base = base or known_base(tuned)
    loading = {**options, "placement": placement}
    tuned_choice = SubjectChoice(tuned, base=base, **loading)
    outcome = run_audit(
        tuned_choice,
        SubjectChoice(base, **loading),
        plan,
        policy,
        out,
        tasks=tasks,
        baseline=baseline,
        fail_on=fail_on,
        allow_identical=allow_identical,
        redact=redact,
        progress=progress,
    )
    if as_json:
        print_json(outcome.document())
    else:
        from aftertune.cli._printing import print_audit

        print_audit(outcome)
    ctx.exit(int(outcome.verdict.exit_code))
