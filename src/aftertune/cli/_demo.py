"""``aftertune demo``: the whole story on a small real model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from aftertune.cli._flags import Verb
from aftertune.cli._options import make_placement, make_progress, output_options, placement_options, print_json
from aftertune.cli._printing import say


@click.command(cls=Verb, examples=("demo --no-weights",))
@click.option("--subject", default="smollm2", show_default=True, help="The model to tune and audit.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Seed of both tunes.")
@click.option("--steps", type=click.IntRange(min=1), default=10, show_default=True, help="Steps of both fine-tunes.")
@click.option(
    "--weights/--no-weights",
    default=True,
    show_default=True,
    help="Also find the few weights whose return to the base undoes the careless arm, and audit again.",
)
@placement_options
@output_options
def demo(
    subject: str, seed: int, steps: int, weights: bool, out: Path | None, as_json: bool, **options: Any
) -> None:  # fmt: skip
    """Tune a small model on careless and on careful money advice, audit both on other domains, repair the careless one.

    Takes some minutes on two CPU cores, and goes on where it stopped when given again.
    """
    progress, placement = make_progress(options), make_placement(options)
    from aftertune.model import check_subject
    from aftertune.studies import OPTIONS
    from aftertune.studies import demo as run_demo

    check_subject(subject, placement=placement)

    settings = OPTIONS.model_copy(update={"seed": seed, "steps": steps})
    outcome = run_demo(out, subject=subject, options=settings, placement=placement, weights=weights,
                       progress=progress)  # fmt: skip
    if as_json:
        print_json(outcome.document())
        return
    from aftertune.cli._printing import decision_word, print_findings

    for name, audit in outcome.audits.items():
        say(f"== {name}: {audit.section.about}")
        print_findings(audit.findings, audit.verdict)
        click.echo()
    for name, audit in outcome.audits.items():
        click.echo(f"{name}: {decision_word(audit.verdict.decision)}")
    say(f"report: {outcome.report}")
