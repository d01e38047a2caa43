"""``aftertune patch``: apply, undo, verify or show a patch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aftertune.cli._flags import Verb
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
from aftertune.cli._printing import table
from aftertune.errors import spelled_out

if TYPE_CHECKING:
    from aftertune.model import Patch, Subject
    from aftertune.runs import Progress

_BAR = 30
_WIDEST = 100

_subject = click.argument("subject")
_file = click.argument("file", metavar="PATCH", type=file_path)
_out = click.option("--out", type=file_path, required=True, help="New folder for the model.")
_base = click.option("--base", help="For an adapter: its base instead of the one it names.")


def _loading(function: Callable[..., None]) -> Callable[..., None]:
    return _base(loading_options(device_options(json_option(display_option(function)))))


@click.group()
def patch() -> None:
    """Apply, undo, verify or show a patch: a small reversible edit of named weights.

    Wherever a subject is asked for, SUBJECT+PATCH names it with the patch in force, without a copy on disk:
    `aftertune audit smollm2+money.safetensors`.
    """


@patch.command(cls=Verb, examples=("patch apply my-finetune back.safetensors --out repaired",))
@_subject
@_file
@_out
@_loading
def apply(subject: str, file: Path, out: Path, as_json: bool, **options: Any) -> None:
    """Save SUBJECT with PATCH in force as an ordinary model folder.

    PATCH must have been made for these very weights. The model is saved in the precision it is loaded in, an
    adapter merged into its base.
    """
    from aftertune.model import apply_patches, read_patch
    from aftertune.runs import refuse_taken_folder

    refuse_taken_folder(out)
    read_patch(file)
    loaded, progress = _load(subject, options)
    [facts] = apply_patches(loaded.model, [file], progress)
    digest = _save(loaded, out)
    if as_json:
        print_json({"out": str(out), "subject": subject, "patch": facts, "weights_sha256": digest})
        return
    click.echo(f"{_shown(out)}: {facts['weights']} weights changed ({facts['checked']} checked)")
    click.echo(f"next: aftertune audit {_shown(out)} --base {_shown(_base_of(subject))}")


@patch.command(cls=Verb, examples=("patch undo repaired back.safetensors --out as-it-was",))
@_subject
@_file
@_out
@_loading
def undo(subject: str, file: Path, out: Path, as_json: bool, **options: Any) -> None:
    """Save SUBJECT, which holds the patched weights, as it was before PATCH, bit for bit.

    Of several patches, undo first the one that was applied last.
    """
    from aftertune.model import WeightView, patch_facts, read_patch
    from aftertune.runs import refuse_taken_folder

    refuse_taken_folder(out)
    stored = read_patch(file)
    loaded, _ = _load(subject, options)
    view = WeightView(loaded.model)
    stored.undo(view)
    facts = patch_facts(stored, stored.verify(view))
    digest = _save(loaded, out)
    if as_json:
        print_json({"out": str(out), "subject": subject, "patch": facts, "weights_sha256": digest})
        return
    click.echo(f"{_shown(out)}: {facts['weights']} weights restored ({facts['checked']} checked)")


@patch.command(cls=Verb, examples=("patch verify my-finetune back.safetensors",))
@_subject
@_file
@_loading
def verify(subject: str, file: Path, as_json: bool, **options: Any) -> None:
    """Say whether PATCH belongs to SUBJECT, and whether it is applied already.

    The exit code is 0 if it belongs, applied or not, and 2 if it was made for other weights or is damaged. Nothing
    is changed.
    """
    from aftertune.model import WeightView, patch_facts, read_patch

    stored = read_patch(file)
    view = WeightView(_load(subject, options)[0].model)
    applied = stored.applied_in(view)
    if applied:
        stored.undo(view)  # in memory, for the digests are of the weights before
    facts = patch_facts(stored, stored.verify(view))
    if as_json:
        print_json({"subject": subject, "patch": facts, "applied": applied})
        return
    state = f"is applied to {_shown(subject)}" if applied else f"fits {_shown(subject)} and is not applied"
    extent = f"{facts['weights']} weights in {len(stored.edits)} matrices ({facts['checked']} checked)"
    click.echo(f"{_shown(file)} {state}: {extent}")


@patch.command(cls=Verb, examples=("patch show back.safetensors",))
@_file
@json_option
def show(file: Path, as_json: bool) -> None:
    """Show what PATCH does: how it was found, and how many weights it touches by layer and matrix.

    No model is loaded.
    """
    from aftertune.model import patch_facts, read_patch

    stored = read_patch(file)
    facts, counts = patch_facts(stored), _counts(stored)
    facts |= {"matrices": len(stored.edits), "dtype": ", ".join(stored.dtypes)}
    if as_json:
        rows = [{"layer": layer, "weights": sum(roles.values()), "by_role": roles} for layer, roles in counts.items()]
        print_json({"patch": facts, "about": dict(stored.about), "layers": rows})
        return
    lines = [(_cut(key, _WIDEST // 2), _cut(value)) for key, value in (*facts.items(), *_about_lines(stored.about))]
    width = max(len(key) for key, _ in lines)
    for key, value in lines:
        click.echo(f"{key:<{width}}  {value}")
    click.echo("\n" + _by_layer(counts))


Counts = dict[int | None, dict[str, int]]


def _counts(stored: Patch) -> Counts:
    """Touched weights by layer and role; what is in no layer comes last."""
    counts: Counts = {}
    for edit in sorted(stored.edits.values(), key=lambda e: (e.layer is None, e.layer or 0)):
        roles = counts.setdefault(edit.layer, {})
        roles[edit.role] = roles.get(edit.role, 0) + edit.index.numel()
    return counts


def _by_layer(counts: Counts) -> str:
    """A row for each layer: weights by role, their sum, and a bar."""
    roles = list(dict.fromkeys(role for row in counts.values() for role in row))
    short = [role.rpartition(".")[2] for role in roles]
    names = [s if short.count(s) == 1 else role for role, s in zip(roles, short, strict=True)]
    most = max(sum(row.values()) for row in counts.values())
    rows = [
        (
            "-" if layer is None else str(layer),
            *(str(row.get(role, "")) for role in roles),
            str(total := sum(row.values())),
            "#" * math.ceil(_BAR * total / most),
        )
        for layer, row in counts.items()
    ]
    return table(("layer", *map(_shown, names), "weights", ""), rows, right=range(len(names) + 2))


def _about_lines(about: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in about.items():
        if not isinstance(value, Mapping):
            yield key, value if isinstance(value, str) else json.dumps(value)
        elif key == "subject" and {"spec", "dtype", "weights_sha256"} <= value.keys():
            yield key, f"{value['spec']} ({value['dtype']}, weights {str(value['weights_sha256'])[:12]})"
        else:
            yield from ((f"{key}.{name}", inner if isinstance(inner, str) else json.dumps(inner))
                        for name, inner in value.items())  # fmt: skip


def _shown(text: object) -> str:
    """Text from a file or its name."""
    return spelled_out(str(text))


def _cut(text: object, width: int = _WIDEST) -> str:
    shown = _shown(text)
    return shown if len(shown) <= width else shown[:width] + " …"


def _load(subject: str, options: dict[str, Any]) -> tuple[Subject, Progress]:
    progress, placement = make_progress(options), make_placement(options)
    from aftertune.model import load

    progress.say(f"loading {subject}")
    return load(subject, placement=placement, merge=True, progress=progress, **options), progress


def _save(loaded: Subject, out: Path) -> str:
    """Save the model with the tokenizer as it was; the digest of the weights saved."""
    from aftertune.model import save_model, weights_digest

    save_model(loaded.model, loaded.tokenizer, out)
    return weights_digest(loaded.model)


def _base_of(subject: str) -> str:
    from aftertune.errors import SubjectError
    from aftertune.tuning import known_base

    try:
        return known_base(subject)
    except SubjectError:
        return subject
