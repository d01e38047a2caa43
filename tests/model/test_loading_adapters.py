"""An adapter runs as it lies on disk on the base it was trained on, or one line says what is wrong, and with what."""

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
from aftertune.model import load, save_model

TinyFolder = Callable[[str], Path]
TinyModel = Callable[..., Any]
Tensors = dict[str, torch.Tensor]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
IDS = torch.arange(3, 40)[None]
WRONG_BASE = "give the right one with --base"
FILE = "adapter_model.safetensors"


def refusal(spec: object, **options: Any) -> str:
    with pytest.raises(SubjectError) as caught:
        load(str(spec), **options)
    line = str(caught.value)
    assert "\n" not in line
    return line


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


def plain(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.fixture
def train(tiny_folder: TinyFolder, tmp_path: Path) -> Callable[..., tuple[Path, Any]]:
    """An adapter as if trained: noise on all that trains. Its folder, saved by PEFT, and its live model."""

    def trained(
        method: str = "LoraConfig", *, on: str = "llama", live_on: Any = None, **settings: Any
    ) -> tuple[Path, Any]:
        import peft

        lora = {"r": 4, "lora_alpha": 8} if method == "LoraConfig" else {}
        config = getattr(peft, method)(
            **{"target_modules": ["q_proj", "v_proj"], **lora, **settings}, task_type="CAUSAL_LM"
        )
        model = peft.get_peft_model(plain(tiny_folder(on)) if live_on is None else live_on, config)
        torch.manual_seed(7)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        model.peft_config["default"].base_model_name_or_path = str(tiny_folder(on))
        model.save_pretrained(tmp_path / "adapter")
        return tmp_path / "adapter", model.eval()

    return trained


def change(folder: Path, how: Callable[[Tensors], Tensors]) -> Path:
    save_file(how(load_file(folder / FILE)), folder / FILE, {"format": "pt"})
    return folder


def configure(folder: Path, **keys: Any) -> Path:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **keys}), "utf-8")
    return folder


# --- kinds that hold more, or less, than plain LoRA -----------------------------------------------------

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "VB-LoRA": ("VBLoRAConfig", {"num_vectors": 16, "vector_length": 16}),
    "VB-LoRA, chosen vectors alone": (
        "VBLoRAConfig",
        {"num_vectors": 16, "vector_length": 16, "save_only_topk_weights": True},
    ),
    "VeRA without its projections": ("VeraConfig", {"r": 4, "save_projection": False, "target_modules": ["q_proj"]}),
    "RandLoRA without its bases": ("RandLoraConfig", {"r": 4, "save_projection": False}),
    "FourierFT": ("FourierFTConfig", {"n_frequency": 20}),
    "OFT": ("OFTConfig", {"r": 0, "oft_block_size": 8}),
    "PiSSA, exact": ("LoraConfig", {"init_lora_weights": "pissa"}),
    "OLoRA": ("LoraConfig", {"init_lora_weights": "olora"}),
    "tokens trained": ("LoraConfig", {"trainable_token_indices": {"embed_tokens": [5, 6]}}),
    "a parameter, not a module": ("LoraConfig", {"target_parameters": ["mlp.up_proj.weight"]}),
    "one layer": ("LoraConfig", {"layers_to_transform": [1]}),
    "biases": ("LoraConfig", {"lora_bias": True}),
    "modules saved whole": ("LoraConfig", {"modules_to_save": ["embed_tokens", "lm_head"]}),
    "norms": ("LNTuningConfig", {"target_modules": ["input_layernorm"]}),
    "shared vector (UniLoRA)": ("UniLoraConfig", {"r": 4}),
    "shared vector (TinyLoRA)": ("TinyLoraConfig", {"r": 2}),
}


@pytest.mark.parametrize("label", KINDS)
def test_valid_adapters_are_not_blamed(label: str, train: Callable[..., tuple[Path, Any]]) -> None:
    method, settings = KINDS[label]
    folder, live = train(method, **settings)
    torch.testing.assert_close(logits(load(folder).model), logits(live), atol=2e-5, rtol=0)


