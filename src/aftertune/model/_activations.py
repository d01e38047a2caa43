"""The residual stream: reading it after each layer, and adding vectors to it while a model runs.

Both work through hooks on the decoder's layers, so they hold for scoring with shared prompts, for sampling and for
gradients alike. Layers count from 0; layer ``i`` means the stream after the ``i``-th layer, which is
``hidden_states[i + 1]`` of transformers, but before the final norm for the last one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from aftertune.errors import MemoryExhausted, NumericalError, SubjectError, UsageError
from aftertune.model._libraries import is_shortage
from aftertune.model._prompt_batches import PromptAnswers, plan_batches

if TYPE_CHECKING:
    import torch
    from torch import nn

    from aftertune.model._subject import Subject

Positions = Literal["response", "prompt", "prompt_end"]


@dataclass(frozen=True, eq=False)
class Activations:
    """The residual stream of some rows at some positions.

    Attributes:
        layers: which layers were read.
        values: fp32 on the CPU, shape (layers, positions of all rows, width), rows in the order given.
        owner: int64, shape (positions of all rows,): the row that a position belongs to.
    """

    layers: tuple[int, ...]
    values: torch.Tensor
    owner: torch.Tensor

    def row_means(self) -> torch.Tensor:
        """The mean over each row's positions, shape (layers, rows, width)."""
        import torch

        counts = torch.bincount(self.owner)
        sums = self.values.new_zeros(len(self.layers), len(counts), self.values.shape[-1])
        return sums.index_add(1, self.owner, self.values) / counts[:, None]


def decoder_layers(model: Any) -> Sequence[nn.Module]:
    """The decoder's layers in order, those of a model beneath an adapter too.

    Raises:
        SubjectError: the architecture has no plain list of layers.
    """
    from torch import nn

    count = int(model.config.get_text_config().num_hidden_layers)
    for module in _decoder(model).modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    raise SubjectError(
        f"{type(model).__name__}: has no list of {count} decoder layers; its residual stream cannot be read or steered"
    )


def _decoder(model: Any) -> Any:
    return (model.get_base_model() if hasattr(model, "get_base_model") else model).base_model


def _stream(output: Any) -> torch.Tensor:
    """What a layer returns as the residual stream; some return it first of several things."""
    stream: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return stream


def _refuse_absent(layers: Sequence[int], there: int) -> None:
    outside = [layer for layer in layers if not 0 <= layer < there]
    if outside:
        raise UsageError(f"layer {outside[0]} does not exist; the model has layers 0 to {there - 1}")


def capture(
    subject: Subject, rows: Sequence[PromptAnswers], layers: Sequence[int], positions: Positions = "response"
) -> Activations:
    """The residual stream after ``layers``, at the chosen positions of every row.

    Args:
        subject: whose activations.
        rows: prompts with one response each; the response may be left out where only the prompt is read.
        layers: from 0; negative numbers are not taken.
        positions: "response" for every token of the response, "prompt" for every token of the prompt, "prompt_end" for
            the last token of the prompt.

    Raises:
        UsageError: no such layer or positions, a row is too long, or has not the response that is asked for.
        SubjectError: see `decoder_layers`.
        NumericalError: an activation is NaN or infinite.
        MemoryExhausted: a single row does not fit in memory.
    """
    import torch

    if positions not in get_args(Positions):
        raise UsageError(f"positions {positions!r}: choose {', '.join(get_args(Positions))}")
    _refuse_absent(layers, len(decoder_layers(subject.model)))
    for number, row in enumerate(rows, 1):
        if len(row.responses) > 1 or not row.prompt or (positions == "response" and not any(row.responses)):
            raise UsageError(f"row {number}: activations are read from a prompt with one response")
        if row.depth > subject.context:
            raise UsageError(f"row {number}: takes {row.depth} tokens, the context holds {subject.context}")
    found: dict[int, torch.Tensor] = {}
    pending = plan_batches(rows, subject.max_batch_tokens)
    while pending:
        batch = pending.pop(0)
        try:
            read = _read(subject, [rows[i] for i in batch], layers, positions)
        except (MemoryError, RuntimeError) as error:
            if not is_shortage(error):
                raise
            read = None
        if read is not None:
            found.update(zip(batch, read, strict=True))
            continue
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(batch) == 1:
            raise MemoryExhausted(f"{subject.identity.spec}: out of memory on a row of {rows[batch[0]].depth} tokens")
        middle = len(batch) // 2
        pending[:0] = [batch[:middle], batch[middle:]]
    values = [found[i] for i in range(len(rows))]
    owner = torch.tensor([i for i, value in enumerate(values) for _ in range(value.shape[1])], dtype=torch.int64)
    width = int(subject.model.config.get_text_config().hidden_size)
    together = torch.cat(values, 1) if values else torch.zeros(len(layers), 0, width)
    return Activations(tuple(layers), together, owner)


