"""``aftertune metrics``, ``data`` and ``policy``: what there is to know before a run."""

from __future__ import annotations

from dataclasses import asdict

import click

from aftertune.cli._options import print_json
from aftertune.cli._printing import table


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON document on stdout.")
def metrics(as_json: bool) -> None:
    """List metrics: what they mean, whether they decide, default margins."""
    from aftertune.stats import all_metrics

    if as_json:
        print_json({"metrics": [asdict(m) for m in all_metrics()]})
        return
    rows = [
        (m.id, "decides" if m.decides else "informs", m.worse, f"{m.margin:g}", m.unit, m.about) for m in all_metrics()
    ]
    click.echo(table(("metric", "role", "worse", "margin", "unit", "about"), rows, right=(3,)))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON document on stdout.")
def data(as_json: bool) -> None:
    """List data sets: what, how many rows, licence, shipped or brought by you."""
    from aftertune.data import CATALOGUE

    if as_json:
        print_json({"data": [asdict(entry) for entry in CATALOGUE]})
        return
    rows = [(d.name, d.kind, str(d.rows), d.licence, "shipped" if d.shipped else "yours", d.about) for d in CATALOGUE]
    click.echo(table(("name", "kind", "rows", "licence", "where", "about"), rows, right=(2,)))


@click.command()
def policy() -> None:
    """Print the default policy as YAML; edit it and pass it to audit with --policy."""
    from aftertune.stats import Policy, all_metrics

    default = Policy()
    click.echo("# how sure to be, and how many distinct prompts a deciding metric needs")
    click.echo(f"confidence: {default.confidence}\nminimum_clusters: {default.minimum_clusters}")
    click.echo("# a deciding metric that is not testable on this base: block a pass, or allow it")
    click.echo(f"untestable: {default.untestable}")
    click.echo("# tolerated worsening, in each metric's unit")
    click.echo("margins:")
    for m in all_metrics():
        click.echo(f"  {m.id}: {m.margin:g}  # {m.unit}")
    click.echo("# whether a metric decides the verdict or only informs")
    click.echo("decides:")
    for m in all_metrics():
        click.echo(f"  {m.id}: {'true' if m.decides else 'false'}")
