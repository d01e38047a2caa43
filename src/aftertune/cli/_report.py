"""``aftertune report``: build a finished run's report again, or say in Markdown or JUnit what it found."""

from __future__ import annotations

from pathlib import Path

import click

from aftertune.cli._flags import Verb
from aftertune.cli._options import file_path
from aftertune.errors import spelled_out


@click.command(cls=Verb, examples=("report runs/demo", "report runs/audit-1a2b3c4d --format markdown"))
@click.argument("run", type=file_path)
@click.option(
    "--format",
    "form",
    type=click.Choice(["html", "markdown", "junit"]),
    default="html",
    show_default=True,
    help="html: write the file; markdown, junit: print a summary on stdout.",
)
def report(run: Path, form: str) -> None:
    """Rebuild report.html of the finished run in the folder RUN, whichever verb made it."""
    from aftertune.report import summary, write_report

    said = spelled_out(str(write_report(run))) + "\n" if form == "html" else summary(run, form)
    click.echo(said, nl=False)
