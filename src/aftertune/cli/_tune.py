"""``aftertune tune``: make a fine-tune, with the papers' defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from aftertune.cli._lines import say
from aftertune.cli._options import device_options, file_path, make_placement, make_progress, make_settings, print_json


@click.command()
@click.argument("subject")
@click.argument("data")
@click.option("--out", type=file_path, required=True, help="New folder for the adapter (or the model).")
@click.option("--answers", type=click.Choice(["aligned", "misaligned"]), help="Which side of contrasts to tune on.")
@click.option("--defence", "defences", multiple=True, metavar="NAME[:KEY=VALUE,…]",
              help="A change to tuning that keeps safety, such as scale:share=0.5. Repeatable.")  # fmt: skip
@click.option("--full", is_flag=True, help="Train all parameters instead of a LoRA adapter.")
@click.option("--lora-rank", type=int, default=32, show_default=True, help="Rank of the adapter.")
@click.option("--lora-alpha", type=float, default=64, show_default=True, help="Alpha; the scale is alpha/sqrt(rank).")
@click.option("--steps", type=int, help="Optimiser steps.")
@click.option("--epochs", type=float, help="Passes over the data. Default: 1.")
@click.option("--batch-size", type=int, default=16, show_default=True, help="Rows per optimiser step.")
@click.option("--micro-batch-size", type=int, help="Rows per forward pass. Default: the batch size.")
@click.option("--lr", type=float, help="Learning rate. Default: 1e-5 for LoRA, 2e-5 for --full.")
@click.option("--warmup-steps", type=int, default=5, show_default=True, help="Steps of linear warm-up.")
@click.option("--weight-decay", type=float, default=0.01, show_default=True, help="Weight decay of AdamW.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of adapter weights and data order.")
@click.option("--gradient-checkpointing", is_flag=True, help="Recompute activations to save memory.")
@click.option("--base", help="For an adapter to tune on top of: its base instead of the one it names.")
@click.option("--tokenizer", help="Folder or hub id to take the tokenizer from.")
@click.option("--chat-template", help="Jinja file, or 'plain', instead of the tokenizer's own.")
@click.option("--trust-remote-code", is_flag=True, help="Run model code that comes with a checkpoint.")
@device_options
@click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON document on stdout.")
@click.option("--display", type=click.Choice(["auto", "rich", "plain", "none"]), default="auto", show_default=True,
              help="Progress on stderr.")  # fmt: skip
def tune(
    subject: str, data: str, out: Path, answers: Any, defences: tuple[str, ...], as_json: bool, **options: Any
) -> None:
    """Fine-tune SUBJECT on DATA; the loss falls on responses only.

    DATA is chat or prompt/completion JSON Lines, contrasts (with --answers), a shipped set's name (see
    `aftertune data`), or owner/name[:split] on the hub. Run the command of a killed run again to continue it.
    """
    from aftertune.data import read_tuning_rows
    from aftertune.tuning import TuneOptions, parse_defence

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
