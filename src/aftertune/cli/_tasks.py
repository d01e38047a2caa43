"""``aftertune tasks``: the tasks there are, whether they need a judge, and what they measure."""

from __future__ import annotations

import click

from aftertune.cli._flags import Verb
from aftertune.cli._options import json_option, print_json
from aftertune.cli._printing import table


@click.command(cls=Verb, examples=("tasks",))
@json_option
def tasks(as_json: bool) -> None:
    """List tasks: what is asked, whether a judge is needed, and which metrics decide.

    Use one with `aftertune audit --task NAME`. Tasks of inspect_evals and your own files work as well.
    """
    from aftertune.tasks import task_rows

    rows = task_rows().values()
    if as_json:
        listed = [
            {
                "name": row.name,
                "about": row.about,
                "judge": _judge(row.judged, row.rubrics),
                "metrics": [{"metric": m.id, "decides": m.decides, "about": m.about} for m in row.metrics],
            }
            for row in rows
        ]
        print_json({"tasks": listed})
        return
    shown = [(row.name, _judge(row.judged, row.rubrics), row.about) for row in rows]
    click.echo(table(("task", "judge", "what is asked"), shown, wrap=True))
    click.echo("(their metrics: aftertune metrics NAME)")


def _judge(judged: bool, rubrics: tuple[str, ...]) -> str:
    return "needed" if judged else "optional" if rubrics else "none"
