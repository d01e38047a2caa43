"""``aftertune study``: a claim of the papers, tested on a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from aftertune.cli._flags import Verb
from aftertune.cli._options import make_placement, make_progress, output_options, placement_options, print_json
from aftertune.cli._printing import say


def _seeds(text: str | None) -> tuple[int, ...] | None:
    from aftertune.errors import UsageError

    if text is None:
        return None
    try:
        seeds = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--seeds {text}: give whole numbers with commas between them, such as 0,1,2") from None
    if any(not 0 <= seed < 2**32 for seed in seeds):
        raise UsageError(f"--seeds {text}: a seed lies between 0 and {2**32 - 1}")
    return seeds


@click.command(
    cls=Verb,
    examples=(
        "study",
        "study transfer --subject my-model",
        "study prune_then_tune --seeds 0,1 --scale smoke --dry-run",
    ),
)
@click.argument("name", required=False)
@click.option("--subject", help="The model to test it on. Default: smollm2; at full scale the first of the paper.")
@click.option("--seeds", metavar="N,N,…", help="Seeds of the fine-tunes. Default: those of the study, mostly 0,1,2.")
@click.option(
    "--scale",
    "size",
    type=click.Choice(["smoke", "small", "full"]),
    default="small",
    show_default=True,
    help="How large: smoke tests that it runs, small fits a laptop, full has the paper's settings.",
)
@click.option("--dry-run", is_flag=True, help="Print what it will take, and stop.")
@click.option("--keep-models", is_flag=True, help="Keep the fine-tunes where other studies find them.")
@placement_options
@output_options
def study(
    name: str | None, subject: str | None, seeds: str | None, size: Any, dry_run: bool, keep_models: bool,
    out: Path | None, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Run the study NAME; without a name, list the studies.

    A killed study continues when the command is given again.
    """
    progress, placement, chosen = make_progress(options), make_placement(options), _seeds(seeds)
    from aftertune.cli._printing import table
    from aftertune.studies import studies, study_named

    if name is None:
        rows = [(row.name, row.asks, row.source) for row in studies()]
        if as_json:
            print_json({"studies": [{"name": n, "about": a, "source": s} for n, a, s in rows]})
        else:
            click.echo(table(("study", "what it asks", "after"), rows))
        return
    row = study_named(name)
    from aftertune.model import check_subject

    subject, out = subject or row.usual_subject(size), out or row.folder(size)
    check_subject(subject, placement=placement)
    if dry_run or not (out / "study.json").exists():  # else it is only read again
        for line in row.plan(subject, size=size, seeds=chosen, placement=placement):
            say(line)
    if dry_run:
        return
    document = row.run(subject, out, size=size, seeds=chosen, placement=placement, keep_models=keep_models,
                       progress=progress)  # fmt: skip
    if as_json:
        print_json(document)
        return
    for claim in document["claims"]:
        click.echo(f"{claim['outcome']}: {claim['text']}")
        say(f"    {claim['detail']}")
    say(f"study: {Path(document['run']) / 'study.json'}")
    say(f"report: {Path(document['run']) / 'report.html'}")
