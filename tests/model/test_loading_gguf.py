"""A GGUF file runs as it is written, or is refused by the name of the tensor or key that would not be carried over."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aftertune.errors import SubjectError
from aftertune.model import cache_root, load

TinyModel = Callable[..., Any]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
IDS = torch.arange(3, 40)[None]
UP = "model.layers.1.mlp.up_proj.weight"


def refusal(spec: object) -> str:
    with pytest.raises(SubjectError) as caught:
        load(str(spec))
    line = str(caught.value)
    assert "\n" not in line
    assert not list(cache_root().glob("gguf*"))
    return line


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFTERTUNE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def write(tiny_model: TinyModel, tiny_tokenizer: Any, tmp_path: Path) -> Callable[..., tuple[Path, Any]]:
    """Writes a tiny llama or qwen2 as fp32 GGUF, by gguf's own writer; the file and the live model."""
    import gguf

    def written(
        kind: str = "llama",
        *,
        keys: Mapping[str, Any] | None = None,
        tensors: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] = lambda w: w,
        cut: str = "default",
        **config: Any,
    ) -> tuple[Path, Any]:
        model = tiny_model(kind, **config)
        shape, path = model.config, tmp_path / "model.gguf"
        writer = gguf.GGUFWriter(str(path), kind)
        facts: dict[str, Any] = {
            "context_length": 512,
            "block_count": 2,
            "embedding_length": shape.hidden_size,
            "feed_forward_length": shape.intermediate_size,
            "attention.head_count": shape.num_attention_heads,
            "attention.head_count_kv": shape.num_key_value_heads,
            "attention.layer_norm_rms_epsilon": shape.rms_norm_eps,
            "rope.freq_base": float(shape.rope_parameters["rope_theta"]),
            "rope.dimension_count": shape.hidden_size // shape.num_attention_heads,
            "vocab_size": shape.vocab_size,
        }
        for key, value in {**{f"{kind}.{k}": v for k, v in facts.items()}, **(keys or {})}.items():
            if value is None:
                continue
            if isinstance(value, bool):
                writer.add_bool(key, value)
            elif isinstance(value, list):
                writer.add_array(key, value)
            elif isinstance(value, str):
                writer.add_string(key, value)
            else:
                (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(key, value)
        spelled = sorted(tiny_tokenizer.get_vocab().items(), key=lambda entry: entry[1])
        merges = json.loads(tiny_tokenizer.backend_tokenizer.to_str())["model"]["merges"]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(cut)
        writer.add_token_list([token for token, _ in spelled])
        writer.add_token_types([3 if token.startswith("<|") else 1 for token, _ in spelled])
        writer.add_token_merges([" ".join(pair) for pair in merges])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_chat_template(tiny_tokenizer.chat_template)
        names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, kind.upper()), 2)
        held = {}
        for name, parameter in model.named_parameters():
            values = parameter.detach().numpy().astype(np.float32)
            if kind == "llama" and ("q_proj" in name or "k_proj" in name):  # ggml rotates neighbours, not halves
                heads = shape.num_attention_heads if "q_proj" in name else shape.num_key_value_heads
                halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
                values = halves.swapaxes(1, 2).reshape(values.shape)
            held[names.get_name(name, try_suffixes=(".weight", ".bias"))] = values
        for name, values in tensors(held).items():
            writer.add_tensor(name, values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path, model

    return written


Write = Callable[..., tuple[Path, Any]]


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_a_file_runs_as_it_is_written(kind: str, write: Write) -> None:
    file, live = write(kind)
    torch.testing.assert_close(logits(load(file).model), logits(live), atol=1e-4, rtol=0)


NEUTRAL: dict[str, dict[str, Any]] = {
    "head size": {"llama.attention.key_length": 8, "llama.attention.value_length": 8},
    "no scaling": {"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4.0},
    "scaling by one": {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 1.0},
    "no experts": {"llama.expert_count": 0},
    "scales of one": {"llama.logit_scale": 1.0, "llama.embedding_scale": 1.0},
    "one part": {"split.count": 1},
    "a name": {"general.name": "tiny", "general.type": "model", "somebody.note": "hello"},
    "causal": {"llama.attention.causal": True},
    "a scale as usual": {"llama.attention.scale": 8**-0.5},
}


@pytest.mark.parametrize("label", NEUTRAL)
def test_keys_that_change_nothing_are_not_blamed(label: str, write: Write) -> None:
    file, live = write(keys=NEUTRAL[label])
    torch.testing.assert_close(logits(load(file).model), logits(live), atol=1e-4, rtol=0)


def test_factors_of_one_change_nothing(write: Write) -> None:
    file, live = write(tensors=lambda w: {**w, "rope_freqs.weight": np.ones(4, dtype=np.float32)})
    torch.testing.assert_close(logits(load(file).model), logits(live), atol=1e-4, rtol=0)


CHANGING: dict[str, Any] = {
    "rope.scaling.factor": 8.0,
    "rope.scaling.attn_factor": 1.2,
    "rope.scaling.type": "yarn",
    "rope.scale_linear": 4.0,
    "rope.dimension_sections": [2, 1, 1, 0],
    "attention.sliding_window": 16,
    "attention.scale": 0.5,
    "attention.clamp_kqv": 8.0,
    "attention.max_alibi_bias": 8.0,
    "attention.causal": False,
    "attention.key_length": 16,
    "attention.layer_norm_epsilon": 1e-3,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "logit_scale": 0.0625,
    "residual_scale": 0.22,
    "embedding_scale": 12.0,
    "expert_count": 8,
    "expert_weights_scale": 2.5,
    "something_new": 3,
}


@pytest.mark.parametrize("key", CHANGING)
def test_keys_that_would_not_be_carried_over_are_refused_by_name(key: str, write: Write) -> None:
    file, _ = write(keys={f"llama.{key}": CHANGING[key]})
    assert f"llama.{key}" in refusal(file)


@pytest.mark.parametrize("scaling", ["linear", "yarn", "longrope"])
def test_every_kind_of_rope_scaling_is_refused_by_name(scaling: str, write: Write) -> None:
    file, _ = write(keys={"llama.rope.scaling.type": scaling, "llama.rope.scaling.factor": 4.0})
    assert "llama.rope.scaling." in refusal(file)


TENSORS: dict[str, tuple[Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]], str]] = {
    "rope factors": (lambda w: {**w, "rope_freqs.weight": np.array([1, 1, 2, 8], dtype=np.float32)}, "rope_freqs"),
    "long factors": (lambda w: {**w, "rope_factors_long.weight": np.full(4, 2, dtype=np.float32)}, "rope_factors_long"),
    "a bias": (lambda w: {**w, "blk.0.attn_q.bias": np.ones(32, dtype=np.float32)}, "blk.0.attn_q.bias"),
    "a norm": (lambda w: {**w, "blk.1.attn_q_norm.weight": np.ones(8, dtype=np.float32)}, "blk.1.attn_q_norm.weight"),
    "a layer more": (
        lambda w: {**w, **{n.replace("blk.1.", "blk.2."): t for n, t in w.items() if n.startswith("blk.1.")}},
        "blk.2.",
    ),
    "an unknown one": (lambda w: {**w, "zork.weight": np.ones(3, dtype=np.float32)}, "zork.weight"),
    "one lacking": (lambda w: {n: t for n, t in w.items() if n != "blk.1.ffn_up.weight"}, UP),
    "a norm lacking": (lambda w: {n: t for n, t in w.items() if n != "output_norm.weight"}, "model.norm.weight"),
    "the embedding lacking": (lambda w: {n: t for n, t in w.items() if n != "token_embd.weight"}, "embed_tokens"),
    "one of another shape": (lambda w: {**w, "blk.1.ffn_up.weight": w["blk.1.ffn_up.weight"][:32]}, UP),
}


