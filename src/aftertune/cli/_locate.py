"""``aftertune locate``: the weights that carry a behaviour."""

from __future__ import annotations

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

# Options of a search alone, with the value that a repair has for them if it has one; options of a repair alone.
SEARCH = {
    "tests": ("--test", None),
    "unit": ("--unit", "weight"),
    "score": ("--score", None),
    "scope": ("--scope", "global"),
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
    help="Contrasts (their misaligned answers) or rows with answers: a file, a shipped set. Repeatable.",
)
@click.option(
    "--keep",
    multiple=True,
    help="What must stay: contrasts (their aligned answers) or rows. Default: safety/harmless. Repeatable.",
)
@click.option("--test", "tests", multiple=True, help="Another harm set, measured only. Repeatable.")
@click.option("--out", type=file_path, help="The patch file. Default: patch.safetensors in the run folder.")
@click.option("--run", type=file_path, help="Run folder. Default: runs/locate-xxxxxxxx, by configuration.")
@click.option(
    "--unit",
    type=click.Choice(["component", "neuron", "head", "weight", "direction"]),
    default="component",
    show_default=True,
    help="What is chosen as a whole; components are neurons and heads, directions singular vectors of any matrix.",
)
@click.option(
    "--score",
    type=click.Choice(
        [
            "auto",
            "integrated",
            "verified",
            "guarded",
            "contrastive",
            "against_keep",
            "signed",
            "absolute",
            "wanda",
            "magnitude",
            "random",
        ]
    ),
    default="auto",
    show_default=True,
    help="How units are ranked.",
)
@click.option(
    "--scope",
    type=click.Choice(["global", "matrix", "row"]),
    default="global",
    show_default=True,
    help="Rank over the model, within each matrix, or within each row.",
)
@click.option("--prune-fraction", type=float, help="Share of the units to choose. Default: searched.")
@click.option("--keep-fraction", type=float, help="Share of the units the keep set protects. Default: by the score.")
@click.option(
    "--operation",
    type=click.Choice(["zero", "scale", "restore"]),
    help="What is done to the chosen weights. Default: restore where --base is given, else zero.",
)
@click.option("--factor", type=float, default=0.0, show_default=True, help="For scale: multiply by this.")
@click.option(
    "--budget", type=float, default=0.05, show_default=True, help="Benign loss the search may cost, nats per token."
)
@click.option("--limit", type=int, help="Examples of each part at most. Default: all.")
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Random seed for the data split and the random controls."
)
@click.option("--accumulate-on", help="Device of weight-level sums, such as cpu. Default: beside the weights.")
@click.option("--base", help="What SUBJECT was tuned from: repair it, by returning weights to this base.")
@click.option(
    "--task", multiple=True, help="Repair: what it was tuned for. Default: the data its record names. Repeatable."
)
@click.option(
    "--task-answers",
    type=click.Choice(["aligned", "misaligned"]),
    help="Repair: which answers of contrasts the task is. Default: as recorded, else aligned.",
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
    """Find the weights of SUBJECT that carry the answers of a harm set, and write a patch that takes them out.

    Half of the prompts are attributed, a quarter chooses how much to take, a quarter proves it, beside controls of
    equal count. With --base, the patch returns weights of a fine-tune to its base instead, and the frontier of
    safety against the narrow skill is drawn. A killed run goes on when the command is given again.
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
    click.echo("(the last columns: change under as many units chosen otherwise)\n")
    for claim in found.document["claims"]:
        say(f"{claim['outcome']}: {claim['text']} ({claim['detail']})")
    if found.document["note"]:
        say(f"note: {found.document['note']}")
    document = found.document
    say()
    say(f"patch: {found.patch} ({document['units']} {document['unit']}s, {document['weights']} weights)")
    say(f"report: {found.run / 'report.html'}")
    say(f"next: aftertune audit {subject}+{found.patch}")


def _refuse_idle(restoring: bool) -> None:
    """Refuse options that would have no effect."""
    from aftertune.errors import UsageError

    context = click.get_current_context()
    why = "plays no part in a repair; leave it out, or search with --operation zero"
    if not restoring:
        why = "goes with a repair; name with --base what SUBJECT was tuned from"
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
            raise UsageError("sums are kept in one place")
        resolve_device(name)
    except UsageError:
        raise UsageError(f"--accumulate-on {name}: cannot be used here; try --accumulate-on cpu") from None
