"""Who a subject is: all that decides its numbers changes a digest, and nothing else does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from aftertune.errors import NumericalError, SubjectError
from aftertune.model import Placement, Subject, as_subject, differing_digests, load, score, weights_digest

TinyFolder = Callable[[str], Path]


@pytest.fixture
def folder(tiny_folder: TinyFolder, tmp_path: Path) -> Callable[..., Path]:
    """A copy of a tiny Llama under a name, with changes to its config.json."""

    def copy(name: str, **changes: Any) -> Path:
        path = tmp_path / name
        shutil.copytree(tiny_folder("llama"), path)
        config = json.loads((path / "config.json").read_text("utf-8"))
        (path / "config.json").write_text(json.dumps({**config, **changes}), "utf-8")
        return path

    return copy


def apart(one: Subject, other: Subject) -> tuple[str, ...]:
    return differing_digests(one.identity.as_dict(), other.identity.as_dict())


def margin(subject: Subject) -> float:
    from aftertune.data import Message

    case = subject.chat.case([Message("user", "What should I do with the money?")], ["Take care of it."])
    return score(subject, [case])[0][0].total


# --- configuration --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"rms_norm_eps": 1.0},
        {"hidden_act": "relu"},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 2.0}},
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}},
    ],
    ids=["norm", "activation", "rope base", "rope scaling"],
)
def test_settings_of_the_forward_pass_are_told(changes: dict[str, Any], folder: Callable[..., Path]) -> None:
    one, other = load(folder("one")), load(folder("other", **changes))
    assert margin(one) != margin(other)
    assert apart(one, other) == ("configuration",)


@pytest.mark.parametrize(
    "changes",
    [
        {"transformers_version": "4.0.0"},
        {"use_cache": False},
        {"_name_or_path": "elsewhere"},
        {"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}},
        {"initializer_range": 0.5},
        {"a_switch_of_tomorrow": False},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_settings_that_no_number_depends_on_are_not(changes: dict[str, Any], folder: Callable[..., Path]) -> None:
    one, other = load(folder("one")), load(folder("other", **changes))
    assert margin(one) == margin(other)
    assert apart(one, other) == ()


def test_a_saved_model_is_the_one_in_memory(folder: Callable[..., Path], tmp_path: Path) -> None:
    one = load(folder("one"))
    one.model.save_pretrained(tmp_path / "again")
    one.tokenizer.save_pretrained(tmp_path / "again")
    assert apart(one, load(tmp_path / "again")) == ()
    assert apart(one, as_subject(one.model, one.tokenizer)) == ()


def test_precision_and_attention_are_told(folder: Callable[..., Path]) -> None:
    path = folder("one")
    one, half = load(path), load(path, placement=Placement(dtype="bfloat16"))
    assert apart(one, half) == ("weights",)
    assert one.content != half.content
    eager = transformers.AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager")
    assert apart(one, as_subject(eager, one.tokenizer)) == ("configuration",)


def test_tokens_that_end_an_answer_are_told(folder: Callable[..., Path]) -> None:
    one, other = folder("one"), folder("other")
    settings = json.loads((other / "generation_config.json").read_text("utf-8"))
    (other / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": [2, 5]}), "utf-8")
    assert apart(load(one), load(other)) == ("configuration",)


def test_the_scale_of_an_adapter_is_told(folder: Callable[..., Path], tmp_path: Path) -> None:
    """It is in no tensor: the same adapter at another alpha has the same weights."""
    base = folder("one")
    live = peft.get_peft_model(
        transformers.AutoModelForCausalLM.from_pretrained(base),
        peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"], init_lora_weights=False),
    )
    live.save_pretrained(tmp_path / "adapter")
    shutil.copytree(tmp_path / "adapter", tmp_path / "stronger")
    config = json.loads((tmp_path / "stronger" / "adapter_config.json").read_text("utf-8"))
    (tmp_path / "stronger" / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 40}), "utf-8")
    one, other = load(tmp_path / "adapter", base=str(base)), load(tmp_path / "stronger", base=str(base))
    assert one.identity.weights_sha256 == other.identity.weights_sha256
    assert margin(one) != margin(other)
    assert apart(one, other) == ("configuration",)


# --- tokenizer ------------------------------------------------------------------------------------------


def changed_tokenizer(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    file = path / "tokenizer.json"
    document = json.loads(file.read_text("utf-8"))
    change(document)
    file.write_text(json.dumps(document), "utf-8")


def swap(document: dict[str, Any]) -> None:
    vocabulary = document["model"]["vocab"]
    first, second = [token for token in vocabulary if token.isalpha()][:2]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]


def unmerge(document: dict[str, Any]) -> None:
    document["model"]["merges"].pop()


def lower(document: dict[str, Any]) -> None:
    document["normalizer"] = {"type": "Lowercase"}


def add(document: dict[str, Any]) -> None:
    token = {"id": len(document["model"]["vocab"]) - 1, "content": "money", "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False, "special": False}  # fmt: skip
    document["added_tokens"].append(token)


@pytest.mark.parametrize("change", [swap, unmerge, lower, add])
def test_every_part_of_a_tokenizer_is_told(
    change: Callable[[dict[str, Any]], None], folder: Callable[..., Path]
) -> None:
    one, other = folder("one"), folder("other")
    changed_tokenizer(other, change)
    assert apart(load(one), load(other)) == ("tokenizer",)


def test_padding_and_truncation_of_the_last_call_are_not(folder: Callable[..., Path]) -> None:
    one, other = load(folder("one")), load(folder("other"))
    other.tokenizer(["a", "a long one"], padding=True, truncation=True, max_length=4)
    assert apart(one, as_subject(other.model, other.tokenizer)) == ()


# --- offloaded weights ----------------------------------------------------------------------------------


SPREAD = {"model.embed_tokens": "disk", "model.rotary_emb": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk",
          "model.norm": "disk", "lm_head": "disk"}  # fmt: skip


def spread(path: Path, tmp_path: Path, **places: Any) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(
        path, device_map={**SPREAD, **places}, offload_folder=tmp_path / "offload"
    )


def tie(path: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(path)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(path)


@pytest.mark.parametrize("tied", [False, True])
def test_a_digest_reads_what_was_put_on_disk(tied: bool, folder: Callable[..., Path], tmp_path: Path) -> None:
    path = folder("one")
    if tied:
        tie(path)
    plain = load(path)
    away = as_subject(spread(path, tmp_path), plain.tokenizer)
    assert any(tensor.device.type == "meta" for tensor in away.model.state_dict().values())
    assert apart(plain, away) == ()
    assert away.device == torch.device("cpu")
    assert margin(away) == pytest.approx(margin(plain), abs=1e-5)


def test_a_head_on_disk_that_is_tied_to_embeddings_in_memory_counts_once(
    folder: Callable[..., Path], tmp_path: Path
) -> None:
    path = folder("one")
    tie(path)
    plain = transformers.AutoModelForCausalLM.from_pretrained(path)
    assert weights_digest(spread(path, tmp_path, **{"model.embed_tokens": "cpu"})) == weights_digest(plain)


def test_broken_weights_on_disk_are_found(folder: Callable[..., Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder("one")
    weights = load_file(path / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    with pytest.raises(NumericalError, match=r"layers\.1\.mlp\.up_proj"):
        as_subject(spread(path, tmp_path), load(folder("other")).tokenizer)


def test_weights_that_nobody_holds_are_refused(folder: Callable[..., Path]) -> None:
    path = folder("one")
    config = transformers.AutoConfig.from_pretrained(path)
    with torch.device("meta"):
        empty = transformers.AutoModelForCausalLM.from_config(config)
    with pytest.raises(SubjectError, match="is not in memory and cannot be read back; use a --device that holds"):
        as_subject(empty, load(path).tokenizer)
