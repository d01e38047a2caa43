"""Where it lives: scores of weights and units, selections, patches."""

from aftertune.attribution._gradients import GradientSums, gradient_sums

__all__ = ["GradientSums", "gradient_sums"]
