"""What can be changed about a fine-tune to keep a model safe: four hooks, typed settings, one row a file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from aftertune._registered import foreign_sha256, row_named, rows
from aftertune.data import Conversation
from aftertune.errors import UsageError
from aftertune.model import Subject
from aftertune.tuning._options import TuneOptions

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import TrainerCallback

_ROOM, _KIND = "tuning.defences", "DEFENCE"


@dataclass(frozen=True)
class Tuning:
    """The fine-tune that a defence takes part in.

    Attributes:
        subject: the model before tuning.
        rows: the rows, as the defences named before this one left them.
        options: how it is tuned.
    """

    subject: Subject
    rows: Sequence[Conversation]
    options: TuneOptions


class Defence(BaseModel):
    """A change to tuning, or after it, that keeps safety.

    A subclass declares its settings as fields and overrides the hooks it needs; those left alone do nothing. The
    settings are its identity: they are recorded with the run, and a run goes on only under the same ones. Several
    defences of one fine-tune are applied in the order given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    name: ClassVar[str]

    def prepare(self, tuning: Tuning) -> Sequence[Conversation]:
        """The rows to train on. Called once before training, and again when a killed run continues."""
        return tuning.rows

    def loss(self, model: nn.Module, batch: Mapping[str, torch.Tensor], loss: torch.Tensor) -> torch.Tensor:
        """The loss of one forward pass.

        Args:
            model: the model in training; `peft`'s `disable_adapter` shows the base beneath a LoRA adapter.
            batch: ``input_ids``, ``attention_mask`` and ``labels`` of shape (rows, tokens); -100 carries no loss.
            loss: mean nats per supervised token of this batch.

        Returns:
            A loss in the same unit. Batches are weighed by their supervised tokens, so that the result does not
            depend on how many forward passes a step is cut into.
        """
        return loss

    def callback(self, tuning: Tuning) -> TrainerCallback | None:
        """Something that follows the trainer's steps, or None.

        To record numbers, append ``{"defence": name, "step": …, …}`` to ``state.log_history``: it is kept over kills.
        """
        return None

    def after(self, model: nn.Module, base: Mapping[str, torch.Tensor]) -> None:
        """Change the tuned weights in place, before they are saved.

        Args:
            model: the tuned model, with its adapter beside it unless all parameters were trained.
            base: every trained parameter before training, by name, on the CPU. An adapter's B is zero there.
        """

    def overrides(self, hook: str) -> bool:
        """Whether this defence does anything at a hook."""
        return getattr(type(self), hook) is not getattr(Defence, hook)

    @property
    def identity(self) -> dict[str, Any]:
        """Name, settings, and the digest of the code where it is not ours."""
        code = foreign_sha256(type(self))
        return {"name": self.name, "settings": self.model_dump(mode="json"), **({"sha256": code} if code else {})}

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """One with these settings; text is read as numbers where a setting is one.

        Raises:
            UsageError: a setting is unknown, missing or out of bounds.
        """
        try:
            return cls(**settings)
        except ValidationError as error:
            first = error.errors()[0]
            where = "".join(f"{part}: " for part in first["loc"])
            known = f"; its settings are {', '.join(cls.model_fields)}" if first["type"] == "extra_forbidden" else ""
            raise UsageError(
                f"defence {cls.name}: {where}{first['msg'].removeprefix('Value error, ')}{known}"
            ) from None


@dataclass(frozen=True)
class DefenceRow:
    """The row that a defence's file exports as ``DEFENCE``.

    Attributes:
        make: the defence; its fields are the settings.
        about: one line for lists.
        source: who proposed it.
        rank: where it stands in lists.
    """

    make: type[Defence]
    about: str
    source: str = ""
    rank: int = 50

    @property
    def name(self) -> str:
        """What ``--defence`` calls it."""
        return self.make.name


def defences() -> tuple[DefenceRow, ...]:
    """All defences: ours and those of extensions.

    Raises:
        DataError: an extension is broken, see `aftertune._registered.rows`.
    """
    return rows(_ROOM, _KIND, DefenceRow)


def parse_defence(text: str) -> Defence:
    """The defence that ``NAME`` or ``NAME:key=value,key=value`` names. A value may hold commas and colons.

    Raises:
        UsageError: there is no such defence, or its settings are wrong.
    """
    name, _, rest = text.partition(":")
    row = row_named(_ROOM, _KIND, DefenceRow, name)
    settings: dict[str, str] = {}
    for part in re.split(r",(?=\w+=)", rest) if rest else []:
        key, equals, value = part.partition("=")
        if not equals or key in settings:
            raise UsageError(f"--defence {text}: write settings as NAME:key=value,key=value, each key once")
        settings[key] = value
    return row.make.of(settings)
