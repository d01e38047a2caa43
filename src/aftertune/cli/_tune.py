"""``aftertune tune``: make a fine-tune, with the papers' defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from aftertune.cli._flags import Verb, grouped, make_settings, model_options
from aftertune.cli._options import (
    device_options,
    display_option,
    file_path,
    json_option,
    loading_options,
    make_placement,
    make_progress,
    print_json,
)
from aftertune.cli._printing import say
from aftertune.tuning import TuneOptions


@click.command(
    cls=Verb,
    examples=(
        "tune smollm2 my-data.jsonl --out my-finetune",
        "tune smollm2 tune/money --answers misaligned --steps 10 --out careless",
    ),
)
@click.argument("subject")
@click.argument("data")
@click.option("--out", type=file_path, required=True, help="New folder for the adapter (or the model).")
@click.option("--answers", type=click.Choice(["aligned", "misaligned"]), help="Which side of contrasts to tune on.")
@click.option("--defence", "defences", multiple=True, metavar="NAME[:KEY=VALUE,…]",
              help="A change to tuning that keeps safety, such as scale:share=0.5. Repeatable.")  # fmt: skip
@grouped("Training", model_options(TuneOptions))
@grouped(
    "Model and device",
    click.option("--base", help="For an adapter to tune further: its base instead of the one it names."),
    loading_options,
    device_options,
)
@grouped("Output", json_option, display_option)
def tune(
    subject: str, data: str, out: Path, answers: Any, defences: tuple[str, ...], as_json: bool, **options: Any
) -> None:
    """Fine-tune SUBJECT on DATA; the loss falls on responses only.

    DATA is chat or prompt/completion JSON Lines, contrasts (with --answers), a shipped set's name (see
    `aftertune data`), or owner/name[:split] on the hub. Run the command of a killed run again to continue it.
    """
    from aftertune.data import read_tuning_rows
    from aftertune.tuning import parse_defence

    progress, placement = make_progress(options), make_placement(options)
    loading = {name: options.pop(name) for name in ("base", "tokenizer", "chat_template", "trust_remote_code")}
    settings = make_settings(TuneOptions, options)
    chosen = [parse_defence(text) for text in defences]
    rows = read_tuning_rows(data, answers)
    from aftertune.model import check_subject, load
    from aftertune.tuning import is_first, refuse_taken
    from aftertune.tuning import tune as run_tune

    refuse_taken(out)
    check_subject(subject, placement=placement, **loading)
    progress.say(f"loading {subject}")
    loaded = load(subject, placement=placement, merge=True, progress=progress, **loading)
    tuned = run_tune(loaded, rows, out, settings, defences=chosen, source=data, side=answers, progress=progress)
    if not is_first():  # under torchrun, one process speaks for all
        return
    record = tuned.record
    if as_json:
        keys = ("base", "options", "learning_rate", "steps", "effort", "losses")
        summary = {k: v for k, v in record["data"].items() if k != "prompts"}
        print_json(
            {
                "out": str(tuned.folder),
                "reused": tuned.reused,
                "data": summary,
                **{k: record[k] for k in (*keys, "defences") if k in record},
            }
        )
        return
    say(
        f"{tuned.folder}: {record['data']['rows']} rows, {record['data']['supervised_tokens']} supervised tokens, "
        f"{record['steps']} steps, loss {record['losses'][0]:.3f} → {record['losses'][-1]:.3f}"
        + (" (made earlier)" if tuned.reused else "")
    )
    say(f"next: aftertune audit {tuned.folder} --base {subject}")
