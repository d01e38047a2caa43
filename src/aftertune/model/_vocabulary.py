"""Tokens against the embedding: no id may lie beyond its rows, which would crash a run or read other memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aftertune.data import Message
from aftertune.errors import SubjectError, spelled_out

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from aftertune.model._chat import Chat


def embedding_rows(model: Any) -> int:
    """How many tokens a model's input embedding knows."""
    return int(model.get_input_embeddings().weight.shape[0])


def refuse_foreign_tokens(chat: Chat, rows: int, name: str) -> None:
    """Refuse a tokenizer whose ordinary vocabulary, or whose chat template, goes beyond an embedding of ``rows`` rows.

    Added tokens beyond it that no template prints are let be (some text models have such for pictures), but
    ``chat`` refuses them in texts from here on.

    Raises:
        SubjectError: naming the token and both sizes.
    """
    tokenizer = chat.tokenizer
    chat.rows = rows
    vocabulary = tokenizer.get_vocab()
    if max(vocabulary.values(), default=-1) < rows:  # not its length: ids may have gaps
        return
    added = set(tokenizer.added_tokens_decoder)
    highest = max((index for index in vocabulary.values() if index not in added), default=-1)
    if highest >= rows:
        raise _beyond(tokenizer, highest, rows, name)
    ask = [Message("user", "Hello"), Message("assistant", "Hello."), Message("user", "Hello again")]
    for generate in (True, False):
        refuse_beyond(tokenizer, chat.encode(chat.text(ask, generate=generate)), rows, name)
    for index in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if index is not None:
            refuse_beyond(tokenizer, [int(index)], rows, name)


def refuse_beyond(tokenizer: PreTrainedTokenizerBase, ids: list[int], rows: int, name: str) -> None:
    """Refuse token ids beyond an embedding of ``rows`` rows.

    Raises:
        SubjectError: naming the first token and both sizes.
    """
    if ids and max(ids) >= rows:
        raise _beyond(tokenizer, next(index for index in ids if index >= rows), rows, name)


def _beyond(tokenizer: PreTrainedTokenizerBase, index: int, rows: int, name: str) -> SubjectError:
    token = spelled_out(str(tokenizer.convert_ids_to_tokens(index)))
    return SubjectError(
        f"{name}: token {token} has the id {index}, but the embedding has {rows} rows (the tokenizer knows "
        f"{len(tokenizer)} tokens); resize the embedding, or give the model's own tokenizer with --tokenizer"
    )
