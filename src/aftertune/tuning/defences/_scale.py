"""Scale the whole update down after training: costs nothing, and gives up the skill with the harm.

Every defence is held against the curve that this one draws: a defence helps if it keeps more of the skill at the
same harm.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from aftertune.tuning._defence import Defence, DefenceRow

if TYPE_CHECKING:
    import torch
    from torch import nn


class Scale(Defence):
    """Weights become base + share · (tuned - base)."""

    name: ClassVar[str] = "scale"
    share: float = Field(ge=0, le=1, description="Share of the update to keep; 0 gives the base, 1 changes nothing.")

    def after(self, model: nn.Module, base: Mapping[str, torch.Tensor]) -> None:
        """Move every trained parameter back towards the base; of an adapter B A, only B."""
        import torch

        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in base and ".lora_A." not in name:
                    before = base[name].to(parameter.device)
                    parameter.copy_(torch.lerp(before.float(), parameter.float(), self.share))


DEFENCE = DefenceRow(Scale, "keep only a share of the update: the free baseline", "Wortsman et al. 2022 (WiSE-FT)", 10)