def test_all_biases_of_an_adapter_are_in_force_and_asked_for(train: Callable[..., tuple[Path, Any]]) -> None:
    folder, live = train(on="qwen2", bias="all")
    torch.testing.assert_close(logits(load(folder).model), logits(live), atol=2e-5, rtol=0)
    change(folder, lambda w: {n: t for n, t in w.items() if not n.endswith("k_proj.bias")})
    assert "lacks 2 weights that its config asks for" in refusal(folder)


# --- adapters that are another model at each load -------------------------------------------------------


@pytest.mark.parametrize("start", ["pissa_niter_4", "pissa_niter_16"])
def test_a_randomised_start_is_refused(start: str, train: Callable[..., tuple[Path, Any]]) -> None:
    folder, live = train(init_lora_weights=start)
    import peft

    torch.manual_seed(1)
    again = peft.PeftModel.from_pretrained(plain(Path(live.peft_config["default"].base_model_name_or_path)), folder)
    assert (logits(again) - logits(live)).abs().max() > 0.01  # PEFT itself does not give what was trained
    line = refusal(folder)
    assert f"randomised ({start}), so it is another model at each load" in line
    assert WRONG_BASE not in line


@pytest.mark.parametrize("start", ["corda", "lora_ga"])
def test_a_start_that_only_the_trainer_knew_is_refused(start: str, train: Callable[..., tuple[Path, Any]]) -> None:
    folder, _ = train()
    line = refusal(configure(folder, init_lora_weights=start))
    assert "changed the base in training, and the file does not hold that change" in line


# --- files at fault, and not the base -------------------------------------------------------------------

FAULTS: dict[str, tuple[dict[str, Any], Callable[[Tensors], Tensors], str]] = {
    "empty": ({}, lambda w: {}, "holds no tensors"),
    "one of size 0": ({}, lambda w: {**w, sorted(w)[0]: torch.zeros(0)}, "1 of its tensors have size 0"),
    "compiled": ({}, lambda w: {n.replace("model.model.", "model._orig_mod.model."): t for n, t in w.items()}, "_orig"),
    "DDP": ({}, lambda w: {f"module.{n}": t for n, t in w.items()}, "prefix 'module.' of DDP"),
    "FSDP": ({}, lambda w: {f"_fsdp_wrapped_module.{n}": t for n, t in w.items()}, "of FSDP"),
    "raw names": ({}, lambda w: {n.replace(".weight", ".mine.weight"): t for n, t in w.items()}, "'.mine'"),
    "no prefix": ({}, lambda w: {n.removeprefix("base_model.model."): t for n, t in w.items()}, "lack the prefix"),
    "half a pair": ({}, lambda w: {n: t for n, t in w.items() if "0.self_attn.q_proj.lora_B" not in n}, "its lora_B"),
    "no magnitudes": ({"use_dora": True}, lambda w: {n: t for n, t in w.items() if "magni" not in n}, "magnitude"),
    "a module lost": (
        {"modules_to_save": ["lm_head"]},
        lambda w: {n: t for n, t in w.items() if "lm_head" not in n},
        "lm_head was trained whole (modules_to_save)",
    ),
}


@pytest.mark.parametrize("label", FAULTS)
def test_a_file_at_fault_is_told_and_not_its_base(label: str, train: Callable[..., tuple[Path, Any]]) -> None:
    settings, how, says = FAULTS[label]
    folder, _ = train(**settings)
    line = refusal(change(folder, how))
    assert says in line
    assert "--base" not in line


@pytest.mark.parametrize("keys", [{"r": 8}, {"rank_pattern": {"q_proj": 2}}], ids=["r", "pattern"])
def test_a_rank_that_is_not_the_configs_is_told(keys: dict[str, Any], train: Callable[..., tuple[Path, Any]]) -> None:
    folder, _ = train()
    line = refusal(configure(folder, **keys))
    assert "q_proj has rank 4 in the file" in line
    assert WRONG_BASE not in line


