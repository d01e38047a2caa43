"""``aftertune study``: a claim of the papers, tested on a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from aftertune.cli._flags import Verb
from aftertune.cli._options import make_placement, make_progress, output_options, placement_options, print_json
from aftertune.cli._printing import say


@click.command(cls=Verb, examples=("study", "study transfer --subject my-model"))
@click.argument("name", required=False)
@click.option("--subject", default="smollm2", show_default=True, help="The model to test it on.")
@placement_options
@output_options
def study(name: str | None, subject: str, out: Path | None, as_json: bool, **options: Any) -> None:
    """Run the study NAME; without a name, list the studies.

    A killed study goes on when the command is given again.
    """
    progress, placement = make_progress(options), make_placement(options)
    from aftertune.cli._printing import table
    from aftertune.errors import UsageError
    from aftertune.studies import STUDIES, find_study

    if name is None:
        rows = [(row.name, row.about, row.source) for row in STUDIES]
        if as_json:
            print_json({"studies": [{"name": n, "about": a, "source": s} for n, a, s in rows]})
        else:
            click.echo(table(("study", "what it asks", "after"), rows))
        return
    found = find_study(name)
    if found is None:
        raise UsageError(f"study {name!r} is unknown; known are {', '.join(row.name for row in STUDIES)}")
    from aftertune.model import check_subject

    check_subject(subject, placement=placement)
    document = found.run(out, subject=subject, placement=placement, progress=progress)
    if as_json:
        print_json(document)
        return
    say(f"study: {Path(document['run']) / 'study.json'}")
    say(f"report: {Path(document['run']) / 'report.html'}")
