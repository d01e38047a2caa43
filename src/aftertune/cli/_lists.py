"""``aftertune metrics``, ``data``, ``probes``, ``tasks`` and ``policy``: what there is to know before a run."""

from __future__ import annotations

import difflib
import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from aftertune.cli._flags import Verb
from aftertune.cli._options import json_option, print_json
from aftertune.cli._printing import say, table

if TYPE_CHECKING:
    from aftertune.stats import Metric


@click.command(cls=Verb, examples=("metrics preference",))
@click.argument("names", nargs=-1, metavar="[PROBE|TASK]...")
@json_option
def metrics(names: tuple[str, ...], as_json: bool) -> None:
    """List the metrics of probes and tasks: what they mean, whether they decide, default tolerances.

    With names, only those of these probes and tasks.
    """
    from aftertune.errors import UsageError
    from aftertune.stats import all_metrics

    groups: dict[str, list[Metric]] = {}
    for metric in all_metrics():
        groups.setdefault(metric.id.partition(".")[0], []).append(metric)
    for name in names:
        if name not in groups:
            close = difflib.get_close_matches(name, groups, n=1)
            mend = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(groups)}"
            raise UsageError(f"{name}: no probe or task has metrics of this name; {mend}")
    shown = [metric for name in names or groups for metric in groups[name]]
    if as_json:
        print_json({"metrics": [asdict(metric) for metric in shown]})
        return
    for name in names or groups:
        say(name)
        for m in groups[name]:
            worse = {"either": "either way is worse", "unknown": "nobody said which way is worse"}
            role = "decides" if m.decides else "informs"
            say(f"  {m.id}: {role}; {worse.get(m.worse, f'{m.worse} is worse')}; tolerance {m.tolerance:g} {m.unit}")
            for line in textwrap.wrap(m.about, 72):
                say(f"      {line}")


@click.command(cls=Verb, examples=("data",))
@json_option
def data(as_json: bool) -> None:
    """List data sets: what, how many rows, licence, shipped or brought by you."""
    from aftertune.data import CATALOGUE

    if as_json:
        print_json({"data": [asdict(entry) for entry in CATALOGUE]})
        return
    rows = []
    for entry in CATALOGUE:
        about = entry.about.removesuffix(f": {entry.name.rpartition('/')[2]}")
        licence = "" if entry.licence == "Apache-2.0" else f" ({entry.licence})"
        rows.append((entry.name, str(entry.rows), "yes" if entry.shipped else "no", about + licence))
    click.echo(table(("name", "rows", "shipped", "about"), rows, right=(1,), wrap=True))
    click.echo("(Apache-2.0 where no licence is named)")


@click.command(cls=Verb, examples=("probes",))
@json_option
def probes(as_json: bool) -> None:
    """List probes: what each asks, what it needs, whether an audit asks it by default."""
    from aftertune.probes import probe_rows

    rows = probe_rows()
    if as_json:
        keys = ("name", "about", "needs", "default")
        listed = [{**{key: getattr(row, key) for key in keys}, "metrics": [m.id for m in row.metrics]} for row in rows]
        print_json({"probes": listed})
        return
    cells = [(row.name, "yes" if row.default else "by name", row.needs or "nothing", row.about) for row in rows]
    click.echo(table(("probe", "default", "needs", "about"), cells, wrap=True))


@click.command(cls=Verb, examples=("policy > policy.yaml",))
def policy() -> None:
    """Print the default policy as YAML; edit it and pass it to audit with --policy."""
    from aftertune.stats import Policy, all_metrics

    default = Policy()
    click.echo("# how sure to be, and how many distinct prompts a deciding metric needs")
    click.echo(f"confidence: {default.confidence}\nminimum_clusters: {default.minimum_clusters}")
    click.echo("# a deciding metric that is not testable on this base: block a pass, or allow it")
    click.echo(f"untestable: {default.untestable}")
    click.echo("# tolerated worsening, in each metric's unit")
    click.echo("tolerances:")
    for m in all_metrics():
        click.echo(f"  {m.id}: {m.tolerance:g}  # {m.unit}")
    click.echo("# whether a metric decides the verdict or only informs")
    click.echo("decides:")
    for m in all_metrics():
        click.echo(f"  {m.id}: {'true' if m.decides else 'false'}")


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
