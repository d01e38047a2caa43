"""``aftertune measure``: one model alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from aftertune.cli._flags import Verb
from aftertune.cli._options import (
    loading_options,
    make_placement,
    make_plan,
    make_progress,
    make_tasks,
    output_options,
    placement_options,
    plan_options,
    print_json,
    task_options,
)
from aftertune.cli._printing import say


@click.command(cls=Verb, examples=("measure smollm2 --probes preference,capability --domains money,health",))
@click.argument("subject")
@click.option("--base", help="For an adapter: its base instead of the one it names.")
@plan_options
@task_options
@placement_options
@loading_options
@output_options
def measure(subject: str, base: str | None, out: Path | None, as_json: bool, **options: Any) -> None:
    """Measure SUBJECT alone: every probe but drift, and sampled tasks, with intervals.

    SUBJECT is a model folder, a LoRA adapter folder, a hub id, a .gguf file, or smollm2.
    """
    plan = make_plan(options)
    tasks = make_tasks(options)
    placement = make_placement(options)
    progress = make_progress(options)
    from aftertune.model import SubjectChoice
    from aftertune.verbs import measure as run_measure

    choice = SubjectChoice(subject, base=base, placement=placement, **options)
    outcome = run_measure(choice, plan, out, tasks=tasks, progress=progress)
    if as_json:
        print_json(outcome.document())
        return
    from aftertune.cli._printing import table

    rows = [
        (s.metric, f"{s.value:.3f}", f"[{s.interval[0]:.3f}, {s.interval[1]:.3f}]", str(s.items))
        for s in outcome.summaries
        if "/" not in s.metric
    ]
    click.echo(table(("metric", "value", "95 % interval", "items"), rows, right=(1, 2, 3)))
    say()
    say(f"run: {outcome.run}")
