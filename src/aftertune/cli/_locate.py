"""``aftertune locate``: the weights that carry a behaviour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from aftertune.cli._lines import say
from aftertune.cli._options import (
    file_path,
    loading_options,
    make_placement,
    make_progress,
    make_settings,
    placement_options,
    print_json,
)

UNITS = ("neuron+head", "neuron", "head", "weight", "singular-vector")
FORMER_UNITS = {"component": "neuron+head", "direction": "singular-vector"}
SCORES = ("auto", "integrated-gradients", "ablation", "snip-guarded", "snip-contrast", "snip-keep", "snip")
FORMER_SCORES = {
    "integrated": "integrated-gradients",
    "verified": "ablation",
    "guarded": "snip-guarded",
    "contrastive": "snip-contrast",
    "against_keep": "snip-keep",
    "signed": "snip",
}
RIVALS = ("absolute", "wanda", "magnitude", "random")


class Renamed(click.Choice[str]):
    """A choice that still takes former names, and names the new one on stderr."""

    def __init__(self, choices: Sequence[str], former: Mapping[str, str]) -> None:
        super().__init__(choices)
        self.former = former

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name of today."""
        if value in self.former:
            click.echo(f"note: '{value}' is now called '{self.former[value]}'", err=True)
            value = self.former[value]
        if value in RIVALS and self.choices == SCORES:
            self.fail(f"'{value}' is only measured by `aftertune study planted`.", param, ctx)
        return super().convert(value, param, ctx)


