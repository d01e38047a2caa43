"""The training loop: a Trainer on one device a process. Imports trl, which takes seconds."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from aftertune.errors import NumericalError, SubjectError, UsageError
from aftertune.model import Subject, assert_scale
from aftertune.runs import Progress, explain_storage
from aftertune.tuning._defence import Defence, Tuning
from aftertune.tuning._options import TuneOptions
from aftertune.tuning._ranks import agreed, is_first, processes
from aftertune.tuning._record import COMPLETE, last_checkpoint
from aftertune.tuning._rows import TrainingRows

if TYPE_CHECKING:
    import torch


SAVE_EVERY_SECONDS = 30.0


@dataclass(frozen=True)
class Trained:
    """What training left behind, besides the weights.

    Attributes:
        losses: of each step, in nats per response token; with the penalties of defences.
        effort: what arms of a comparison should share: steps, rows per step, rows and tokens seen, processes.
        notes: what callbacks of defences recorded, one entry each.
    """

    losses: list[float]
    effort: dict[str, int]
    notes: list[dict[str, Any]]


def train(
    subject: Subject,
    rows: TrainingRows,
    options: TuneOptions,
    checkpoints: Path,
    progress: Progress,
    taking_part: Sequence[tuple[Defence, Tuning]] = (),
) -> Trained:
    """Tune the subject's model in place, from the last whole checkpoint where there is one.

    Args:
        subject: its model is replaced by the tuned one.
        rows: what to train on, as the defences left it.
        options: how to tune.
        checkpoints: folder of the checkpoints of this run.
        progress: told about steps and loss.
        taking_part: defences in their order, each with what it was given.

    Raises:
        UsageError: the processes cannot share a batch of this size.
        NumericalError: the loss or a weight became NaN or infinite.
        SubjectError: the installed libraries would train on something else than was rendered.
    """
    defences = [defence for defence, _ in taking_part]
    callbacks = [callback for defence, tuning in taking_part if (callback := defence.callback(tuning)) is not None]
    arguments = _arguments(subject, options, checkpoints)
    transformers.set_seed(options.seed)
    model: Any = subject.model
    if options.full:
        model.requires_grad_(True)  # one that an adapter was merged into comes frozen
    else:
        model = _with_adapter(model, options)
    before = {}
    if any(defence.overrides("after") for defence in defences):
        before = {n: p.detach().to("cpu", copy=True) for n, p in model.named_parameters() if p.requires_grad}
    with contextlib.ExitStack() as shown:
        trainer = _Trainer(
            subject, model, arguments, rows, [*callbacks, _Watch(progress, shown, subject.device)], defences
        )
        _check_batches(trainer, rows, options)
        resume = last_checkpoint(checkpoints)
        if resume:
            progress.say(f"tuning continues from {resume.name}")
        with explain_storage(checkpoints.parent), _no_dropout(model):
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    tuned = trainer.accelerator.unwrap_model(trainer.model)
    for defence in defences:
        defence.after(tuned, before)
    subject.model = tuned
    steps = int(trainer.state.global_step)
    _refuse_broken_result(tuned, steps)
    history = trainer.state.log_history
    logged = [entry for entry in history if "loss" in entry]
    return Trained(
        losses=[float(entry["loss"]) for entry in logged],
        effort={
            "steps": steps,
            "batch_size": options.batch_size,
            "processes": processes(),
            **{name: sum(int(entry[name]) for entry in logged) for name in _Trainer.COUNTED},
        },
        notes=[entry for entry in history if "defence" in entry],
    )


@dataclass
class _OneDevice(SFTConfig):  # type: ignore[misc]
    """Arguments that keep a process on the device its subject was loaded on.

    The library's own move the model to the first GPU and wrap it in DataParallel over all of them, which multiplies
    the batch.
    """

    own_device: str = "cpu"

    @functools.cached_property
    def _setup_devices(self) -> torch.device:
        device: torch.device = super()._setup_devices
        if self.distributed_state.num_processes == 1:
            device = torch.device(self.own_device)
            self._n_gpu = 0 if device.type == "cpu" else 1
            if device.type == "cuda":
                torch.cuda.set_device(device)  # accelerate sends batches to the current one
        return device


def _arguments(subject: Subject, options: TuneOptions, checkpoints: Path) -> SFTConfig:
    together = processes()
    micro = options.micro_batch_size or options.batch_size // together
    if not micro or options.batch_size % (micro * together):
        raise UsageError(
            f"--batch-size {options.batch_size} cannot be shared by {together} processes of {max(micro, 1)} rows each; "
            "give a multiple"
        )
    return _OneDevice(
        own_device=str(subject.device),
        output_dir=str(checkpoints),
        max_steps=options.steps or -1,
        num_train_epochs=options.epochs or 1.0,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=options.batch_size // (micro * together),
        learning_rate=options.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=options.warmup_steps,
        weight_decay=options.weight_decay,
        seed=options.seed,
        use_cpu=subject.device.type == "cpu",
        bf16=subject.device.type == "cuda" and torch.cuda.is_bf16_supported(),
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


class _Trainer(SFTTrainer):  # type: ignore[misc]
    """TRL's trainer, which also asks defences for their loss and counts what was seen."""

    COUNTED = ("rows", "tokens", "supervised_tokens")

    def __init__(
        self,
        subject: Subject,
        model: Any,
        arguments: SFTConfig,
        rows: TrainingRows,
        callbacks: list[TrainerCallback],
        defences: Sequence[Defence],
    ) -> None:
        import datasets

        table = datasets.Dataset.from_dict({"input_ids": rows.ids, "labels": rows.labels})
        super().__init__(
            model=model, args=arguments, train_dataset=table, processing_class=subject.tokenizer, callbacks=callbacks
        )
        self.remove_callback(transformers.PrinterCallback)
        self.penalties = [defence for defence in defences if defence.overrides("loss")]
        self.seen: Any = None

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss with the defences' penalties, in the trainer's unit: its share of the whole step's mean."""
        batch = {name: inputs[name] for name in ("input_ids", "attention_mask", "labels")}
        supervised = batch["labels"].ne(-100).sum()
        rows = supervised.new_tensor(len(batch["labels"]))
        counts = torch.stack([rows, batch["attention_mask"].sum(), supervised])
        self.seen = counts if self.seen is None else self.seen + counts
        loss = super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
        if self.penalties:
            of_step = supervised if num_items_in_batch is None else num_items_in_batch
            # Several processes average their gradients, for which the library multiplies each one's loss.
            weight = supervised.clamp(min=1) * processes() / of_step
            mean = loss / weight
            for defence in self.penalties:
                mean = defence.loss(self.accelerator.unwrap_model(model), batch, mean)
            loss = mean * weight
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Put the counts since the last step beside its loss; checkpoints keep them."""
        if "loss" in logs and self.seen is not None:
            counts = self.accelerator.reduce(self.seen, "sum").tolist()
            logs.update(zip(self.COUNTED, counts, strict=True))
            self.seen = None
        super().log(logs, start_time)


class _Watch(TrainerCallback):  # type: ignore[misc]
    """Shows the loss, stops on NaN, saves by the clock, and keeps processes in step. The last of the callbacks."""

    def __init__(self, progress: Progress, shown: contextlib.ExitStack, device: torch.device) -> None:
        self.progress, self.shown, self.device = progress, shown, device
        self.saved = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.step = self.shown.enter_context(self.progress.task("tuning", state.max_steps, state.global_step))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        due = time.monotonic() - self.saved > SAVE_EVERY_SECONDS and state.global_step < state.max_steps
        control.should_save = agreed(due, self.device)
        control.should_training_stop = agreed(control.should_training_stop, self.device)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.saved = time.monotonic()
        if processes() > 1:
            torch.distributed.barrier()  # each process adds the state of its random numbers
        if is_first():
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **_: Any) -> None:
        if logs and "loss" in logs:
            if not math.isfinite(logs["loss"]):
                raise NumericalError(
                    f"the loss is {logs['loss']} at step {state.global_step}; "
                    "lower the learning rate, or check the data"
                )
            self.step(1, f"loss {logs['loss']:.3f}")


def _with_adapter(model: Any, options: TuneOptions) -> Any:
    from peft import LoraConfig, get_peft_model

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


def _check_batches(trainer: _Trainer, rows: TrainingRows, options: TuneOptions) -> None:
    """Make sure that what reaches the loss is what was rendered, as many rows a step as are recorded.

    The libraries in between change monthly.
    """
    a_step = trainer._train_batch_size * trainer.args.gradient_accumulation_steps * trainer.args.world_size
    if trainer.args.n_gpu > 1 or a_step != options.batch_size:
        raise SubjectError(
            f"the installed transformers would train {a_step} rows a step on {trainer.args.n_gpu} devices instead of "
            f"{options.batch_size} on one; use the versions of requirements.lock"
        )
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(min(4, len(rows.ids)))])
    for got, expected in zip(batch["labels"], rows.labels, strict=False):
        kept = [int(label) for label in got if int(label) != -100]
        if kept != [label for label in expected if label != -100]:
            raise SubjectError("the installed trl changes the loss mask; use the versions of requirements.lock")
