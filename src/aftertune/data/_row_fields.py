"""What stands beside the texts of a tuning row: honoured, harmless, or refused; nothing is passed over.

Trainers keep switches in rows ("do not train on this turn"), and things that a plain conversation cannot say (tool
calls, pictures, a worse answer). A reader that ignores them trains on something else than the row's author meant.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from aftertune.data._rows import Row

_NAMES = """
id ids uid uuid idx index key prompt_id conversation_id example_id sample_id row_id question_id task_id instance_id
message_id session_id hash sha256 md5 version"""
_ORIGIN = """
source sources dataset dataset_name origin provenance subset url urls license licence author annotator annotator_id
created created_at updated_at date timestamp model model_name generator"""
_ABOUT = """
category categories subcategory domain topic topics subject task task_type type kind tag tags keywords language lang
locale title name description note notes comment comments metadata meta info extra"""
_FIGURES = """
difficulty level quality quality_score score scores rating ratings length num_tokens n_tokens token_count num_turns
n_turns word_count"""
_OF_MESSAGE = """
id uid uuid index message_id parent_id turn turn_id turn_index created created_at timestamp date language lang source
model num_tokens n_tokens token_count metadata meta note notes comment comments"""

HARMLESS_IN_ROW = frozenset("\n".join((_NAMES, _ORIGIN, _ABOUT, _FIGURES)).split())
"""Fields of a row that say something about it and change nothing."""

HARMLESS_IN_MESSAGE = frozenset(_OF_MESSAGE.split())
"""Fields of a message that say something about it and change nothing."""

# Whether the loss falls on a message: OpenAI, Mistral and Together (weight), axolotl (train, training), ms-swift
# (loss), torchtune (masked). The value is what "train on it" is called.
_SWITCHES: Mapping[str, bool] = {"weight": True, "train": True, "training": True, "loss": True, "masked": False}
_KTO = ("label", "kto_tag")
_PARTS = ("split", "partition", "fold")

_TOOLS = "tool calls are not rendered; remove the row, or write them into the text and remove the field"
_MEDIA = "pictures, sound and documents are not read; remove the row"
_REASONING = "is not rendered; write the reasoning into the answer as the model's template does, or remove the field"
_PREFERENCE = "belongs to preference tuning; keep the better answer as 'completion' and remove the field"
_TOKENS = "holds tokens or their mask, but rows are texts here; give 'messages', or 'prompt' and 'completion'"
_RENDERING = "would change how the row is rendered, which no row can here; remove it"
_UNFINISHED = "marks an answer that is to be continued, which tuning does not do; remove it"
_INSTRUCTION = "is not read beside other text; put all of it into 'prompt'"

_REFUSED: Mapping[str, str] = {
    name: reason
    for names, reason in (
        ("tools functions tool_choice parallel_tool_calls tool_calls function_call tool_call_id "
         "tool_responses", _TOOLS),
        ("image images image_url video videos audio audios file files documents objects media", _MEDIA),
        ("reasoning reasoning_content reasoning_details thinking thought thoughts chain_of_thought cot", _REASONING),
        ("chosen rejected preferred_output non_preferred_output rejected_response rejected_message "
         "rejected_messages margin", _PREFERENCE),
        ("input_ids labels attention_mask completion_mask assistant_masks segments", _TOKENS),
        ("chat_template chat_template_kwargs enable_thinking reasoning_effort add_generation_prompt "
         "continue_final_message train_on_input train_on_inputs train_on_prompt roles_to_train train_on_eos "
         "train_on_eot train_detail training_detail loss_scale loss_weight sample_weight completion_only_loss "
         "assistant_only_loss mask mask_prompt channel recipient eot name", _RENDERING),
        ("prefix partial prefill", _UNFINISHED),
        ("instruction input context history", _INSTRUCTION),
    )
    for name in names.split()
}  # fmt: skip
_NOTE = re.compile(r"_.*|Unnamed: \d+")  # what begins with an underscore; pandas' columns without a name


def refuse_other_fields(row: Row, read: Collection[str]) -> None:
    """Refuse fields of a row that would change what is trained.

    Args:
        row: with text in the fields of ``read``.
        read: fields that the reader honours itself.

    Raises:
        DataError: a field that is neither harmless nor empty, or a switch that says "not for training".
    """
    for name, value in row.fields.items():
        if name in read or name in HARMLESS_IN_ROW or _is_empty(value) or _NOTE.fullmatch(name):
            continue
        if name in _SWITCHES:
            if _switched_on(row, name, value, name) is False:
                raise row.error("says not to train on this row; remove the row", name)
        elif name in _KTO:
            if value in (False, 0) or str(value).strip().casefold() in ("false", "0", "no"):
                raise row.error("marks an answer that is not to be learnt; remove the row", name)
        elif name in _PARTS:
            if str(value).strip().casefold() not in ("train", "training"):
                raise row.error(f"says {_short(value)}, not 'train'; keep such rows out of the file", name)
        else:
            _refuse(row, name, value, name, "a row")


def is_supervised(row: Row, where: str, message: Mapping[str, Any]) -> bool:
    """Whether the loss falls on a message, as its switches say; True where it has none.

    Args:
        row: the row it stands in.
        where: its place, such as ``messages[1]``.
        message: its fields, of which ``role`` and ``content`` are read elsewhere.

    Raises:
        DataError: a field that would change what is trained, a switch that is neither on nor off, switches that
            contradict each other, or one that asks for loss on what no assistant said.
    """
    said: dict[str, bool] = {}
    for name, value in message.items():
        if name in ("role", "content") or name in HARMLESS_IN_MESSAGE or _is_empty(value) or _NOTE.fullmatch(name):
            continue
        if name in _SWITCHES:
            said[name] = _switched_on(row, name, value, f"{where}.{name}")
        else:
            _refuse(row, name, value, f"{where}.{name}", "a message")
    for name, on in said.items():
        if on and message["role"] != "assistant":
            problem = "asks for loss on what no assistant said; it falls on assistant messages alone, so remove it"
            raise row.error(problem, f"{where}.{name}")
    if len(set(said.values())) > 1:
        raise row.error(f"contradict each other ({', '.join(said)}); keep one", where)
    return all(said.values()) or message["role"] != "assistant"


def _switched_on(row: Row, name: str, value: Any, where: str) -> bool:
    if not isinstance(value, bool | int | float) or value not in (0, 1):
        kind = "0 or 1; other weights are not honoured" if name == "weight" else "true or false"
        raise row.error(f"must be {kind}", where)
    return bool(value) is _SWITCHES[name]


def _refuse(row: Row, name: str, value: Any, where: str, what: str) -> None:
    if name not in _REFUSED:
        problem = f"is unknown in {what} and may change its meaning; remove it, or call it '_{_short(name)}' if it is a"
        raise row.error(f"{problem} note", where)
    if value is not False:  # such as "prefix": false
        raise row.error(_REFUSED[name], where)


def _is_empty(value: Any) -> bool:
    """What tables put where a row has no such field."""
    return value is None or (isinstance(value, str | list | dict) and not value)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
