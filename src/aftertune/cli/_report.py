"""``aftertune report``: build a finished audit's report again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from aftertune.cli._options import file_path


@click.command()
@click.argument("run", type=file_path)
def report(run: Path) -> None:
    """Rebuild report.html of the finished audit, demo, search for weights, repair or study in the folder RUN."""
    from aftertune.runs import read_manifest

    click.echo(_rebuilder(run, str(read_manifest(run)["verb"]))(run))


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
    from aftertune.auditing import rebuild_report

    return rebuild_report
