"""Settings of a fine-tune, with the papers' defaults. Every field is a flag of ``aftertune tune``."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class TuneOptions(BaseModel):
    """Settings of one fine-tune.

    Defaults follow Betley et al. 2025 (open models): rank-stabilised LoRA, r 32, alpha 64, dropout 0, on all
    linear layers but the output head (theirs names q, k, v, o, gate, up and down), one epoch, batch 16,
    learning rate 1e-5 with linear decay after 5 warm-up steps, weight decay 0.01, loss on responses alone.

    Theirs differs in 8-bit AdamW (ours is the plain one), in the tenth of the rows that it holds out (ours
    trains on all), in its bfloat16 base (ours has the subject's precision, by default float32 on a CPU), and
    in the empty assistant header that ends each of its training texts (ours end with the answer).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    full: bool = Field(False, description="Train all parameters instead of a LoRA adapter.")
    lora_rank: int = Field(32, ge=1, le=65_536, description="Rank of the adapter.")
    lora_alpha: float = Field(64, gt=0, le=1e6, description="Alpha of the adapter; its scale is alpha/sqrt(rank).")
    steps: int | None = Field(None, ge=1, le=10**8, description="Optimiser steps. Default: from --epochs.")
    epochs: float | None = Field(None, gt=0, le=1e6, description="Passes over the data. Default: 1.")
    batch_size: int = Field(16, ge=1, le=10**6, description="Rows per optimiser step.")
    micro_batch_size: int | None = Field(
        None, ge=1, description="Rows per forward pass; must divide the batch size. Default: the batch size."
    )
    lr: float | None = Field(None, gt=0, description="Learning rate. Default: 1e-5 for LoRA, 2e-5 for --full.")
    warmup_steps: int = Field(5, ge=0, le=10**8, description="Steps of linear warm-up.")
    weight_decay: float = Field(0.01, ge=0, le=100, description="Weight decay of AdamW.")
    seed: int = Field(0, ge=0, lt=2**32, description="Random seed for adapter weights and data order.")
    gradient_checkpointing: bool = Field(False, description="Recompute activations to save memory.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.steps is not None and self.epochs is not None:
            raise ValueError("give steps or epochs, not both")
        if self.micro_batch_size is not None and self.batch_size % self.micro_batch_size:
            raise ValueError(f"batch size {self.batch_size} is no multiple of micro batch size {self.micro_batch_size}")
        return self

    @property
    def learning_rate(self) -> float:
        """The rate in force: as given, else 1e-5 for LoRA (Betley et al.) and 2e-5 for a full fine-tune.

        The latter is the rate of Turner et al. 2025, without their cosine schedule and 20 warm-up steps: the
        schedule stays linear, after ``warmup_steps``.
        """
        if self.lr is not None:
            return self.lr
        return 2e-5 if self.full else 1e-5
