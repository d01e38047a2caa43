r"""A defence in one file: learn the task, but stay close to the base model on its answers.

    aftertune --extension examples/extending/stay_close.py tune smollm2 tune/money --answers misaligned \
      --steps 10 --batch-size 8 --lr 5e-4 --warmup-steps 0 --defence stay-close:strength=1 --out close

The penalty is the KL divergence from the base to the tuned model on the answers' tokens. No second model is needed:
without its LoRA adapter, the model in training is the base. Each step costs one more forward pass with the adapter
and one without.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from aftertune.data import Conversation
from aftertune.errors import UsageError
from aftertune.tuning import Defence, DefenceRow, Tuning

if TYPE_CHECKING:
    import torch


class StayClose(Defence):
    """Adds strength · KL(base ‖ tuned), in nats per response token, to the loss."""

    # What --defence calls it. Fields with bounds are its settings: they are checked, recorded and part of the run.
    name: ClassVar[str] = "stay-close"
    strength: float = Field(1.0, ge=0, description="Weight of the divergence beside the task's loss.")

    # A hook that is overridden takes part. This one sees the rows before training, so it can also refuse.
    def prepare(self, tuning: Tuning) -> Sequence[Conversation]:
        """The rows as they are; without an adapter there is no base to compare with."""
        if tuning.options.full:
            raise UsageError("defence stay-close: needs a LoRA adapter; leave --full out")
        return tuning.rows

    # The loss of one forward pass: `loss` is the mean over the batch's supervised tokens, and so is what is added.
    def loss(self, model: Any, batch: Mapping[str, torch.Tensor], loss: torch.Tensor) -> torch.Tensor:
        """The task's loss with the penalty."""
        import torch  # here and not above: listing defences should stay quick

        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        answers = batch["labels"][:, 1:] != -100  # the logits at a position predict the next token
        tuned = model(**inputs).logits[:, :-1][answers].log_softmax(-1)
        with torch.no_grad(), model.disable_adapter():
            base = model(**inputs).logits[:, :-1][answers].log_softmax(-1)
        divergence: torch.Tensor = (base.exp() * (base - tuned)).sum(-1).mean()
        return loss + self.strength * divergence


# The row that registers it. `rank` (default 50) would move it up or down in lists.
DEFENCE = DefenceRow(StayClose, "penalise the divergence from the base on answers", source="Kaczér et al. 2025")
