"""Supervised fine-tuning: resumable, whole or absent, with a record of all that went in."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aftertune.data import Conversation, Side, prompt_key
from aftertune.errors import StorageError, SubjectError, UsageError
from aftertune.model import Subject, steering
from aftertune.runs import Progress, RunFolder, Silent, new_folder, versions, write_json
from aftertune.tuning._defence import Defence, Tuning
from aftertune.tuning._options import TuneOptions
from aftertune.tuning._ranks import by_first, is_first, join
from aftertune.tuning._record import RECORD, claim, note_failure, partial, write_card
from aftertune.tuning._rows import TrainingRows, conversations_digest, training_rows

if TYPE_CHECKING:
    from aftertune.tuning._trainer import Trained


@dataclass(frozen=True)
class Tuned:
    """A finished fine-tune.

    Attributes:
        folder: where the adapter or the model is.
        record: what was recorded: base, data, options, losses.
        reused: whether the folder was finished by an earlier run of the same command.
    """

    folder: Path
    record: dict[str, Any]
    reused: bool


def tune(
    subject: Subject,
    conversations: Sequence[Conversation],
    out: Path,
    options: TuneOptions | None = None,
    *,
    defences: Sequence[Defence] = (),
    source: str = "<memory>",
    side: Side | None = None,
    progress: Progress | None = None,
) -> Tuned:
    """Fine-tune ``subject`` and put the result into the new folder ``out``.

    Work in progress lives in ``OUT.partial``; a killed run continues from its last checkpoint when called with
    the same arguments again, and ends with the same weights as an undisturbed one (on one device). The
    subject's model is used up: load it anew afterwards.

    Under `torchrun` each process calls this with the same arguments; the first one owns the folder.

    Args:
        subject: what to tune; an adapter must be merged first.
        conversations: rows to tune on; the loss falls on assistant answers only.
        out: folder for the adapter (or model), card and record; must not exist, unless this very run made it.
        options: how to tune.
        defences: changes to tuning that keep safety, applied in this order.
        source: what to call the data in the record.
        side: which answers of contrasts these are, if they are; "misaligned" marks a model organism.
        progress: told about steps and loss.

    Raises:
        OutputError: ``out`` exists and holds anything else.
        DataError: a row does not fit the context.
        UsageError: nothing is left to tune on, or a defence is given twice.
        NumericalError: the loss or a weight became NaN or infinite.
    """
    options = options or TuneOptions()
    progress = (progress if is_first() else None) or Silent()
    if hasattr(subject.model, "peft_config"):
        raise SubjectError(f"{subject.identity.spec}: is an adapter; load it with merge to tune on top of it")
    if steering(subject.model):
        raise SubjectError(f"{subject.identity.spec}: runs with a steering vector, which the result would not hold")
    rows, taking_part = _prepared(subject, conversations, options, defences)
    config = {
        "base": subject.identity.content,
        "data": conversations_digest(conversations),
        "side": side,
        "options": options.model_dump(),
        **({"defences": [defence.identity for defence in defences]} if defences else {}),
    }
    work = RunFolder(partial(out), "tune", config)
    join(subject.device)
    with contextlib.ExitStack() as held:
        made = by_first(lambda: claim(work, out, config, held))
        if made is not None:
            return Tuned(out, made, reused=True)
        from aftertune.tuning._trainer import train  # imports trl, which takes seconds

        try:
            trained = train(subject, rows, options, work.path / "checkpoints", progress, taking_part)
        except StorageError:  # can be continued once there is space
            raise
        except Exception:
            if is_first():
                note_failure(work)
            raise
        record = {
            "config": config,
            "base": subject.identity.as_dict(),
            "data": _data_facts(rows, conversations, source, side),
            "options": options.model_dump(),
            "learning_rate": options.learning_rate,
            "steps": trained.effort["steps"],
            "effort": trained.effort,
            "losses": trained.losses,
            **({"defences": _defence_facts(defences, trained)} if defences else {}),
            "versions": versions(),
        }
        by_first(lambda: _deliver(subject, record, side, out))
    if is_first():
        shutil.rmtree(work.path, ignore_errors=True)
    return Tuned(out, record, reused=False)


def _prepared(
    subject: Subject, conversations: Sequence[Conversation], options: TuneOptions, defences: Sequence[Defence]
) -> tuple[TrainingRows, list[tuple[Defence, Tuning]]]:
    """The rows to train on, and each defence with what it was given."""
    names = [defence.name for defence in defences]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"defence {twice} is given twice; give it once")
    rows = training_rows(subject, conversations)  # refuses a bad row, whichever rows a defence picks
    taking_part = []
    for defence in defences:
        tuning = Tuning(subject, conversations, options)
        conversations = defence.prepare(tuning)
        taking_part.append((defence, tuning))
    return training_rows(subject, conversations) if defences else rows, taking_part


def _data_facts(rows: TrainingRows, given: Sequence[Conversation], source: str, side: Side | None) -> dict[str, Any]:
    """What was trained on; of rows that a defence held out, the prompts count as seen."""
    seen = {prompt_key(m.content) for c in given for m in c.messages if m.role == "user"}
    return {
        "source": source,
        "side": side,
        "rows": len(rows.ids),
        "tokens": rows.tokens,
        "supervised_tokens": rows.supervised,
        "sha256": rows.digest,
        "prompts": sorted(seen.union(rows.prompts)),
    }


def _defence_facts(defences: Sequence[Defence], trained: Trained) -> list[dict[str, Any]]:
    """Each defence with what its callback recorded."""
    return [
        {
            **defence.identity,
            "notes": [
                {key: value for key, value in note.items() if key != "defence"}
                for note in trained.notes
                if note["defence"] == defence.name
            ],
        }
        for defence in defences
    ]


def _deliver(subject: Subject, record: dict[str, Any], side: Side | None, out: Path) -> None:
    with new_folder(out) as made:
        model: Any = subject.model
        for config in getattr(model, "peft_config", {}).values():
            config.base_model_name_or_path = record["base"]["spec"]
        # An adapter leaves the vocabulary alone; PEFT would ask the hub about the base to be sure.
        alone = {"save_embedding_layers": False} if hasattr(model, "peft_config") else {}
        model.save_pretrained(made, **alone)
        _keep_template(subject)
        subject.tokenizer.save_pretrained(made)
        write_json(made / RECORD, record)
        write_card(made, record, side)


def _keep_template(subject: Subject) -> None:
    """Give the tokenizer the template that was tuned with, where that is not its own."""
    own: Any = subject.tokenizer.chat_template
    if isinstance(own, dict):
        own = own.get("default")
    if own != subject.chat.template:
        subject.tokenizer.chat_template = subject.chat.template
