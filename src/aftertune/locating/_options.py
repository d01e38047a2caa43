"""What a search for weights is asked to do: units, scores with their formulas, fractions, budget."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from aftertune.attribution import Unit, unit_named
from aftertune.errors import UsageError

ScoreName = Literal[
    "auto",
    "integrated-gradients",
    "ablation",
    "snip-guarded",
    "snip-contrast",
    "snip-keep",
    "snip",
]
FORMULAS: dict[str, str] = {
    "integrated-gradients": "the part in the rise of the harm loss as 64 units, found among first-order proposals, "
    "fade out together, less the larger part in the rises of twins and keep set",
    "ablation": "the rise of the harm loss when the unit alone is taken out, less the larger rise of the losses of "
    "twins and keep set, and less the part of the keep loss's rise above the budget; for units found among "
    "first-order proposals",
    "snip-keep": "-w * (mean g over the harm set - mean g over the keep set)",
    "snip-guarded": "the snip-contrast score, less |w| * mean |g| over the keep set (for units: mean |sum of w * g|)",
    "snip-contrast": "-w * (mean g over the harm set - average of the mean g over its aligned twins and the keep set)",
    "snip": "-w * mean g over the harm set",
}
SIGN = "g is the gradient of the mean negative log-likelihood per response token; the highest scores are chosen"
FORMER_SCORES: dict[str, ScoreName] = {
    "integrated": "integrated-gradients",
    "verified": "ablation",
    "guarded": "snip-guarded",
    "contrastive": "snip-contrast",
    "against_keep": "snip-keep",
    "signed": "snip",
}
"""Names of earlier versions: still accepted, and found in stored patches and documents."""
_RIVALS = ("absolute", "wanda", "magnitude", "random")


class LocateOptions(BaseModel):
    """Settings of one search for weights.

    By default several contrastive scores are tried over neurons and heads, and the selection part decides: no single
    one did best on planted truth and on untouched models alike (benchmarks/README.md, "Planted truth"). Orgad et al.
    2026 choose single weights by signed SNIP and protect the top of a keep set: ``unit="weight", score="snip"`` with
    both fractions given does that.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    unit: Unit = Field(
        "neuron+head",
        description="what is chosen as a whole: neurons, attention heads, both, single weights, or singular vectors "
        "of any matrix",
    )
    score: ScoreName = Field(
        "auto",
        description="how units are ranked; auto tries several SNIP scores (attribution patching, for units) and keeps "
        "the best",
    )
    prune_fraction: float | None = Field(
        None, gt=0, le=1, description="share of the units to choose (default: searched within the budget)"
    )
    keep_fraction: float | None = Field(
        None, ge=0, lt=1, description="share of the units that the keep set protects (default: depends on the score)"
    )
    operation: Literal["zero", "scale"] = Field("zero", description="what is done to the chosen weights")
    factor: float = Field(0.0, ge=-1e6, le=1e6, description="for operation scale: multiply the weights by this")
    budget: float = Field(0.05, gt=0, le=1e6, description="benign loss the search may cost, in nats per token")
    limit: int | None = Field(None, ge=4, le=10**9, description="use at most this many examples of each part")
    seed: int = Field(0, ge=0, lt=2**32, description="random seed for the data split and the random controls")

    @field_validator("unit", mode="before")
    @classmethod
    def _unit_today(cls, value: Any) -> Any:
        try:
            return unit_named(value) if isinstance(value, str) else value
        except UsageError:
            return value  # the type complains in its own words

    @field_validator("score", mode="before")
    @classmethod
    def _score_today(cls, value: Any) -> Any:
        if value in _RIVALS:
            raise ValueError(f"score '{value}' is only measured by `aftertune study planted`; choose another score")
        return FORMER_SCORES.get(value, value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.score in ("integrated-gradients", "ablation") and self.unit == "weight":
            raise ValueError(f"score '{self.score}' ranks whole units; choose another unit than 'weight'")
        if self.operation == "zero" and self.factor:
            raise ValueError("a factor only applies to operation 'scale'")
        return self
