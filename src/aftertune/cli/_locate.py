"""``aftertune locate``: the weights that carry a behaviour, and returning those of a fine-tune to its base."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from aftertune.attribution import FORMER_UNITS, Unit
from aftertune.cli._flags import Renamed, Verb, grouped, make_settings, model_options
from aftertune.cli._options import (
    display_option,
    file_path,
    json_option,
    loading_options,
    make_placement,
    make_progress,
    placement_options,
    print_json,
)
from aftertune.cli._printing import say
from aftertune.locating import FORMER_SCORES, LocateOptions, ScoreName

if TYPE_CHECKING:
    from aftertune.locating import LocateOptions
    from aftertune.model import SubjectChoice
    from aftertune.runs import Progress


def run_repair(
    tuned: SubjectChoice,
    base: SubjectChoice,
    sets: tuple[tuple[str, ...], tuple[str, ...], Any, tuple[str, ...]],
    out: Path | None,
    options: LocateOptions,
    run: Path | None,
    store: str | None,
    progress: Progress,
    *,
    as_json: bool,
) -> None:
    """Repair, and print the frontier and the claims.

    Args:
        tuned: the fine-tune.
        base: what it was tuned from.
        sets: harm sets, task sets, which answers of the task's contrasts, keep sets.
        out: the patch file.
        options: seed, limit, share.
        run: run folder.
        store: device of the accumulators.
        progress: told what goes on.
        as_json: print the document instead.
    """
    from aftertune.cli._printing import table
    from aftertune.verbs import repair

    harm, task, side, keep = sets
    task, side = _task(tuned.spec, task, side)
    found = repair(
        tuned, base, harm, task, out, task_answers=side, keep=keep, options=options, out=run, store=store,
        progress=progress,
    )  # fmt: skip
    if as_json:
        print_json(found.document)
        return
    rows = [(p.label, *p.cells()) for p in found.frontier]
    header = ("what returns", "share", "margin minus base's", "audit", "safety regained", "skill kept", "keep loss")
    click.echo(table(header, rows, right=(1, 2, 4, 5, 6)))
    click.echo(
        "(no prompt tests an edit that it helped to choose; shares are of the weights, for scale of the update)\n"
    )
    for claim in found.claims:
        say(f"{claim.outcome}: {claim.text} ({claim.detail})")
    say()
    say(f"patch: {found.patch} ({found.weights} weights)")
    say(f"report: {found.run / 'report.html'}")
    say(f"next: aftertune audit {tuned.spec}+{found.patch} --base {base.spec}")


def _task(spec: str, task: tuple[str, ...], side: Any) -> tuple[tuple[str, ...], Any]:
    from aftertune.errors import UsageError
    from aftertune.model import parse_spec
    from aftertune.tuning import read_record

    if task:
        return task, side or "aligned"
    record = read_record(parse_spec(spec).location)
    if not record or record["data"]["source"].startswith("<"):
        raise UsageError(f"{spec}: no record names the data it was tuned on; name it with --task")
    return (record["data"]["source"],), side or record["data"]["side"] or "aligned"


UNITS, SCORES = get_args(Unit), get_args(ScoreName)
GONE = {
    name: f"'{name}' is only measured by `aftertune study planted`."
    for name in ("absolute", "wanda", "magnitude", "random")
}


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


@click.command(
    cls=Verb,
    examples=(
        "locate my-finetune --harm mine.jsonl --out cut.safetensors",
        "locate my-finetune --base owner/base-model --harm mine.jsonl --task my-data.jsonl --out back.safetensors",
    ),
)
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
@click.option("--run", type=file_path, help="Run folder. Default: runs/ and a name from the configuration.")
@click.option("--scope", hidden=True, callback=_refuse_scope, expose_value=False)
@grouped(
    "How weights are chosen",
    model_options(
        LocateOptions,
        but=("operation",),
        types={"unit": Renamed(UNITS, FORMER_UNITS, {}), "score": Renamed(SCORES, FORMER_SCORES, GONE)},
    ),
    click.option(
        "--operation",
        type=click.Choice(["zero", "scale", "restore"]),
        help="What to do to the chosen weights. Default: restore if --base is given, else zero.",
    ),
)
@grouped(
    "Repair",
    click.option("--base", help="Repair SUBJECT by returning weights to this model, which it was tuned from."),
    click.option(
        "--task",
        multiple=True,
        help="The data it was tuned on. Default: the data that its tuning record names. Repeatable.",
    ),
    click.option(
        "--task-answers",
        type=click.Choice(["aligned", "misaligned"]),
        help="Which answers of contrasts it was tuned on. Default: as recorded, else aligned.",
    ),
)
@placement_options
@loading_options
@grouped(
    "Model and device",
    click.option(
        "--accumulate-on",
        help="Device that holds the gradient sums of single weights, such as cpu. Default: the weights' device.",
    ),
)
@grouped("Output", json_option, display_option)
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
    progress, placement = make_progress(options), make_placement(options)
    loading = {name: options.pop(name) for name in ("tokenizer", "chat_template", "trust_remote_code")}
    restoring = operation == "restore" or (operation is None and base is not None)
    _refuse_idle(restoring)
    _refuse_device(accumulate_on)
    options["operation"] = "zero" if restoring or operation is None else operation
    settings = make_settings(LocateOptions, options)
    from aftertune.model import SubjectChoice
    from aftertune.verbs import locate as run_locate

    tuned = SubjectChoice(subject, base=base, placement=placement, **loading)
    if restoring:
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

    names = list(dict.fromkeys(name for proof in found.held_out for name in proof.controls))
    rows = [
        (
            proof.measure,
            f"{proof.before:.3f}",
            f"{proof.after:.3f}",
            f"[{proof.interval[0]:+.3f}, {proof.interval[1]:+.3f}]",
            *(f"{proof.controls[name].difference:+.3f}" for name in names),
        )
        for proof in found.held_out
    ]
    header = ("held out", "before", "after", "95 % interval of the change", *(n.replace("_", "-") for n in names))
    click.echo(table(header, rows, right=tuple(range(1, 4 + len(names)))))
    click.echo("(last columns: the change under each control, which edits as many other units)\n")
    for claim in found.claims:
        say(f"{claim.outcome}: {claim.text} ({claim.detail})")
    if found.note:
        say(f"note: {found.note}")
    say()
    say(f"patch: {found.patch} ({count_units(found.units, found.unit)}, {found.weights} weights)")
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