def test_a_layer_too_few_or_too_many_is_refused(train: Callable[..., tuple[Path, Any]]) -> None:
    folder, _ = train()
    whole = load_file(folder / FILE)
    change(folder, lambda w: {n: t for n, t in w.items() if ".layers.1." not in n})
    assert "lacks 4 weights" in refusal(folder)
    change(folder, lambda w: {**whole, **{n.replace("layers.1.", "layers.2."): t.clone() for n, t in whole.items()}})
    assert "do not belong to the base (first: base_model.model.model.layers.2." in refusal(folder)


@pytest.mark.parametrize("name", ["score.weight", "model.zork.lora_A.weight", "lm_head.lora_magnitude_vector"])
def test_any_tensor_without_a_place_is_refused(name: str, train: Callable[..., tuple[Path, Any]]) -> None:
    folder, _ = train()
    line = refusal(change(folder, lambda w: {**w, f"base_model.model.{name}": torch.ones(4, 32)}))
    assert name.split(".")[-2] in line


@pytest.mark.parametrize("keys", [{"modules_to_save": 3}, {"target_modules": 7}, {"rank_pattern": "x"}, {"r": None}])
def test_odd_values_in_the_config_are_one_line(
    keys: dict[str, Any], train: Callable[..., tuple[Path, Any]], tiny_folder: TinyFolder
) -> None:
    folder, _ = train()
    configure(folder, **keys)
    try:
        load(folder)  # what PEFT passes over is no fault of ours
    except SubjectError as error:
        assert "\n" not in str(error)


def test_a_key_that_peft_would_pass_over_is_refused(train: Callable[..., tuple[Path, Any]]) -> None:
    folder, live = train()
    configure(folder, use_next_lora=False, enable_lora=None)  # switched off, it says nothing
    torch.testing.assert_close(logits(load(folder).model), logits(live), atol=2e-5, rtol=0)
    line = refusal(configure(folder, use_next_lora=True))
    assert "does not know its key use_next_lora" in line
    assert WRONG_BASE not in line


# --- experts from before they were fused ----------------------------------------------------------------


def experts(folder: Path, model: Any, *, skip: str = "-") -> None:
    """Write an adapter with one pair per expert matrix, and fold it into ``model`` by hand."""
    import peft

    torch.manual_seed(5)
    held = {}
    for layer in (0, 1):
        fused = model.model.layers[layer].mlp.experts
        for expert in range(4):
            for name, (out, width) in {"w1": (64, 32), "w2": (32, 64), "w3": (64, 32)}.items():
                one, other = torch.randn(4, width) * 0.2, torch.randn(out, 4) * 0.2
                key = f"base_model.model.model.layers.{layer}.block_sparse_moe.experts.{expert}.{name}"
                if skip not in key:
                    held |= {f"{key}.lora_A.weight": one, f"{key}.lora_B.weight": other}
                with torch.no_grad():
                    places = {"w1": fused.gate_up_proj[expert, :64], "w3": fused.gate_up_proj[expert, 64:]}
                    places.get(name, fused.down_proj[expert]).add_(2 * other @ one)
    folder.mkdir()
    save_file(held, folder / FILE, {"format": "pt"})
    peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=["w1", "w2", "w3"], task_type="CAUSAL_LM"
    ).save_pretrained(folder)  # fmt: skip