@pytest.mark.parametrize("label", TENSORS)
def test_tensors_left_out_or_made_up_are_refused_by_name(label: str, write: Write) -> None:
    change, name = TENSORS[label]
    file, _ = write(tensors=change)
    assert name in refusal(file)


def test_biases_that_the_architecture_has_are_read(write: Write) -> None:
    file, live = write("qwen2")
    assert any("q_proj.bias" in name for name, _ in live.named_parameters())
    torch.testing.assert_close(logits(load(file).model), logits(live), atol=1e-4, rtol=0)
    file.unlink()
    file, _ = write("qwen2", tensors=lambda w: {n: t for n, t in w.items() if n != "blk.0.attn_k.bias"})
    (cache,) = cache_root().glob("gguf*")
    cache.rename(cache.parent / "other")
    assert "k_proj.bias" in refusal(file)


@pytest.mark.parametrize(
    ("key", "value"), [("general.type", "adapter"), ("general.type", "mmproj"), ("split.count", 3)]
)
def test_what_is_no_whole_model_is_told(key: str, value: Any, write: Write) -> None:
    file, _ = write(keys={key: value})
    assert ("is one of 3 parts" if key == "split.count" else f"no whole model but '{value}'") in refusal(file)


def test_an_unknown_architecture_is_one_line(write: Write) -> None:
    import gguf

    file, _ = write()
    writer = gguf.GGUFWriter(str(file), "zork")
    writer.add_uint32("zork.block_count", 2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert "zork" in refusal(file)


def test_a_file_cut_short_is_refused(write: Write) -> None:
    file, _ = write()
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) * 2 // 3])
    assert "cannot be read as a GGUF model" in refusal(file)


# --- the cache ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["weights gone", "weights cut", "config gone", "tokenizer gone"])
def test_a_damaged_conversion_is_made_anew(damage: str, write: Write) -> None:
    file, live = write()
    load(file)
    (cache,) = cache_root().glob("gguf*")
    if damage == "weights cut":
        weights = cache / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
    else:
        names = {"weights": "model.safetensors", "config": "config.json", "tokenizer": "tokenizer_config.json"}
        (cache / names[damage.split()[0]]).unlink()
    torch.testing.assert_close(logits(load(file).model), logits(live), atol=1e-4, rtol=0)


def test_a_conversion_made_before_the_checks_is_not_taken(write: Write) -> None:
    from aftertune.runs import file_digest

    file, live = write()
    old = cache_root() / f"gguf-{file_digest(file)[:16]}"
    old.mkdir(parents=True)
    (old / "config.json").write_text("{}", "utf-8")
    torch.testing.assert_close(logits(load(file).model), logits(live), atol=1e-4, rtol=0)
