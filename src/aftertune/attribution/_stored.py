"""Gradient sums on disk, so that one pass serves many selections."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aftertune.attribution._gradients import GradientSums
from aftertune.errors import DataError
from aftertune.runs import explain_storage, require_regular

FORMAT = 1
CONVENTION = (
    "signed: sum over examples of dL/dW, absolute: sum over examples of |dL/dW|; L is an example's mean negative "
    "log-likelihood per response token; scores are made of them as the formula of each selection says"
)


def write_sums(path: Path, sums: GradientSums, about: Mapping[str, Any]) -> None:
    """Store gradient sums as safetensors; the file appears whole or not at all.

    Args:
        path: the file; replaced if it is there.
        sums: what to store.
        about: subject identity and data digests, compared by `read_sums`.

    Raises:
        OutputError: it may not be written there.
        StorageError: no space is left.
    """
    from safetensors.torch import save_file

    tensors = {f"signed:{name}": tensor.cpu().contiguous() for name, tensor in sums.signed.items()}
    tensors |= {f"absolute:{name}": tensor.cpu().contiguous() for name, tensor in sums.absolute.items()}
    header = {"format": FORMAT, "convention": CONVENTION, "losses": sums.losses, "about": dict(about)}
    scratch = path.with_name(f".{path.name}.partial")
    with explain_storage(path):
        try:
            scratch.touch()  # a place that cannot be written is told by the system, in its own words
            save_file(tensors, scratch, metadata={"format": "pt", "aftertune_sums": json.dumps(header)})
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)


def read_sums(path: Path, about: Mapping[str, Any] | None = None) -> GradientSums:
    """Stored gradient sums.

    Args:
        path: the file.
        about: what they must have been made of; not compared if left out.

    Raises:
        DataError: missing, damaged, of another format, or of another subject or data.
    """
    from safetensors import SafetensorError, safe_open

    require_regular(path)
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["aftertune_sums"])
            tensors: dict[str, dict[str, Any]] = {"signed": {}, "absolute": {}}
            for key in file.keys():  # noqa: SIM118 - safe_open is no mapping
                kind, _, name = key.partition(":")
                tensors[kind][name] = file.get_tensor(key)
        if header["format"] != FORMAT:
            raise DataError(f"holds scores of format {header['format']}, this reads {FORMAT}", path=path)
        found, losses = header["about"], [float(loss) for loss in header["losses"]]
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error})", path=path) from None
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"holds no scores, or is damaged ({type(error).__name__})", path=path) from None
    if about is not None and found != json.loads(json.dumps(dict(about))):
        raise DataError("holds scores of another subject or other data; name another file", path=path)
    return GradientSums(tensors["signed"], tensors["absolute"], losses)
