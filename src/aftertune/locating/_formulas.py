"""What a patch and a report say of a score."""

from __future__ import annotations

FORMULAS = {
    "integrated": "the part in the rise of the harm loss as 64 units, found among first-order proposals, fade out "
    "together, less the larger part in the rises of twins and keep set",
    "verified": "the rise of the harm loss when the unit alone is taken out, less the larger rise of the losses of "
    "twins and keep set and less what the latter rises beyond the budget; of units found among first-order proposals",
    "against_keep": "-w * (mean g over the harm set - mean g over the keep set)",
    "guarded": "the contrastive score, less |w| * mean |g| over the keep set (for units: mean |sum of w * g|)",
    "contrastive": "-w * (mean g over the harm set - average of the mean g over its aligned twins and the keep set)",
    "signed": "-w * mean g over the harm set",
    "absolute": "|w| * mean |g| over the harm set",
    "wanda": "|w| * norm of its input over the harm set",
    "magnitude": "|w|",
    "random": "random numbers",
}
SIGN = "g is the gradient of the mean negative log-likelihood per response token; the highest scores are chosen"
