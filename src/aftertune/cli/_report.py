"""``aftertune report``: build a finished run's report again, or say in Markdown what an audit found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from aftertune.cli._options import file_path
from aftertune.errors import spelled_out


@click.command()
@click.argument("run", type=file_path)
@click.option(
    "--format",
    "form",
    type=click.Choice(["html", "markdown"]),
    default="html",
    show_default=True,
    help="html: write the file; markdown: print a summary of an audit on stdout.",
)
def report(run: Path, form: str) -> None:
    """Rebuild report.html of the finished audit, demo, search for weights, repair or study in the folder RUN."""
    from aftertune.runs import explain_damage, read_manifest

    verb = str(read_manifest(run)["verb"])
    with explain_damage(run):
        said = _markdown(run, verb) if form == "markdown" else spelled_out(str(_rebuilder(run, verb)(run))) + "\n"
    click.echo(said, nl=False)


def _markdown(run: Path, verb: str) -> str:
    from aftertune.errors import UsageError
    from aftertune.report import render_markdown
    from aftertune.verbs import stored_section

    if verb not in ("audit", "compare"):
        raise UsageError(f"{run}: is a run of `{verb}`; --format markdown is for those of `audit` and `compare`")
    return render_markdown(stored_section(run))


def _rebuilder(run: Path, verb: str) -> Callable[[Path], Path]:
    if verb == "demo":
        from aftertune.studies import rebuild_demo_report

        return rebuild_demo_report
    if verb == "locate":
        from aftertune.locating import rebuild_locate_report

        return rebuild_locate_report
    if verb == "repair":
        from aftertune.locating import rebuild_repair_report

        return rebuild_repair_report
    if verb.startswith("study "):
        from aftertune.errors import OutputError
        from aftertune.studies import find_study

        study = find_study(verb.removeprefix("study "))
        if study is None:
            raise OutputError(f"{run}: holds a study this version does not know ({verb})")
        return study.rebuild
    if verb not in ("audit", "compare"):
        from aftertune.errors import OutputError

        raise OutputError(f"{run}: is a run of `{verb}`, which has no report; name one of an audit, demo or search")
    from aftertune.verbs import rebuild_report

    return rebuild_report