@pytest.mark.parametrize("merge", [False, True])
def test_adapters_of_single_experts_are_carried_to_fused_ones(
    merge: bool, tiny_folder: TinyFolder, tmp_path: Path
) -> None:
    live = plain(tiny_folder("mixtral"))
    experts(tmp_path / "adapter", live)
    subject = load(tmp_path / "adapter", base=str(tiny_folder("mixtral")), merge=merge)
    torch.testing.assert_close(logits(subject.model), logits(live), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("skip", ["experts.3.", "experts.1.", "experts.2.w2", "layers.1.block_sparse_moe.experts.0.w1"])
def test_adapters_that_lack_an_expert_are_refused(skip: str, tiny_folder: TinyFolder, tmp_path: Path) -> None:
    experts(tmp_path / "adapter", plain(tiny_folder("mixtral")), skip=skip)
    line = refusal(tmp_path / "adapter", base=str(tiny_folder("mixtral")))
    assert "nothing for expert" in line
    assert WRONG_BASE not in line


def test_adapters_that_lack_the_experts_of_a_layer_are_refused(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    experts(tmp_path / "adapter", plain(tiny_folder("mixtral")), skip="layers.1.")
    assert "lacks 4 weights that its config asks for" in refusal(tmp_path / "adapter", base=str(tiny_folder("mixtral")))


# --- ends that are tied ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["embed_tokens", "lm_head"]},
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["embed_tokens"]},
        {"trainable_token_indices": [5, 6]},
        {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True},
    ],
    ids=["head", "embedding", "both", "head whole", "embedding whole", "tokens", "kept tied"],
)
def test_adapters_of_tied_ends_keep_their_numbers_merged_and_saved(
    settings: dict[str, Any], train: Callable[..., tuple[Path, Any]], tmp_path: Path
) -> None:
    folder, live = train(on="qwen2", **settings)
    want = logits(live)
    torch.testing.assert_close(logits(load(folder).model), want, atol=2e-5, rtol=0)
    merged = load(folder, merge=True)
    torch.testing.assert_close(logits(merged.model), want, atol=1e-4, rtol=0)
    save_model(merged.model, merged.tokenizer, tmp_path / "saved")
    again = load(tmp_path / "saved")
    torch.testing.assert_close(logits(again.model), want, atol=1e-4, rtol=0)
    torch.testing.assert_close(logits(plain(tmp_path / "saved")), want, atol=1e-4, rtol=0)
    assert again.identity.weights_sha256 == merged.identity.weights_sha256


# --- bases ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", ["/content/drive/gone", "outputs/sft-merged", "C:\\models\\base", "../base", "a b"])
def test_a_base_that_is_gone_is_told_with_the_adapter_and_the_flag(
    gone: str, train: Callable[..., tuple[Path, Any]]
) -> None:
    folder, _ = train()
    line = refusal(configure(folder, base_model_name_or_path=gone))
    assert line.startswith(f"{folder}: its base, ")
    assert line.endswith("with --base")


def test_a_packed_base_asks_for_the_unquantised_one(
    train: Callable[..., tuple[Path, Any]], tiny_folder: TinyFolder, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(tiny_folder("llama"), tmp_path / "base-bnb-4bit"))
    held = json.loads((base / "config.json").read_text("utf-8"))
    packed = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (base / "config.json").write_text(json.dumps({**held, "quantization_config": packed}), "utf-8")
    folder, _ = train()
    line = refusal(configure(folder, base_model_name_or_path=str(base)))
    assert "bitsandbytes, 4-bit" in line
    assert line.endswith("give the unquantised one with --base")
    assert load(folder, base=str(tiny_folder("llama"))).identity.kind == "adapter"


