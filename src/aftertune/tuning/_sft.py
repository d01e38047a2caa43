"""Supervised fine-tuning on PEFT and TRL: response-only loss, resumable, a record of all that went in."""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aftertune.data import Conversation, Side
from aftertune.errors import NumericalError, OutputError, StorageError, SubjectError
from aftertune.model import Subject
from aftertune.runs import (
    MANIFEST,
    Progress,
    RunFolder,
    Silent,
    explain_storage,
    new_folder,
    read_manifest,
    refuse_taken_folder,
    versions,
    write_json,
)
from aftertune.tuning._card import RECORD, read_record, write_card
from aftertune.tuning._options import TuneOptions
from aftertune.tuning._rows import TrainingRows, training_rows

SAVE_EVERY_SECONDS = 30.0
_COMPLETE = "complete"
_FAILED = "failed"


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
    source: str = "<memory>",
    side: Side | None = None,
    progress: Progress | None = None,
) -> Tuned:
    """Fine-tune ``subject`` and put the result into the new folder ``out``.

    Work in progress lives in ``OUT.partial``; a killed run goes on from its last checkpoint when called with
    the same arguments again, and ends with the same weights as an undisturbed one (on one device). The
    subject's model is used up: load it anew afterwards.

    Args:
        subject: what to tune; an adapter must be merged first.
        conversations: rows to tune on; the loss falls on assistant answers only.
        out: folder for the adapter (or model), card and record; must not exist, unless this very run made it.
        options: how to tune.
        source: what to call the data in the record.
        side: which answers of contrasts these are, if they are; "misaligned" marks a model organism.
        progress: told about steps and loss.

    Raises:
        OutputError: ``out`` exists and holds anything else.
        DataError: a row does not fit the context.
        NumericalError: the loss or a weight became NaN or infinite.
    """
    options = options or TuneOptions()
    progress = progress or Silent()
    if hasattr(subject.model, "peft_config"):
        raise SubjectError(f"{subject.identity.spec}: is an adapter; load it with merge to tune on top of it")
    rows = training_rows(subject, conversations)
    config = {
        "base": subject.identity.content,
        "data": rows.digest,
        "side": side,
        "options": options.model_dump(),
    }
    refuse_taken(out)
    if out.exists():
        record = read_record(out)
        if record and record.get("config") == config:
            return Tuned(out, record, reused=True)
        raise OutputError(_taken(out))
    work = RunFolder(_partial(out), "tune", config)
    _discard_failed(work)
    with work.locked():
        try:
            losses, steps = _train(subject, rows, options, work, progress)
        except StorageError:  # goes on once there is space
            raise
        except Exception:
            _fail(work)
            raise
        record = {
            "config": config,
            "base": subject.identity.as_dict(),
            "data": {
                "source": source,
                "side": side,
                "rows": len(rows.ids),
                "tokens": rows.tokens,
                "supervised_tokens": rows.supervised,
                "sha256": rows.digest,
                "prompts": list(rows.prompts),
            },
            "options": options.model_dump(),
            "learning_rate": options.learning_rate,
            "steps": steps,
            "losses": losses,
            "versions": versions(),
        }
        _deliver(subject, record, side, out)
    shutil.rmtree(work.path, ignore_errors=True)
    return Tuned(out, record, reused=False)


def refuse_taken(out: Path) -> None:
    """Refuse a place that cannot take a fine-tune, before a model is loaded; one of ours may be there.

    Raises:
        OutputError: something else is there, or its parent may not be written.
    """
    with explain_storage(out):
        if not out.exists():
            refuse_taken_folder(out)
        elif not read_record(out):
            raise OutputError(_taken(out))
        work = _partial(out)
        if work.is_symlink() or (work.exists() and not work.is_dir()):
            raise OutputError(f"{work}: is in the way of work in progress; remove it, or choose another --out")


def _partial(out: Path) -> Path:
    return out.with_name(out.name + ".partial")


def _taken(out: Path) -> str:
    return f"{out}: exists and holds something else; models are never overwritten, choose another --out"


def _fail(work: RunFolder) -> None:
    """Note that a run broke by itself, so that a command with other settings may take its place.

    Checkpoints stay for the same command, which may be given again where there is more memory.
    """
    with contextlib.suppress(OSError, OutputError):
        if _last_checkpoint(work.path / "checkpoints") is None:
            shutil.rmtree(work.path, ignore_errors=True)
        else:
            (work.path / _FAILED).touch()


def _discard_failed(work: RunFolder) -> None:
    """Remove what another configuration left in the place of ``work``, if it broke or got nowhere."""
    try:
        held = read_manifest(work.path) if (work.path / MANIFEST).exists() else None
    except OutputError:
        return  # told by `locked`
    if held is None or held["verb"] != "tune" or held["config"] == work.config:
        return
    got_nowhere = _last_checkpoint(work.path / "checkpoints") is None
    if (got_nowhere or (work.path / _FAILED).exists()) and not work.busy:
        shutil.rmtree(work.path, ignore_errors=True)