def _refuse_scope(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """Ranking within rows or matrices is gone; over the whole model is what is left, so naming it does no harm."""
    if value == "global":
        click.echo("note: --scope is gone; units are always ranked over the whole model", err=True)
    elif value is not None:
        raise click.UsageError(f"--scope {value} is gone; units are always ranked over the whole model")


# Options of a search alone, with the value that a repair has for them if it has one; options of a repair alone.
SEARCH = {
    "tests": ("--test", None),
    "unit": ("--unit", "weight"),
    "score": ("--score", None),
    "keep_fraction": ("--keep-fraction", None),
    "factor": ("--factor", None),
    "budget": ("--budget", None),
}
REPAIR = {"task": ("--task", None), "task_answers": ("--task-answers", None)}


@click.command()
@click.argument("subject")
@click.option(
    "--harm",
    multiple=True,
    required=True,
    help="Contrasts (their misaligned answers) or rows with answers: a file or a shipped set. Repeatable.",
)
@click.option(
    "--keep",
    multiple=True,
    help="What must stay likely: contrasts (their aligned answers) or rows. Default: safety/harmless. Repeatable.",
)
@click.option("--test", "tests", multiple=True, help="Another harm set; it is only measured. Repeatable.")
@click.option("--out", type=file_path, help="The patch file. Default: patch.safetensors in the run folder.")
@click.option("--run", type=file_path, help="Run folder. Default: runs/locate-xxxxxxxx, by configuration.")
@click.option(
    "--unit",
    type=Renamed(UNITS, FORMER_UNITS),
    default="neuron+head",
    show_default=True,
    help="What is chosen as a whole: MLP neurons, attention heads, both, single weights, or singular vectors.",
)
@click.option(
    "--score",
    type=Renamed(SCORES, FORMER_SCORES),
    default="auto",
    show_default=True,
    help="How units are ranked; auto tries several SNIP scores and keeps the best. See docs/locating.md.",
)
@click.option("--scope", hidden=True, callback=_refuse_scope, expose_value=False)
@click.option("--prune-fraction", type=float, help="Share of the units to choose. Default: several are tried.")
@click.option(
    "--keep-fraction", type=float, help="Share of the units that the keep set protects. Default: depends on the score."
)
@click.option(
    "--operation",
    type=click.Choice(["zero", "scale", "restore"]),
    help="What to do to the chosen weights. Default: restore if --base is given, else zero.",
)
@click.option(
    "--factor", type=float, default=0.0, show_default=True, help="For --operation scale: multiply the weights by this."
)
@click.option(
    "--budget", type=float, default=0.05, show_default=True, help="Benign loss the search may cost, in nats per token."
)
@click.option("--limit", type=int, help="Use at most this many examples of each part. Default: all.")
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Random seed for the data split and the random controls."
)
@click.option(
    "--accumulate-on",
    help="Device that holds the gradient sums of single weights, such as cpu. Default: the weights' device.",
)
@click.option("--base", help="Repair SUBJECT by returning weights to this model, which it was tuned from.")
@click.option(
    "--task",
    multiple=True,
    help="Repair: the data it was tuned on. Default: the data that its tuning record names. Repeatable.",
)
@click.option(
    "--task-answers",
    type=click.Choice(["aligned", "misaligned"]),
    help="Repair: which answers of contrasts it was tuned on. Default: as recorded, else aligned.",
)
@placement_options
@loading_options
@click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON document on stdout.")
@click.option(
    "--display",
    type=click.Choice(["auto", "rich", "plain", "none"]),
    default="auto",
    show_default=True,
    help="Progress on stderr.",
)
def locate(
    subject: str,
    harm: tuple[str, ...],
    keep: tuple[str, ...],
    tests: tuple[str, ...],
    out: Path | None,
    run: Path | None,
    accumulate_on: str | None,
    base: str | None,
    task: tuple[str, ...],
    task_answers: Any,
    operation: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Find the weights of SUBJECT that carry the answers of a harm set, and write a patch that removes them.

    Half of the prompts are used to rank units, a quarter to choose how many to remove, and a quarter to test the
    result beside controls of equal count. With --base, the patch returns weights of a fine-tune to its base instead,
    and the report shows safety regained against skill lost. Run an interrupted command again to continue.
    """
    from aftertune.locating import LocateOptions

    progress, placement = make_progress(options), make_placement(options)
    loading = {name: options.pop(name) for name in ("tokenizer", "chat_template", "trust_remote_code")}
    restoring = operation == "restore" or (operation is None and base is not None)
    _refuse_idle(restoring)
    _refuse_device(accumulate_on)
    options["operation"] = "zero" if restoring or operation is None else operation
    settings = make_settings(LocateOptions, options)
    from aftertune.locating import locate as run_locate
    from aftertune.model import SubjectChoice

    tuned = SubjectChoice(subject, base=base, placement=placement, **loading)
    if restoring:
        from aftertune.cli._repair import run_repair
        from aftertune.tuning import known_base

        below = SubjectChoice(base or known_base(subject), placement=placement, **loading)
        sets = (harm, task, task_answers, keep)
        run_repair(tuned, below, sets, out, settings, run, accumulate_on, progress, as_json=as_json)
        return
    found = run_locate(
        tuned,
        harm,
        keep,
        out,
        options=settings,
        tests=tests,
        out=run,
        store=accumulate_on,
        progress=progress,
    )
    if as_json:
        print_json(found.document)
        return
    from aftertune.attribution import count_units
    from aftertune.cli._printing import table

    names = list(dict.fromkeys(name for proof in found.proofs for name in proof.controls))
    rows = [
        (
            proof.measure,
            f"{proof.before:.3f}",
            f"{proof.patch.after:.3f}",
            f"[{proof.patch.interval[0]:+.3f}, {proof.patch.interval[1]:+.3f}]",
            *(f"{proof.controls[name].difference:+.3f}" for name in names),
        )
        for proof in found.proofs
    ]
    header = ("held out", "before", "after", "95 % interval of the change", *(n.replace("_", "-") for n in names))
    click.echo(table(header, rows, right=tuple(range(1, 4 + len(names)))))
    click.echo("(last columns: the change under each control, which edits as many other units)\n")
    for claim in found.document["claims"]:
        say(f"{claim['outcome']}: {claim['text']} ({claim['detail']})")
    if found.document["note"]:
        say(f"note: {found.document['note']}")
    document = found.document
    say()
    say(f"patch: {found.patch} ({count_units(document['units'], document['unit'])}, {document['weights']} weights)")
    say(f"report: {found.run / 'report.html'}")
    say(f"next: aftertune audit {subject}+{found.patch}")


def _refuse_idle(restoring: bool) -> None:
    """Refuse options that would have no effect."""
    from aftertune.errors import UsageError

    context = click.get_current_context()
    why = "does not apply to a repair; leave it out, or search with --operation zero"
    if not restoring:
        why = "only applies to a repair; name the model that SUBJECT was tuned from with --base"
    for name, (flag, same) in (SEARCH if restoring else REPAIR).items():
        given = context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if given and context.params[name] != same:
            raise UsageError(f"{flag} {why}")


def _refuse_device(name: str | None) -> None:
    from aftertune.errors import UsageError

    if name is None:
        return
    from aftertune.model import resolve_device

    try:
        if name == "auto":
            raise UsageError("name one device")
        resolve_device(name)
    except UsageError:
        raise UsageError(f"--accumulate-on {name}: cannot be used here; try --accumulate-on cpu") from None
