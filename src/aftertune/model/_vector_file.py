"""Steering vectors as files: safetensors with one JSON header, named after a subject as ``SUBJECT+FILE``.

The tensors ``layer.N`` are fp32 of shape (width,). The header holds the format version, the model that the vector was
made on, the norm of each layer's part, how it was made, and a digest of all this and the tensors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aftertune.errors import OutputError, PatchError, UsageError
from aftertune.model._activations import refuse_misfit, steer
from aftertune.model._identity import content_digest, weights_digest
from aftertune.runs import Progress, explain_storage, require_regular, write_bytes

if TYPE_CHECKING:
    import torch

    from aftertune.model._identity import Identity

VECTOR_FORMAT = 1
VECTOR_HEADER = "aftertune_vector"


@dataclass(frozen=True, eq=False)
class SteeringVector:
    """A vector for the residual stream of one or several layers.

    Attributes:
        layers: by layer, from 0, what is added after it: fp32, shape (width,).
        base: the model it was made on: ``spec`` and ``weights_sha256``.
        about: how it was made, as JSON values.
        path: the file it was read from.
    """

    layers: Mapping[int, torch.Tensor]
    base: Mapping[str, str]
    about: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None

    @property
    def norms(self) -> dict[int, float]:
        """Euclidean norm of each layer's part."""
        return {layer: float(vector.double().norm()) for layer, vector in self.layers.items()}

    def scaled(self, factor: float) -> SteeringVector:
        """The same directions, ``factor`` times as long."""
        layers = {layer: vector * factor for layer, vector in self.layers.items()}
        return SteeringVector(layers, self.base, {**self.about, "factor": self.about.get("factor", 1.0) * factor})


def make_vector(
    layers: Mapping[int, torch.Tensor], identity: Identity, about: Mapping[str, Any] | None = None
) -> SteeringVector:
    """A vector made on the model of ``identity``.

    Raises:
        UsageError: it has no layer, a part that is no row of numbers, or parts of different widths.
    """
    plain = {int(layer): vector.detach().float().cpu().contiguous() for layer, vector in sorted(layers.items())}
    _refuse_unfit(plain)
    return SteeringVector(plain, {"spec": identity.spec, "weights_sha256": identity.weights_sha256}, dict(about or {}))


def _refuse_unfit(layers: Mapping[int, torch.Tensor]) -> None:
    if not layers or any(layer < 0 for layer in layers):
        raise UsageError("a steering vector needs a vector for at least one layer, counted from 0")
    if any(vector.ndim != 1 for vector in layers.values()) or len({len(vector) for vector in layers.values()}) > 1:
        raise UsageError("a steering vector holds one vector a layer, all of the model's width")
    if not all(bool(vector.isfinite().all()) for vector in layers.values()):
        raise UsageError("a steering vector holds NaN or infinity")


def write_vector(path: Path | str, vector: SteeringVector) -> None:
    """Store a vector; the same vector gives the same bytes. An existing file is never overwritten.

    Raises:
        OutputError: the file exists, or may not be written.
        StorageError: no space; nothing is left behind.
    """
    from safetensors.torch import save

    path = Path(path)
    _refuse_unfit(vector.layers)
    with explain_storage(path):
        taken = path.exists() or path.is_symlink()
    if taken:
        raise OutputError(f"{path}: exists; vectors are never overwritten, choose another --out")
    header = {
        "format": VECTOR_FORMAT,
        "base": dict(vector.base),
        "norms": {str(layer): norm for layer, norm in vector.norms.items()},
        "about": dict(vector.about),
    }
    header = json.loads(json.dumps(header, allow_nan=False))
    header["content"] = _content(header, vector.layers)
    tensors = {f"layer.{layer}": part.contiguous() for layer, part in vector.layers.items()}
    write_bytes(path, save(tensors, metadata={VECTOR_HEADER: json.dumps(header)}))


def is_vector(path: Path) -> bool:
    """Whether a file calls itself a steering vector; what is wrong with it otherwise is for its reader to say."""
    from safetensors import SafetensorError, safe_open

    require_regular(path)
    try:
        with safe_open(path, framework="pt") as file:
            return VECTOR_HEADER in (file.metadata() or {})
    except (OSError, SafetensorError, ValueError):
        return False


def read_vector(path: Path) -> SteeringVector:
    """Read a vector and check that it is whole.

    Raises:
        PatchError: missing, no vector, of another format, damaged or changed.
    """
    from safetensors import SafetensorError, safe_open

    require_regular(path)
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[VECTOR_HEADER])
            if header["format"] != VECTOR_FORMAT:
                found = str(header["format"])[:20]
                raise PatchError(f"{path}: has vector format {found}, this reads {VECTOR_FORMAT}; update aftertune")
            layers = {int(name.removeprefix("layer.")): file.get_tensor(name) for name in sorted(file.keys())}
            _refuse_unfit(layers)
            base = {key: str(header["base"][key]) for key in ("spec", "weights_sha256")}
            whole = header["content"] == _content(header, layers) and isinstance(header["about"], dict)
    except OSError as error:
        raise PatchError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (SafetensorError, UsageError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise PatchError(f"{path}: is no steering vector, or a damaged one ({type(error).__name__})") from None
    if not whole:
        raise PatchError(f"{path}: its content does not match its digest; the file was changed")
    return SteeringVector(dict(sorted(layers.items())), base, header["about"], path)


def fitting_vector(path: Path, config: Any) -> SteeringVector:
    """A stored vector, for a model with ``config``.

    Raises:
        PatchError: it is damaged, or was made for a model of other size.
    """
    vector = read_vector(path)
    try:
        refuse_misfit(config, vector.layers)
    except UsageError as error:
        raise PatchError(
            f"{path}: does not fit this model ({error}); name a model like the one it was made on"
        ) from None
    return vector


def attach_vector(model: Any, path: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Add a stored vector to the residual stream of ``model`` for as long as it lives.

    A vector may be added to another model than it was made on, such as a fine-tune of it, as long as layers and width
    fit; the record and a line of progress say so.

    Returns:
        Facts for the identity record, beside those of patches: ``file``, ``sha256``, ``operation`` ("steer"),
        ``layers`` and ``checked`` ("same weights" or "width and layers").

    Raises:
        PatchError: it is damaged, or was made for a model of other size.
    """
    vector = fitting_vector(path, model.config)
    same = weights_digest(model) == vector.base["weights_sha256"]
    steer(model, vector.layers)
    if not same and progress is not None:
        progress.say(
            f"{path}: was made on other weights ({vector.base['spec']}); only its width and layers were checked"
        )
    return {
        "file": path.name,
        "sha256": content_digest(path),
        "operation": "steer",
        "layers": list(vector.layers),
        "checked": "same weights" if same else "width and layers",
    }


def _content(header: Mapping[str, Any], layers: Mapping[int, torch.Tensor]) -> str:
    """SHA-256 over the header, but for the digest itself, and all tensors."""
    import torch

    stated = {key: value for key, value in header.items() if key != "content"}
    digest = hashlib.sha256(json.dumps(stated, sort_keys=True, allow_nan=False).encode())
    for layer in sorted(layers):
        part = layers[layer].contiguous()
        digest.update(f"{layer}:{part.dtype}:{tuple(part.shape)}".encode())
        digest.update(part.view(torch.uint8).numpy().data)
    return digest.hexdigest()