def _train(
    subject: Subject, rows: TrainingRows, options: TuneOptions, work: RunFolder, progress: Progress
) -> tuple[list[float], int]:
    import datasets
    import torch
    import transformers
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    transformers.set_seed(options.seed)
    model: Any = subject.model
    if options.full:
        model.requires_grad_(True)  # one that an adapter was merged into comes frozen
    else:
        model = _with_adapter(model, options)
    on_gpu = subject.device.type == "cuda"
    micro = options.micro_batch_size or options.batch_size
    arguments = SFTConfig(
        output_dir=str(work.path / "checkpoints"),
        max_steps=options.steps or -1,
        num_train_epochs=options.epochs or 1.0,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=options.batch_size // micro,
        learning_rate=options.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=options.warmup_steps,
        weight_decay=options.weight_decay,
        seed=options.seed,
        use_cpu=subject.device.type == "cpu",
        bf16=on_gpu and torch.cuda.is_bf16_supported(),
        gradient_checkpointing=options.gradient_checkpointing,
        max_length=None,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",  # the callback below saves by the clock
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": True},
    )

    class Watch(TrainerCallback):  # type: ignore[misc]
        """Shows the loss, stops on NaN, and saves by the clock."""

        def __init__(self) -> None:
            self.saved = time.monotonic()
            self.step: Any = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.context = progress.task("tuning", state.max_steps, state.global_step)
            self.step = self.context.__enter__()

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.context.__exit__(None, None, None)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if time.monotonic() - self.saved > SAVE_EVERY_SECONDS and state.global_step < state.max_steps:
                control.should_save = True

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.saved = time.monotonic()
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / _COMPLETE).touch()

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
            if logs and "loss" in logs:
                if not math.isfinite(logs["loss"]):
                    raise NumericalError(
                        f"the loss is {logs['loss']} at step {state.global_step}; "
                        "lower the learning rate, or check the data"
                    )
                self.step(1, f"loss {logs['loss']:.3f}")

    table = datasets.Dataset.from_dict({"input_ids": rows.ids, "labels": rows.labels})
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=table,
        processing_class=subject.tokenizer,
        callbacks=[Watch()],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    _check_first_batch(trainer, rows)
    resume = _last_checkpoint(work.path / "checkpoints")
    if resume:
        progress.say(f"tuning goes on from {resume.name}")
    with explain_storage(work.path), _no_dropout(model):
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    subject.model = trainer.accelerator.unwrap_model(trainer.model)
    _refuse_broken_result(subject.model, int(trainer.state.global_step))
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    return losses, int(trainer.state.global_step)


def _with_adapter(model: Any, options: TuneOptions) -> Any:
    from peft import LoraConfig, get_peft_model

    from aftertune.model import assert_scale

    adapted = get_peft_model(
        model,
        LoraConfig(
            r=options.lora_rank,
            lora_alpha=options.lora_alpha,
            use_rslora=True,
            lora_dropout=0.0,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        ),
    )
    assert_scale(adapted, "the new adapter")
    return adapted


@contextlib.contextmanager
def _no_dropout(model: Any) -> Iterator[None]:
    """Dropout 0, in the model's own layers too (GPT-2 has some): what is trained is what is measured."""
    import torch

    configs = {id(module.config): module.config for module in model.modules() if hasattr(module, "config")}
    owners: list[tuple[Any, str, float]] = [
        (owner, name, value)
        for owner in [*model.modules(), *configs.values()]
        for name, value in vars(owner).items()
        if isinstance(value, float) and ("drop" in name or (name == "p" and isinstance(owner, torch.nn.Dropout)))
    ]
    for owner, name, _ in owners:
        setattr(owner, name, 0.0)
    try:
        yield
    finally:
        for owner, name, value in owners:
            setattr(owner, name, value)


def _refuse_broken_result(model: Any, steps: int) -> None:
    """The loss of a step is taken before its update, so no loss shows what the last update did."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not bool(parameter.isfinite().all()):
            raise NumericalError(
                f"the weights hold NaN or infinity after step {steps} (first in {name}); "
                "lower the learning rate, or check the data"
            )


def _check_first_batch(trainer: Any, rows: TrainingRows) -> None:
    """Make sure that what reaches the loss is what was rendered: the library in between changes monthly."""
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(min(4, len(rows.ids)))])
    for got, expected in zip(batch["labels"], rows.labels, strict=False):
        kept = [int(label) for label in got if int(label) != -100]
        if kept != [label for label in expected if label != -100]:
            raise SubjectError("the installed trl changes the loss mask; use the versions of requirements.lock")


def _last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end."""
    whole = [path for path in folder.glob("checkpoint-*") if (path / _COMPLETE).exists()]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


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
