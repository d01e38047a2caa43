"""Who a subject is: where it came from and a digest of its weights."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Identity:
    """Recorded with everything a subject produced.

    Attributes:
        spec: the string it was named by.
        kind: "folder", "adapter", "gguf", "hub", "embedded" or "live".
        source: the resolved folder, file or hub id.
        revision: the hub commit of the model (of the base, for an adapter), where there is one.
        base: for an adapter, the spec of the model it sits on.
        adapter: for an adapter, its method and its weights' SHA-256; for LoRA rank, alpha and the asserted scale.
        weights_sha256: digest over names, shapes, types and values of all tensors.
        template_sha256: digest of the chat template.
        parameters: number of parameters.
        dtype: precision of the weights as run.
        patches: of a patched subject, the patches in force in their order: file name, SHA-256 of the file, operation,
            how many weights it touches, and how far it could be checked.
    """

    spec: str
    kind: str
    source: str
    weights_sha256: str
    template_sha256: str
    parameters: int
    dtype: str
    revision: str | None = None
    base: str | None = None
    adapter: dict[str, Any] | None = None
    patches: list[dict[str, Any]] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def weights_digest(model: nn.Module) -> str:
    """SHA-256 (hex) over the sorted names, shapes, types and bytes of a model's tensors.

    Tied tensors count once, under the first of their names. Tensors are read one at a time.
    """
    import torch

    digest = hashlib.sha256()
    seen: set[tuple[int, tuple[int, ...]]] = set()
    for name, tensor in sorted(model.state_dict().items()):
        key = (tensor.data_ptr(), tuple(tensor.shape))
        if tensor.device.type != "meta" and tensor.numel() and key in seen:
            continue
        seen.add(key)
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        if tensor.device.type != "meta":
            flat = tensor.detach().contiguous().view(-1).cpu()
            digest.update(memoryview(flat.view(torch.uint8).numpy()))
    return digest.hexdigest()
