"""Texts as vectors, from every layer of a BERT encoder: one text at a time, so that no batch can change them."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aftertune.errors import SubjectError
from aftertune.judges._minilm_files import TOKENIZER, WEIGHTS
from aftertune.model import no_bars
from aftertune.runs import file_digest

Floats = NDArray[np.float64]

# all-MiniLM-L6-v2 was trained on texts of at most 128 pieces, two of them the marks at both ends.
WINDOW = 126
MOST_WINDOWS = 64


class Encoder:
    """A BERT encoder with mean pooling.

    Args:
        folder: with ``config.json``, ``tokenizer.json`` and ``model.safetensors``.

    Attributes:
        digests: SHA-256 of weights and tokenizer, by file name.

    Raises:
        SubjectError: the files cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer
        from transformers import AutoModel

        try:
            with no_bars():
                self._model: Any = AutoModel.from_pretrained(
                    str(folder), dtype=torch.float32, local_files_only=True, use_safetensors=True
                ).eval()
            self._tokenizer: Any = Tokenizer.from_file(str(folder / TOKENIZER))
        except Exception as error:  # libraries raise errors of their own, down to bare `Exception`
            why = next(iter(str(error).splitlines()), type(error).__name__)
            raise SubjectError(f"{folder}: cannot be loaded as an embedding model ({why}); fetch it again") from error
        # The file asks for 128 pieces, padded.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._first, self._end = (self._tokenizer.token_to_id(mark) for mark in ("[CLS]", "[SEP]"))
        self.digests = {name: file_digest(folder / name) for name in (WEIGHTS, TOKENIZER)}
        self.layers = lru_cache(maxsize=1024)(self._layers)

    def _layers(self, text: str) -> Floats:
        """One vector of length 1 for each layer: the mean of its states over the text.

        A text longer than a window is cut into windows of equal length, each encoded alone; the mean is over all of
        their states. Of very long texts the first 64 windows are read.

        Returns:
            Array (layers + 1, width): after the embeddings, then after each layer. The last is the usual sentence
            embedding.
        """
        ids = self._tokenizer.encode(text.encode("utf-8", "replace").decode(), add_special_tokens=False).ids
        ids = ids[: WINDOW * MOST_WINDOWS]
        size = math.ceil(len(ids) / max(1, math.ceil(len(ids) / WINDOW)))
        sums: Floats = np.zeros((self._model.config.num_hidden_layers + 1, self._model.config.hidden_size))
        for start in range(0, max(len(ids), 1), max(size, 1)):
            window = torch.tensor([[self._first, *ids[start : start + size], self._end]])
            with torch.inference_mode():
                states = self._model(
                    input_ids=window, attention_mask=torch.ones_like(window), output_hidden_states=True
                ).hidden_states
            sums += torch.stack([state[0].double().sum(0) for state in states]).numpy()
        # A mean and a sum have the same direction.
        return np.asarray(sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12))