@pytest.fixture
def hub(tiny_model: TinyModel, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache with me/base, whose branch step-500 has other weights than main."""
    import huggingface_hub.constants

    cache = tmp_path / "hub"
    for tag, commit, scale in (("main", "a" * 40, 1.0), ("step-500", "b" * 40, 1.1)):
        model = tiny_model("llama")
        with torch.no_grad():
            model.model.layers[0].mlp.up_proj.weight.mul_(scale)
        save_model(model, tiny_tokenizer, cache / "models--me--base" / "snapshots" / commit)
        (cache / "models--me--base" / "refs").mkdir(exist_ok=True)
        (cache / "models--me--base" / "refs" / tag).write_text(commit, "utf-8")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    return cache


def test_an_adapter_sits_on_the_revision_it_was_trained_on(hub: Path, train: Callable[..., tuple[Path, Any]]) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    folder, _ = train()
    configure(folder, base_model_name_or_path="me/base", revision="step-500")
    want = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("me/base", revision="step-500"), folder)
    subject = load(folder)
    torch.testing.assert_close(logits(subject.model), logits(want.eval()), atol=2e-5, rtol=0)
    assert (subject.identity.base, subject.identity.revision) == ("me/base@step-500", "b" * 40)
    assert load(folder, base="me/base@main").identity.revision == "a" * 40
    assert load(folder, base="me/base").identity.revision == "a" * 40
    assert "me/base@gone" in refusal(configure(folder, revision="gone"))


def test_a_circle_of_adapters_is_refused(train: Callable[..., tuple[Path, Any]], tmp_path: Path) -> None:
    one, _ = train()
    two = Path(shutil.copytree(one, tmp_path / "two"))
    three = Path(shutil.copytree(one, tmp_path / "three"))
    for folder, below in ((one, two), (two, three), (three, one)):
        configure(folder, base_model_name_or_path=str(below))
    assert "its chain of bases comes back to it (adapter → two → three → adapter)" in refusal(one)
    (tmp_path / "link").symlink_to(one)
    assert "names itself as its base" in refusal(configure(one, base_model_name_or_path=str(tmp_path / "link")))


# --- folders --------------------------------------------------------------------------------------------


def test_an_old_adapter_config_beside_a_whole_model_is_named(
    train: Callable[..., tuple[Path, Any]], tiny_folder: TinyFolder, tmp_path: Path
) -> None:
    folder, _ = train()
    whole = Path(shutil.copytree(tiny_folder("llama"), tmp_path / "whole"))
    shutil.copy(folder / "adapter_config.json", whole)
    assert "holds a whole model (model.safetensors) beside a leftover adapter_config.json" in refusal(whole)
    shutil.copy(folder / FILE, whole)
    assert "holds a whole model (model.safetensors) and an adapter" in refusal(whole)
    (whole / "model.safetensors").unlink()
    assert load(whole).identity.kind == "adapter"  # a config alone is no model


@pytest.mark.parametrize(
    ("names", "first"),
    [(("checkpoint-900", "checkpoint-1000"), "checkpoint-1000"), (("helpful", "harmful"), "harmful")],
)
def test_the_folders_inside_are_named(
    names: tuple[str, ...], first: str, train: Callable[..., tuple[Path, Any]], tmp_path: Path
) -> None:
    folder, _ = train()
    for name in names:
        shutil.copytree(folder, tmp_path / "out" / name)
    (tmp_path / "out" / "runs").mkdir()
    line = refusal(tmp_path / "out")
    assert f"did you mean {tmp_path / 'out' / first}?" in line
    assert all(name in line for name in names)
    assert "runs" not in line.replace(str(tmp_path), "")


@pytest.mark.parametrize(
    ("name", "says"),
    [("adapters.safetensors", "which is not PEFT's"), ("adapter_model.bin", "pickled"), ("notes.txt", "copy the")],
)
def test_a_folder_without_peft_weights_says_what_it_has(
    name: str, says: str, train: Callable[..., tuple[Path, Any]]
) -> None:
    folder, _ = train()
    (folder / FILE).rename(folder / name)
    line = refusal(folder)
    assert "has no adapter_model.safetensors" in line
    assert says in line


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_logit_of_vb_lora_is_still_found(value: float, train: Callable[..., tuple[Path, Any]]) -> None:
    from aftertune.errors import NumericalError

    folder, _ = train("VBLoRAConfig", num_vectors=16, vector_length=16)

    def broken(weights: Tensors) -> Tensors:
        next(tensor for name, tensor in sorted(weights.items()) if "logits" in name).view(-1)[3] = value
        return weights

    change(folder, broken)
    with pytest.raises(NumericalError, match="NaN or infinity"):
        load(folder)
