"""Folding an adapter into its base, in fp32, checked, with ends that were tied told apart where they must be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aftertune.errors import NumericalError, SubjectError
from aftertune.model._explain import explain_reading

if TYPE_CHECKING:
    import torch
    from torch import nn


def merge_adapter(
    model: Any, probe_ids: torch.Tensor, *, tolerance: float = 1e-2, where: object = "adapter"
) -> nn.Module:
    """Fold a PEFT adapter into its base, in fp32, and check the logits on ``probe_ids`` against unmerged.

    Where the adapter changes an end of a tie (an output head that is the embedding), the merged model has two
    matrices, and a config that says so.

    Args:
        model: a `peft.PeftModel`. It is used up.
        probe_ids: token ids, shape (batch, length).
        tolerance: largest logit difference allowed.
        where: what to call the adapter in complaints.

    Raises:
        SubjectError: the weights are not fp32 (a bf16 merge moves logits by more than some fine-tunes do), or the
            base has no place for what the adapter adds.
        NumericalError: merged and unmerged logits differ by more than the tolerance.
    """
    import torch

    precisions = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if precisions != {torch.float32}:
        raise SubjectError(
            f"{where}: merging needs fp32 weights, these are {', '.join(map(str, precisions))}; use --dtype float32"
        )
    with torch.no_grad():
        before = model(input_ids=probe_ids).logits
        _untie(model)
        with explain_reading(where, "cannot be merged into its base", "name its base instead, or another adapter"):
            merged = model.merge_and_unload(safe_merge=True)
        _settle_ties(merged)
        after = merged(input_ids=probe_ids).logits
    difference = float((before - after).abs().max())
    if not difference <= tolerance:
        raise NumericalError(f"{where}: merging the adapter moved logits by {difference:.3g} (allowed {tolerance:g})")
    return merged  # type: ignore[no-any-return]


def _untie(model: Any) -> None:
    """Give every wrapped end of a tie a matrix of its own, so that merging does not move the other end too."""
    import torch

    base = model.get_base_model()
    seen: dict[int, int] = {}
    for parameter in _ends(base):
        seen[id(parameter)] = seen.get(id(parameter), 0) + 1
    for module in (base.get_output_embeddings(), base.get_input_embeddings()):
        layer = module.get_base_layer() if hasattr(module, "get_base_layer") else None
        if layer is not None and seen.get(id(layer.weight), 0) > 1:
            seen[id(layer.weight)] -= 1
            layer.weight = torch.nn.Parameter(layer.weight.detach().clone(), requires_grad=False)


def _ends(base: Any) -> list[Any]:
    modules = filter(None, (base.get_input_embeddings(), base.get_output_embeddings()))
    inner = (module.get_base_layer() if hasattr(module, "get_base_layer") else module for module in modules)
    return [module.weight for module in inner if getattr(module, "weight", None) is not None]


def _settle_ties(merged: Any) -> None:
    """Let the config say what is: without this, saving drops one of two matrices, or loading ties them again."""
    ends = _ends(merged)
    if len(ends) == 2 and ends[0].data_ptr() != ends[1].data_ptr():
        for config in {id(c): c for c in (merged.config, merged.config.get_text_config())}.values():
            if getattr(config, "tie_word_embeddings", False):
                config.tie_word_embeddings = False
        merged.all_tied_weights_keys = merged.get_expanded_tied_weights_keys(all_submodels=True)
