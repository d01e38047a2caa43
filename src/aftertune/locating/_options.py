"""What `locate` is told; every field is also a flag."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

ScoreName = Literal[
    "auto",
    "integrated",
    "verified",
    "guarded",
    "contrastive",
    "against_keep",
    "signed",
    "absolute",
    "wanda",
    "magnitude",
    "random",
]


class LocateOptions(BaseModel):
    """Settings of one search for weights.

    By default several contrastive scores are tried over neurons and heads, and the selection part decides: no single
    one did best on planted truth and on untouched models alike (benchmarks/README.md, "Planted truth"). Orgad et al.
    2026 choose single weights by the signed score and protect the top of a keep set: ``unit="weight",
    score="signed"`` with both fractions given does that.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    unit: Literal["component", "neuron", "head", "weight", "direction"] = Field(
        "component",
        description="what is chosen as a whole: neurons and heads, either, weights, or singular directions",
    )
    score: ScoreName = Field("auto", description="how units are ranked; auto tries the contrastive kinds in turn")
    scope: Literal["global", "matrix", "row"] = Field("global", description="rank over the model, a matrix or a row")
    prune_fraction: float | None = Field(
        None, gt=0, le=1, description="share of the units to choose (default: searched within the budget)"
    )
    keep_fraction: float | None = Field(
        None, ge=0, lt=1, description="share of the units the keep set protects (default: by the score)"
    )
    operation: Literal["zero", "scale"] = Field("zero", description="what is done to the chosen weights")
    factor: float = Field(0.0, ge=-1e6, le=1e6, description="for scale: what they are multiplied by")
    budget: float = Field(0.05, gt=0, le=1e6, description="benign loss the search may cost, nats per token")
    limit: int | None = Field(None, ge=4, le=10**9, description="examples of each part at most (default: all)")
    seed: int = Field(0, ge=0, lt=2**32, description="random seed for the data split and the random controls")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.score in ("integrated", "verified") and self.unit == "weight":
            raise ValueError(f"score '{self.score}' looks at whole units; take another unit than 'weight'")
        if self.unit == "direction" and self.score in ("wanda", "magnitude", "random"):
            raise ValueError(f"score '{self.score}' is of single weights; take another score for unit 'direction'")
        if self.scope == "row" and self.unit != "weight":
            raise ValueError("scope 'row' chooses single weights; take unit 'weight', or another scope")
        if self.operation == "zero" and self.factor:
            raise ValueError("a factor goes with operation 'scale'")
        return self