def _read(
    subject: Subject, rows: Sequence[PromptAnswers], layers: Sequence[int], positions: Positions
) -> list[torch.Tensor]:
    """Per row, fp32 values of shape (layers, its positions, width), from one pass of the decoder without the head."""
    import torch

    texts = [row.prompt + (row.responses[0] if row.responses else ()) for row in rows]
    ids = torch.zeros(len(rows), max(map(len, texts)), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for number, text in enumerate(texts):
        ids[number, : len(text)] = torch.tensor(text)
        mask[number, : len(text)] = 1
    spans = [_span(row, len(text), positions) for row, text in zip(rows, texts, strict=True)]
    kept: dict[int, list[torch.Tensor]] = {}

    def keep(layer: int) -> Any:
        def hook(module: Any, args: Any, output: Any) -> None:
            stream = _stream(output).detach()
            kept[layer] = [stream[number, span].float().cpu() for number, span in enumerate(spans)]

        return hook

    modules = decoder_layers(subject.model)
    with contextlib.ExitStack() as hooks, torch.no_grad():
        for layer in set(layers):
            hooks.callback(modules[layer].register_forward_hook(keep(layer)).remove)
        _decoder(subject.model)(
            input_ids=ids.to(subject.device), attention_mask=mask.to(subject.device), use_cache=False
        )
    read = [torch.stack([kept[layer][number] for layer in layers]) for number in range(len(rows))]
    if not all(bool(values.isfinite().all()) for values in read):
        raise NumericalError(f"{subject.identity.spec}: an activation is NaN or infinite; use --dtype float32")
    return read


def _span(row: PromptAnswers, end: int, positions: Positions) -> slice:
    start = len(row.prompt)
    if positions == "response":
        return slice(start, end)
    return slice(0, start) if positions == "prompt" else slice(start - 1, start)


class _Addition:
    """A forward hook that adds a vector to what a layer returns; `steering` finds it by its class."""

    def __init__(self, vector: torch.Tensor) -> None:
        self.vector = vector

    def __call__(self, module: Any, args: Any, output: Any) -> Any:
        stream = _stream(output)
        added = stream + self.vector.to(stream.device, stream.dtype)
        return (added, *output[1:]) if isinstance(output, tuple) else added


def refuse_misfit(config: Any, vectors: Mapping[int, torch.Tensor]) -> None:
    """Refuse vectors for a model of another size than ``config`` says.

    Raises:
        UsageError: see `steer`.
    """
    text = config.get_text_config()
    _refuse_absent(list(vectors), int(text.num_hidden_layers))
    width = int(text.hidden_size)
    for layer, vector in vectors.items():
        if tuple(vector.shape) != (width,):
            raise UsageError(f"layer {layer}: the vector has shape {tuple(vector.shape)}, the model needs ({width},)")
        if not bool(vector.isfinite().all()):
            raise UsageError(f"layer {layer}: the vector holds NaN or infinity")


def steer(model: Any, vectors: Mapping[int, torch.Tensor]) -> contextlib.ExitStack:
    """Add vectors to the residual stream of ``model`` from now on; closing what is returned ends it.

    Args:
        model: a causal language model in memory.
        vectors: by layer, each of shape (width,); one that requires a gradient gets it.

    Raises:
        UsageError: no such layer, or a vector of another width or with values that are no numbers.
        SubjectError: see `decoder_layers`.
    """
    modules = decoder_layers(model)
    refuse_misfit(model.config, vectors)
    hooks = contextlib.ExitStack()
    for layer, vector in vectors.items():
        hooks.callback(modules[layer].register_forward_hook(_Addition(vector)).remove)
    return hooks


@contextlib.contextmanager
def steered(subject: Subject, vectors: Mapping[int, torch.Tensor]) -> Iterator[Subject]:
    """The subject with vectors added to its residual stream, at every position, for the length of a block.

    Blocks nest: vectors of inner ones are added to those of outer ones. Lay out a `PromptBatches` inside the block, as
    it keeps what prompts have in common. The identity of the subject stays that of the model without the vectors.

    Args:
        subject: whose model runs otherwise in the block.
        vectors: see `steer`.
    """
    with steer(subject.model, vectors):
        yield subject


def steering(model: Any) -> list[tuple[int, torch.Tensor]]:
    """The vectors added to a model's residual stream at the moment, by layer, in the order they act."""
    if not any(isinstance(hook, _Addition) for module in model.modules() for hook in module._forward_hooks.values()):
        return []
    return [
        (layer, hook.vector)
        for layer, module in enumerate(decoder_layers(model))
        for hook in module._forward_hooks.values()
        if isinstance(hook, _Addition)
    ]
