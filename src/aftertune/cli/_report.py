"""``aftertune report``: build a finished audit's report again."""

from __future__ import annotations

from pathlib import Path

import click

from aftertune.cli._options import file_path


@click.command()
@click.argument("run", type=file_path)
def report(run: Path) -> None:
    """Rebuild report.html of the finished audit or demo in the folder RUN."""
    from aftertune.auditing import rebuild_report
    from aftertune.runs import read_manifest

    if read_manifest(run).get("verb") == "demo":
        from aftertune.studies import rebuild_demo_report

        click.echo(rebuild_demo_report(run))
        return
    click.echo(rebuild_report(run))
