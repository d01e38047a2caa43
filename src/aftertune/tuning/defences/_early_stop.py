"""Stop training once held-out rows are learned well enough: costs a few forward passes, and needs no idea of harm.

Rows of some prompts are kept out of training. After every few steps their loss is taken, and training ends at the
first that is low enough. The learning rate follows the schedule of the whole run until then. With one target, arms of
a comparison end at about the same task loss, which is how defences are compared fairly.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from aftertune.data import Conversation, prompt_key
from aftertune.errors import UsageError
from aftertune.tuning._defence import Defence, DefenceRow, Tuning
from aftertune.tuning._rows import response_nats, training_rows

if TYPE_CHECKING:
    from transformers import TrainerCallback


class EarlyStop(Defence):
    """Ends training at a held-out task loss."""

    name: ClassVar[str] = "early-stop"
    loss_at_most: float = Field(gt=0, description="Stop at this held-out loss, in nats per response token.")
    held_out: int = Field(16, ge=1, description="Rows to keep out of training; all rows of a prompt go together.")
    every: int = Field(1, ge=1, description="Steps between two looks at the held-out rows.")
    seed: int = Field(0, ge=0, description="Seed that chooses the held-out prompts.")

    def _split(self, rows: Sequence[Conversation]) -> tuple[list[Conversation], list[Conversation]]:
        """Rows to train on and rows held out; no prompt is in both."""
        prompts = list(dict.fromkeys(prompt_key(row.prompt) for row in rows))
        random.Random(self.seed).shuffle(prompts)
        held: set[str] = set()
        count = 0
        for prompt in prompts:
            if count >= self.held_out:
                break
            held.add(prompt)
            count += sum(prompt_key(row.prompt) == prompt for row in rows)
        kept = [row for row in rows if prompt_key(row.prompt) not in held]
        if not kept or count < self.held_out:
            raise UsageError(
                f"defence early-stop: holding {self.held_out} of {len(rows)} rows out leaves none to train on; "
                "lower held_out, or give more rows with different prompts"
            )
        return kept, [row for row in rows if prompt_key(row.prompt) in held]

    def prepare(self, tuning: Tuning) -> Sequence[Conversation]:
        """The rows that are not held out."""
        return self._split(tuning.rows)[0]

    def callback(self, tuning: Tuning) -> TrainerCallback:
        """Takes the loss after every few steps."""
        from transformers import TrainerCallback

        held = training_rows(tuning.subject, self._split(tuning.rows)[1])
        at_once = tuning.subject.max_batch_tokens
        name, target, every = self.name, self.loss_at_most, self.every

        class Look(TrainerCallback):  # type: ignore[misc]
            def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
                if state.global_step % every:
                    return
                loss = sum(response_nats(model, held, at_once)) / held.supervised
                state.log_history.append({"defence": name, "step": state.global_step, "held_out_loss": loss})
                if loss <= target:
                    control.should_training_stop = True

        return Look()


DEFENCE = DefenceRow(EarlyStop, "stop at a held-out task loss: the other free baseline", "Prechelt 1998", 20)
