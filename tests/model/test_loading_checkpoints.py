"""A whole checkpoint runs as it lies on disk, or is refused by the name of what would be left out or made up."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from aftertune.errors import SubjectError
from aftertune.model import load, save_model, score
from aftertune.model._checkpoint import read_checkpoint

TinyFolder = Callable[[str], Path]
TinyModel = Callable[..., Any]
Tensors = dict[str, torch.Tensor]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
IDS = torch.arange(3, 40)[None]
LAYER = "model.layers.1.self_attn.q_proj"


def refusal(spec: object, **options: Any) -> str:
    with pytest.raises(SubjectError) as caught:
        load(str(spec), **options)
    line = str(caught.value)
    assert "\n" not in line
    assert "--base" not in line
    return line


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


@pytest.fixture
def make(tiny_folder: TinyFolder, tmp_path: Path) -> Callable[..., Path]:
    """A copy of a tiny checkpoint with its tensors and its config changed."""

    def made(change: Callable[[Tensors], Tensors] = lambda w: w, on: str = "llama", **config: Any) -> Path:
        folder = Path(shutil.copytree(tiny_folder(on), tmp_path / f"copy-{on}"))
        save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})
        held = json.loads((folder / "config.json").read_text("utf-8"))
        (folder / "config.json").write_text(json.dumps({**held, **config}), "utf-8")
        return folder

    return made


@pytest.fixture
def sharded(tiny_model: TinyModel, tiny_tokenizer: Any, tmp_path: Path) -> Path:
    tiny_model("llama").save_pretrained(tmp_path / "sharded", max_shard_size="50KB")
    tiny_tokenizer.save_pretrained(tmp_path / "sharded")
    return tmp_path / "sharded"


# --- tensors that no part of the model takes ------------------------------------------------------------

UNREAD: dict[str, Callable[[Tensors], Tensors]] = {
    "a bias": lambda w: {**w, f"{LAYER}.bias": torch.ones(32)},
    "a layer more": lambda w: {**w, **{n.replace("s.1.", "s.2."): t.clone() for n, t in w.items() if "s.1." in n}},
    "LoRA unmerged": lambda w: {**w, f"{LAYER}.lora_A.default.weight": torch.ones(4, 32)},
    "scales of fp8": lambda w: {**w, f"{LAYER}.weight_scale_inv": torch.ones(1, 1)},
    "a value head": lambda w: {**w, "v_head.summary.weight": torch.ones(1, 32)},
    "a classifier": lambda w: {**w, "score.weight": torch.ones(2, 32)},
    "a second head": lambda w: {**w, "lm_head.modules_to_save.weight": torch.ones(320, 32)},
    "a picture tower": lambda w: {**w, "vision_tower.patch.weight": torch.ones(3, 3)},
    "a name without its prefix": lambda w: {**w, "layers.0.mlp.up_proj.weight": torch.ones(64, 32)},
    "a wrapper's copy": lambda w: {**w, f"_orig_mod.{LAYER}.weight": torch.ones(32, 32)},
}


@pytest.mark.parametrize("label", UNREAD)
def test_tensors_that_would_not_be_read_are_refused_by_name(
    label: str, make: Callable[..., Path], tiny_folder: TinyFolder
) -> None:
    folder = make(UNREAD[label])
    plain = load_file(tiny_folder("llama") / "model.safetensors")
    added = set(load_file(folder / "model.safetensors")) - set(plain)
    line = refusal(folder)
    assert "unread" in line
    assert any(name in line for name in added)


def test_what_was_left_unread_is_told_by_its_kind(make: Callable[..., Path]) -> None:
    assert "an adapter lies unmerged in it" in refusal(make(UNREAD["LoRA unmerged"]))


@pytest.mark.parametrize("change", [{"num_hidden_layers": 1}, {"num_hidden_layers": 3}], ids=["fewer", "more"])
def test_a_config_of_another_depth_is_refused(change: dict[str, Any], make: Callable[..., Path]) -> None:
    line = refusal(make(**change, layer_types=None))
    assert ("model.layers.1." in line) == (change["num_hidden_layers"] == 1)
    assert ("model.layers.2." in line) == (change["num_hidden_layers"] == 3)


def test_all_names_behind_a_wrappers_prefix_are_refused(make: Callable[..., Path]) -> None:
    assert "unknown ones (first: module." in refusal(make(lambda w: {f"module.{n}": t for n, t in w.items()}))


@pytest.mark.parametrize("width", [32, 96])
def test_a_tensor_of_another_shape_is_refused_by_name_and_size(width: int, make: Callable[..., Path]) -> None:
    line = refusal(make(lambda w: {**w, "model.layers.0.mlp.up_proj.weight": torch.ones(width, 32)}))
    assert (
        f"model.layers.0.mlp.up_proj.weight has shape ({width}, 32) in the file, the config asks for (64, 32)" in line
    )


def test_a_tensor_without_values_is_refused(make: Callable[..., Path]) -> None:
    assert "has size 0" in refusal(make(lambda w: {**w, f"{LAYER}.weight": torch.zeros(0)}))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.bool])
def test_whole_numbers_in_place_of_weights_are_refused(dtype: torch.dtype, make: Callable[..., Path]) -> None:
    line = refusal(make(lambda w: {**w, f"{LAYER}.weight": w[f"{LAYER}.weight"].to(dtype)}))
    assert f"{LAYER}.weight is stored as" in line
    assert "use the unquantised checkpoint" in line


def test_a_head_that_is_no_copy_of_its_tied_embedding_is_refused(make: Callable[..., Path]) -> None:
    line = refusal(make(lambda w: {**w, "lm_head.weight": w["model.embed_tokens.weight"] * 2}, on="qwen2"))
    assert "tie_word_embeddings to false" in line


def test_packed_weights_are_told_from_the_config(make: Callable[..., Path]) -> None:
    line = refusal(make(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}))
    assert "packed quantised weights (bitsandbytes, 4-bit) cannot be studied; use the unquantised checkpoint" in line


# --- what is no fault -----------------------------------------------------------------------------------

HARMLESS: dict[str, tuple[str, Callable[[Tensors], Tensors]]] = {
    "inverse frequencies": (
        "llama",
        lambda w: {**w, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)},
    ),
    "a tied head twice": ("qwen2", lambda w: {**w, "lm_head.weight": w["model.embed_tokens.weight"].clone()}),
    "half precision": ("llama", lambda w: {n: t.to(torch.float16).to(torch.float32) for n, t in w.items()}),
}


@pytest.mark.parametrize("label", HARMLESS)
def test_what_checkpoints_hold_beside_their_weights_is_not_blamed(
    label: str, make: Callable[..., Path], tiny_folder: TinyFolder
) -> None:
    from transformers import AutoModelForCausalLM

    architecture, change = HARMLESS[label]
    folder = make(change, on=architecture)
    torch.testing.assert_close(logits(load(folder).model), logits(AutoModelForCausalLM.from_pretrained(folder)))


@pytest.mark.parametrize(("architecture", "place"), [("gpt2", "attn"), ("gpt_neo", "attn.attention")])
def test_the_causal_masks_of_old_checkpoints_are_not_blamed_but_a_bias_is(
    architecture: str, place: str, tiny_model: TinyModel, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    save_model(tiny_model(architecture), tiny_tokenizer, folder)
    weights = load_file(folder / "model.safetensors")
    masks = {"bias": torch.ones(1, 1, 8, 8, dtype=torch.uint8), "masked_bias": torch.tensor(-1e4)}
    held = {f"transformer.h.0.{place}.{name}": tensor for name, tensor in masks.items()}
    save_file({**weights, **held}, folder / "model.safetensors", {"format": "pt"})
    assert load(folder).identity.kind == "folder"
    without = {name.removeprefix("transformer."): tensor for name, tensor in {**weights, **held}.items()}
    save_file(without, folder / "model.safetensors", {"format": "pt"})  # as of a base model alone
    assert load(folder).identity.kind == "folder"
    bias = {f"transformer.h.0.{place}.zork.bias": torch.ones(32)}
    save_file({**weights, **bias}, folder / "model.safetensors", {"format": "pt"})
    assert f"{place}.zork.bias" in refusal(folder)


def deep(tokenizer: Any, folder: Path) -> Tensors:
    """GLM-4-MoE with 46 dense layers; what its class takes for multi-token prediction is then layer 46."""
    import transformers

    config = transformers.AutoConfig.for_model(
        "glm4_moe", vocab_size=320, hidden_size=8, intermediate_size=8, num_hidden_layers=46, num_attention_heads=2,
        num_key_value_heads=1, head_dim=4, first_k_dense_replace=46, max_position_embeddings=64,
        bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    save_model(transformers.AutoModelForCausalLM.from_config(config).eval(), tokenizer, folder)
    return load_file(folder / "model.safetensors")


def test_layers_of_multi_token_prediction_are_let_be_and_a_layer_that_only_sits_there_is_not(
    tiny_tokenizer: Any, tmp_path: Path
) -> None:
    weights = deep(tiny_tokenizer, tmp_path / "deep")
    plain = {n.replace("s.45.", "s.46."): t.clone() for n, t in weights.items() if "s.45." in n}
    predicting = {**plain, "model.layers.46.eh_proj.weight": torch.ones(8, 16)}
    save_file({**weights, **predicting}, tmp_path / "deep" / "model.safetensors", {"format": "pt"})
    assert load(tmp_path / "deep").identity.kind == "folder"
    save_file({**weights, **plain}, tmp_path / "deep" / "model.safetensors", {"format": "pt"})
    assert "model.layers.46." in refusal(tmp_path / "deep")


# --- files that do not belong together ------------------------------------------------------------------


def test_shards_load_as_one(sharded: Path, tiny_folder: TinyFolder) -> None:
    assert load(sharded).identity.weights_sha256 == load(tiny_folder("llama")).identity.weights_sha256


def test_an_old_file_beside_newer_shards_is_refused(sharded: Path, tiny_folder: TinyFolder) -> None:
    shutil.copy(tiny_folder("llama") / "model.safetensors", sharded)
    assert "model.safetensors beside an index of other shards (model.safetensors.index.json)" in refusal(sharded)
    (sharded / "model.safetensors.index.json").unlink()
    assert "beside shards without an index" in refusal(sharded)


def test_an_index_of_the_single_file_itself_is_no_fault(make: Callable[..., Path]) -> None:
    folder = make()
    places = dict.fromkeys(load_file(folder / "model.safetensors"), "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}), "utf-8")
    assert load(folder).identity.kind == "folder"


def test_a_shard_that_is_not_in_the_index_is_refused(sharded: Path) -> None:
    stray = sharded / "model-00009-of-00009.safetensors"
    save_file({"x": torch.ones(2)}, stray, {"format": "pt"})
    assert f"{stray.name} is not in model.safetensors.index.json" in refusal(sharded)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("shard-00001-model-00001-of-00001.safetensors", "part of a distributed checkpoint"),
        ("adapter_model.safetensors", "an adapter's adapter_model.safetensors lies beside the model"),
    ],
)
def test_other_weights_beside_a_model_are_named(name: str, says: str, make: Callable[..., Path]) -> None:
    folder = make()
    other = {n: t * 2 for n, t in load_file(folder / "model.safetensors").items()}
    save_file(other, folder / name, {"format": "pt"})
    assert says in refusal(folder)


def test_another_makers_copy_of_the_weights_is_not_blamed(sharded: Path) -> None:
    save_file({"x": torch.ones(2)}, sharded / "consolidated.safetensors", {"format": "pt"})
    assert load(sharded).identity.kind == "folder"


def edit_index(folder: Path, change: Callable[[dict[str, str]], Any]) -> None:
    path = folder / "model.safetensors.index.json"
    held = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**held, "weight_map": change(held["weight_map"])}), "utf-8")


def test_an_index_that_promises_what_its_shard_lacks_is_refused(sharded: Path) -> None:
    edit_index(sharded, lambda places: {**places, "model.norm.weight": sorted(set(places.values()))[0]})
    assert "lacks model.norm.weight, which the index places there" in refusal(sharded)


def test_an_index_that_leads_out_of_the_folder_is_refused(sharded: Path) -> None:
    edit_index(sharded, lambda places: {**places, "model.norm.weight": "../other.safetensors"})
    assert "cannot be loaded as an index of shards" in refusal(sharded)


@pytest.mark.parametrize("content", ["", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 1}}', "[" * 50000])
def test_a_damaged_index_is_refused(content: str, sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").write_text(content, "utf-8")
    assert "cannot be loaded as an index of shards" in refusal(sharded)


def test_a_tensor_in_two_shards_is_refused(sharded: Path) -> None:
    first, second = sorted(sharded.glob("model-*.safetensors"))[:2]
    held = load_file(second)
    name, tensor = next(iter(load_file(first).items()))
    save_file({**held, name: tensor + 1}, second, {"format": "pt"})
    assert f"{name} is in two shards" in refusal(sharded)


def test_a_shard_cut_short_is_refused(sharded: Path) -> None:
    shard = sorted(sharded.glob("model-*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-100])
    assert "cannot be loaded" in refusal(sharded)


def test_headers_are_read_without_the_tensors(sharded: Path, tiny_folder: TinyFolder) -> None:
    weights = load_file(tiny_folder("llama") / "model.safetensors")
    stored = read_checkpoint(sharded)
    assert {name: tensor.shape for name, tensor in stored.items()} == {n: tuple(t.shape) for n, t in weights.items()}
    assert {tensor.dtype for tensor in stored.values()} == {"F32"}


def test_a_weight_file_that_the_config_names_is_the_one_that_counts(make: Callable[..., Path]) -> None:
    from aftertune.model import PromptAnswers

    folder = make(transformers_weights="newer.safetensors")
    other = {n: t * 2 for n, t in load_file(folder / "model.safetensors").items()}
    save_file(other, folder / "newer.safetensors", {"format": "pt"})
    subject = load(folder)
    assert torch.equal(subject.model.model.norm.weight.detach(), other["model.norm.weight"])
    assert score(subject, [PromptAnswers((5, 6, 7), ((8, 9),))])


def test_a_hub_model_is_held_to_the_same(
    make: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    for name, folder in (("whole", make(on="qwen2")), ("more", make(UNREAD["a bias"]))):
        shutil.copytree(folder, cache / f"models--me--{name}" / "snapshots" / ("a" * 40))
        (cache / f"models--me--{name}" / "refs").mkdir()
        (cache / f"models--me--{name}" / "refs" / "main").write_text("a" * 40, "utf-8")
    assert load("me/whole").identity.kind == "hub"
    assert f"{LAYER}.bias" in refusal("me/more")
    (cache / "models--me--whole" / "snapshots" / ("a" * 40) / "adapter_config.json").write_text("{}", "utf-8")
    assert "me/whole: an adapter, or a model with one beside it" in refusal("me/whole")
