"""The half of ``aftertune locate`` that returns weights of a fine-tune to its base."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aftertune.cli._lines import say
from aftertune.cli._options import print_json

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
