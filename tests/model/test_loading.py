"""Whatever names a subject loads, or is refused in one line that says how to mend it."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_socket
import torch

from aftertune.errors import MemoryExhausted, NumericalError, OutputError, SubjectError, UsageError
from aftertune.model import (
    Placement,
    PromptAnswers,
    as_subject,
    assert_scale,
    load,
    merge_adapter,
    parse_spec,
    save_model,
    score,
    weights_digest,
)

TinyFolder = Callable[[str], Path]
TinyModel = Callable[..., Any]
MakeAdapter = Callable[..., Path]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
IDS = torch.arange(3, 40)[None]


def refusal(spec: object, **options: Any) -> str:
    """The one line with which a subject is refused."""
    with pytest.raises(SubjectError) as caught:
        load(str(spec), **options)
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.fixture
def copy(tiny_folder: TinyFolder, tmp_path: Path) -> Path:
    """A tiny llama checkpoint that may be damaged."""
    return Path(shutil.copytree(tiny_folder("llama"), tmp_path / "copy"))


@pytest.fixture(scope="session")
def make_adapter(tiny_folder: TinyFolder, tmp_path_factory: pytest.TempPathFactory) -> MakeAdapter:
    """Makes adapter folders with nonzero B on the tiny llama."""

    def make(method: str = "LoraConfig", *, on: str = "llama", **settings: Any) -> Path:
        import peft
        from transformers import AutoModelForCausalLM

        base = AutoModelForCausalLM.from_pretrained(tiny_folder(on))
        lora = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"]}
        config = getattr(peft, method)(
            **{**(lora if method == "LoraConfig" else {}), **settings}, task_type="CAUSAL_LM"
        )
        torch.manual_seed(5)
        model = peft.get_peft_model(base, config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad and "lora_A" not in name and "magnitude" not in name:
                    parameter.normal_(0, 0.2)
        folder = tmp_path_factory.mktemp("adapter") / "adapter"
        model.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def plain_adapter(make_adapter: MakeAdapter) -> Path:
    return make_adapter()


@pytest.fixture(scope="session")
def stabilised_adapter(make_adapter: MakeAdapter) -> Path:
    return make_adapter(use_rslora=True)


def edit_json(path: Path, **changes: Any) -> None:
    held = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({k: v for k, v in {**held, **changes}.items() if v is not ...}), "utf-8")


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


# --- folders --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen2", "mixtral"])
def test_a_folder_loads_with_its_weights_and_its_identity(architecture: str, tiny_folder: TinyFolder) -> None:
    from transformers import AutoModelForCausalLM

    folder = tiny_folder(architecture)
    subject = load(folder)
    plain = AutoModelForCausalLM.from_pretrained(folder)
    torch.testing.assert_close(logits(subject.model), logits(plain))
    identity = subject.identity
    assert (identity.spec, identity.kind, identity.source) == (str(folder), "folder", str(folder))
    assert (identity.base, identity.adapter, identity.revision) == (None, None, None)
    assert identity.dtype == "float32"
    assert identity.parameters == sum(p.numel() for p in plain.parameters())
    assert identity.weights_sha256 == weights_digest(plain)
    assert identity.template_sha256 == subject.chat.digest
    assert json.loads(json.dumps(identity.as_dict())) == identity.as_dict()
    assert not subject.model.training
    assert (subject.context, subject.vocabulary) == (512, 320)


@pytest.mark.parametrize("architecture", ["bloom", "mamba", "gpt_neo"])
def test_an_architecture_without_sdpa_attention_loads(
    architecture: str, tiny_model: TinyModel, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    save_model(tiny_model(architecture), tiny_tokenizer, tmp_path / "model")
    subject = load(tmp_path / "model")
    assert torch.isfinite(logits(subject.model)).all()


def test_a_folder_without_tokenizer_is_refused_and_takes_another(copy: Path, tiny_folder: TinyFolder) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (copy / name).unlink(missing_ok=True)
    assert "no tokenizer; give one with --tokenizer" in refusal(copy)
    assert load(copy, tokenizer=str(tiny_folder("llama"))).tokenizer.eos_token == "<|im_end|>"


def test_a_folder_without_chat_template_is_refused_and_takes_the_plain_one(copy: Path) -> None:
    (copy / "chat_template.jinja").unlink()
    assert "no chat template; give one with --chat-template" in refusal(copy)
    assert "User:" in load(copy, chat_template="plain").chat.template


def test_a_folder_without_config_is_refused(copy: Path) -> None:
    (copy / "config.json").unlink()
    assert "neither config.json nor adapter_config.json" in refusal(copy)


def test_the_folder_around_a_model_hints_at_it(copy: Path) -> None:
    shutil.copytree(copy, copy.parent / "run" / "model")
    assert f"did you mean {copy.parent / 'run' / 'model'}?" in refusal(copy.parent / "run")


def test_pickled_weights_are_refused(copy: Path) -> None:
    from safetensors.torch import load_file

    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    assert "only pickled weights (pytorch_model.bin); save it as safetensors" in refusal(copy)


def test_a_folder_without_weights_is_refused(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    assert "no weights" in refusal(copy)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_weights_are_refused_by_name(value: float, copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = value
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(NumericalError, match=r"NaN or infinity \(first in model\.layers\.1\.mlp\.up_proj\.weight\)"):
        load(copy)


def test_missing_weights_are_refused_by_name(copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    line = refusal(copy)
    assert "lacks weights (first: model.layers.0.mlp.up_proj.weight); it is damaged or incomplete" in line


def test_a_missing_shard_is_refused(tiny_model: TinyModel, tiny_tokenizer: Any, tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path, max_shard_size="50KB")
    tiny_tokenizer.save_pretrained(tmp_path)
    assert load(tmp_path).identity.kind == "folder"
    sorted(tmp_path.glob("model-*.safetensors"))[1].unlink()
    assert "cannot be loaded" in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x10", b"\xff" * 4000], ids=["empty", "short", "garbage"])
def test_a_damaged_weight_file_is_refused(content: bytes, copy: Path) -> None:
    (copy / "model.safetensors").write_bytes(content)
    assert "cannot be loaded" in refusal(copy)


def test_a_weight_file_cut_short_is_refused(copy: Path) -> None:
    whole = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "cannot be loaded" in refusal(copy)


@pytest.mark.parametrize(
    "changes",
    [{"hidden_size": 64}, {"hidden_size": "wide"}, {"model_type": "zork"}, {"model_type": "t5"}, {"model_type": ...}],
    ids=["other shapes", "wrong type", "unknown architecture", "no causal language model", "no architecture"],
)
def test_a_config_that_does_not_fit_is_refused(changes: dict[str, Any], copy: Path) -> None:
    edit_json(copy / "config.json", **changes)
    assert "cannot be loaded" in refusal(copy)


def test_a_config_that_is_no_json_is_refused(copy: Path) -> None:
    (copy / "config.json").write_text("{broken", "utf-8")
    assert "cannot be loaded" in refusal(copy)


def test_a_model_that_does_not_fit_in_memory_is_told_with_a_mend(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    def hungry(*args: Any, **options: Any) -> Any:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: 1 TB")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", hungry)
    with pytest.raises(MemoryExhausted, match=r"copy: does not fit in memory; use a smaller --dtype"):
        load(copy)


@pytest.mark.parametrize("content", ["{broken", "{}"])
def test_a_damaged_tokenizer_is_refused(content: str, copy: Path) -> None:
    (copy / "tokenizer.json").write_text(content, "utf-8")
    assert "tokenizer cannot be loaded" in refusal(copy)


def test_a_tokenizer_of_an_unknown_kind_is_refused(copy: Path) -> None:
    held = json.loads((copy / "tokenizer.json").read_text("utf-8"))
    edit_json(copy / "tokenizer.json", model={**held["model"], "type": "Zork"})
    assert "tokenizer cannot be loaded" in refusal(copy)


# --- specs ----------------------------------------------------------------------------------------------


def test_an_unknown_spec_is_refused_with_what_is_known() -> None:
    line = refusal("qwerty")
    assert line.startswith("qwerty: no such subject; give a model folder")
    assert "smollm2" in line


@pytest.mark.parametrize("text", ["./owner/name", "/nowhere/at/all", "model.gguf", "a/model.safetensors", "~/x/y"])
def test_missing_paths_are_not_taken_for_hub_ids(text: str) -> None:
    assert "no such subject" in refusal(text)


def test_a_file_that_is_no_gguf_is_refused(copy: Path) -> None:
    assert "a file that is no .gguf; name the folder" in refusal(copy / "model.safetensors")


@pytest.mark.parametrize(
    "content",
    [b"", b"GGUF", b"nonsense" * 10, b"GGUF\x03\0\0\0" + b"\xff" * 64, b"GGUF\x03\0\0\0" + bytes(80)],
    ids=["empty", "header cut short", "other magic", "garbage", "no metadata"],
)
def test_a_broken_gguf_is_refused_and_leaves_nothing(content: bytes, tmp_path: Path) -> None:
    from aftertune.model import cache_root

    (tmp_path / "model.gguf").write_bytes(content)
    assert "cannot be read as a GGUF model" in refusal(tmp_path / "model.gguf")
    assert not list(cache_root().glob(".convert-*"))


def test_hub_ids_and_revisions_are_parsed() -> None:
    spec = parse_spec("owner/some-model.v2@refs/pr/1")
    assert (spec.kind, spec.location, spec.revision) == ("hub", "owner/some-model.v2", "refs/pr/1")
    assert parse_spec("owner/name").revision is None
    assert parse_spec("smollm2").kind == "embedded"


def test_a_path_that_exists_wins_over_a_hub_id(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(copy, copy.parent / "owner" / "name")
    monkeypatch.chdir(copy.parent)
    assert parse_spec("owner/name").kind == "folder"


def test_a_hub_id_without_network_is_refused_quickly() -> None:
    start = time.monotonic()
    line = refusal("nobody/nothing")
    assert line.startswith("nobody/nothing: cannot be loaded")
    assert "connection to the Hugging Face hub" in line
    assert time.monotonic() - start < 10


@pytest.fixture
def hub(tiny_folder: TinyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache that holds me/tiny at the revisions main and plain, with different chat templates."""
    import huggingface_hub.constants

    cache = tmp_path / "hub"
    for revision, commit in (("main", "a" * 40), ("plain", "b" * 40)):
        snapshot = cache / "models--me--tiny" / "snapshots" / commit
        shutil.copytree(tiny_folder("llama"), snapshot)
        reference = cache / "models--me--tiny" / "refs" / revision
        reference.parent.mkdir(exist_ok=True)
        reference.write_text(commit, "utf-8")
    template = snapshot / "chat_template.jinja"
    template.write_text(template.read_text("utf-8").replace("helpful", "plain"), "utf-8")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    return cache


def test_a_cached_hub_model_loads_at_its_revision(hub: Path) -> None:
    main, plain = load("me/tiny"), load("me/tiny@plain")
    assert (main.identity.kind, main.identity.source, main.identity.revision) == ("hub", "me/tiny", "a" * 40)
    assert "a helpful AI" in main.chat.template
    assert "a plain AI" in plain.chat.template
    assert plain.identity.revision == "b" * 40


def test_an_adapter_on_a_hub_model_records_the_commit_of_its_base(hub: Path, plain_adapter: Path) -> None:
    identity = load(plain_adapter, base="me/tiny@plain").identity
    assert (identity.base, identity.revision) == ("me/tiny@plain", "b" * 40)


def test_an_adapter_takes_the_tokenizer_of_its_base_at_the_revision_of_its_base(hub: Path, plain_adapter: Path) -> None:
    assert "a plain AI" in load(plain_adapter, base="me/tiny@plain").chat.template


def test_a_revision_is_not_asked_of_another_tokenizer(hub: Path) -> None:
    (hub / "models--me--other").symlink_to(hub / "models--me--tiny")
    (hub / "models--me--tiny" / "refs" / "only").write_text("b" * 40, "utf-8")
    shutil.rmtree(hub / "models--me--other", ignore_errors=True)
    (hub / "models--me--other").unlink(missing_ok=True)
    shutil.copytree(hub / "models--me--tiny", hub / "models--me--other")
    (hub / "models--me--other" / "refs" / "plain").unlink()
    assert "a helpful AI" in load("me/tiny@plain", tokenizer="me/other").chat.template


def test_the_guard_stops_and_notes_who_reaches_out(reached_out: list[str]) -> None:
    with pytest.raises(pytest_socket.SocketConnectBlockedError), pytest.warns(UserWarning, match="connect"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with pytest.raises(pytest_socket.SocketConnectBlockedError), pytest.warns(UserWarning, match="connect"):
        socket.getaddrinfo("huggingface.co", 443)
    assert len(reached_out) == 2
    reached_out.clear()
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=1).close()
    assert not reached_out


# --- devices and precisions -----------------------------------------------------------------------------


def test_a_device_that_is_not_here_is_refused(copy: Path) -> None:
    with pytest.raises(UsageError, match=r"^device 'nonsense' cannot be used here .*; try --device cpu$"):
        load(copy, placement=Placement(device="nonsense"))


@pytest.mark.parametrize("settings", [{"dtype": "int8"}, {"max_batch_tokens": 0}, {"max_batch_tokens": -5}])
def test_a_placement_that_makes_no_sense_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Placement(**settings)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_loads_and_shares_prompts(dtype: str, copy: Path) -> None:
    subject = load(copy, placement=Placement(dtype=dtype, max_batch_tokens=77))
    assert subject.identity.dtype == dtype
    assert subject.shares_prompts
    assert subject.max_batch_tokens == 77
    assert subject.identity.weights_sha256 != load(copy).identity.weights_sha256


# --- adapters -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stabilised", "scale"), [(False, 2.0), (True, 4.0)])
def test_an_adapter_runs_at_the_scale_of_its_config(
    stabilised: bool, scale: float, plain_adapter: Path, stabilised_adapter: Path, tiny_folder: TinyFolder
) -> None:
    from safetensors.torch import load_file

    folder = stabilised_adapter if stabilised else plain_adapter
    subject = load(folder)
    digest = hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()
    facts = {"rank": 4, "alpha": 8, "rank_stabilised": stabilised, "scale": scale, "method": "LORA", "sha256": digest}
    assert subject.identity.kind == "adapter"
    assert subject.identity.adapter == facts
    assert subject.identity.base == str(tiny_folder("llama"))
    # By hand: W + scale · B A, in a plain model.
    model = load(tiny_folder("llama")).model
    weights = load_file(folder / "adapter_model.safetensors")
    with torch.no_grad():
        for key in [k for k in weights if "lora_A" in k]:
            name = key.removeprefix("base_model.model.").replace(".lora_A", "")
            model.get_parameter(name).add_(scale * weights[key.replace("lora_A", "lora_B")] @ weights[key])
    torch.testing.assert_close(logits(subject.model), logits(model), atol=1e-4, rtol=0)
    assert (logits(model) - logits(load(tiny_folder("llama")).model)).abs().max() > 0.1


@pytest.mark.parametrize("stabilised", [False, True])
def test_another_scale_than_the_config_says_is_refused(
    stabilised: bool, plain_adapter: Path, stabilised_adapter: Path
) -> None:
    model: Any = load(stabilised_adapter if stabilised else plain_adapter).model
    assert_scale(model, "x")
    layer = model.base_model.model.model.layers[1].mlp.down_proj
    layer.scaling["default"] /= math.sqrt(4)
    with pytest.raises(
        SubjectError, match=r"^x: .*layers\.1\.mlp\.down_proj runs its adapter at scale .*, its config says"
    ):
        assert_scale(model, "x")


@pytest.mark.parametrize("stabilised", [False, True])
def test_merging_in_fp32_keeps_the_logits(stabilised: bool, plain_adapter: Path, stabilised_adapter: Path) -> None:
    folder = stabilised_adapter if stabilised else plain_adapter
    beside, merged = load(folder), load(folder, merge=True)
    assert not hasattr(merged.model, "peft_config")
    torch.testing.assert_close(logits(merged.model), logits(beside.model), atol=1e-4, rtol=0)
    assert merged.identity.adapter == beside.identity.adapter
    case = PromptAnswers((5, 6, 7), ((8, 9),))
    assert score(merged, [case])[0][0].total == pytest.approx(score(beside, [case])[0][0].total, abs=1e-3)


def test_merging_in_bfloat16_is_refused(plain_adapter: Path) -> None:
    with pytest.raises(SubjectError, match=r"merging needs fp32 weights, these are .*bfloat16.*; use --dtype float32"):
        load(plain_adapter, merge=True, placement=Placement(dtype="bfloat16"))


def test_merging_that_moves_logits_is_refused(plain_adapter: Path) -> None:
    with pytest.raises(NumericalError, match="merging the adapter moved logits by"):
        merge_adapter(load(plain_adapter).model, IDS, tolerance=-1.0)


def test_the_base_may_be_given(plain_adapter: Path, copy: Path) -> None:
    subject = load(plain_adapter, base=str(copy))
    assert subject.identity.base == str(copy)
    assert subject.identity.weights_sha256 == load(plain_adapter).identity.weights_sha256


def test_an_adapter_without_tokenizer_uses_that_of_its_base(plain_adapter: Path, copy: Path) -> None:
    assert not (plain_adapter / "tokenizer_config.json").exists()
    assert load(plain_adapter).chat.digest == load(copy).chat.digest


def test_an_adapter_with_tokenizer_uses_its_own(
    plain_adapter: Path, copy: Path, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(plain_adapter, tmp_path / "adapter"))
    tiny_tokenizer.save_pretrained(folder)
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text("utf-8").replace("helpful", "own"), "utf-8")
    assert "an own AI".replace("an ", "a ") in load(folder).chat.template


def test_an_adapter_that_names_no_base_is_refused_and_takes_one(
    plain_adapter: Path, tiny_folder: TinyFolder, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(plain_adapter, tmp_path / "adapter"))
    edit_json(folder / "adapter_config.json", base_model_name_or_path=None)
    assert "names no base model; give one with --base" in refusal(folder)
    assert load(folder, base=str(tiny_folder("llama"))).identity.kind == "adapter"


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 64},
        {"num_hidden_layers": 1},
        {"num_hidden_layers": 3},
        {"num_key_value_heads": 4},
    ],
    ids=["wider", "shallower", "deeper", "other heads"],
)
def test_a_base_of_other_shapes_is_refused(
    change: dict[str, Any], plain_adapter: Path, tiny_model: TinyModel, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    save_model(tiny_model("llama", **change), tiny_tokenizer, tmp_path / "base")
    assert "give the right one with --base" in refusal(plain_adapter, base=str(tmp_path / "base"))


@pytest.mark.parametrize("other", ["gpt2", "mixtral"])
def test_a_base_of_another_architecture_is_refused(other: str, plain_adapter: Path, tiny_folder: TinyFolder) -> None:
    assert "give the right one with --base" in refusal(plain_adapter, base=str(tiny_folder(other)))


def test_an_adapter_on_an_adapter_runs_both(
    plain_adapter: Path, stabilised_adapter: Path, tiny_folder: TinyFolder
) -> None:
    both = load(plain_adapter, base=str(stabilised_adapter))
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    expected = AutoModelForCausalLM.from_pretrained(tiny_folder("llama"))
    for folder in (stabilised_adapter, plain_adapter):
        expected = peft.PeftModel.from_pretrained(expected, folder).merge_and_unload()
    ids = torch.tensor([[5, 9, 17, 40, 3, 8]])
    with torch.no_grad():
        torch.testing.assert_close(both.model(ids).logits, expected(ids).logits, atol=1e-4, rtol=1e-4)
        alone = load(plain_adapter).model(ids).logits
    assert (both.model(ids).logits - alone).abs().max() > 1e-3


def test_an_adapter_that_names_itself_as_base_is_refused(plain_adapter: Path) -> None:
    assert "names itself as its base" in refusal(plain_adapter, base=str(plain_adapter))


def test_a_missing_base_is_refused(plain_adapter: Path) -> None:
    assert "no such subject" in refusal(plain_adapter, base="/nowhere")


def test_pickled_adapters_are_refused(plain_adapter: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(plain_adapter, tmp_path / "adapter"))
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    assert "pickled .bin adapters are not loaded" in refusal(folder)


@pytest.mark.parametrize("text", ["{broken", "[]"])
def test_a_broken_adapter_config_is_refused(text: str, plain_adapter: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(plain_adapter, tmp_path / "adapter"))
    (folder / "adapter_config.json").write_text(text, "utf-8")
    assert str(folder / "adapter_config.json") in refusal(folder)


def test_an_adapter_file_cut_short_is_refused(plain_adapter: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(plain_adapter, tmp_path / "adapter"))
    whole = (folder / "adapter_model.safetensors").read_bytes()
    (folder / "adapter_model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert str(folder) in refusal(folder)


def test_broken_adapter_weights_are_refused_by_name(plain_adapter: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(plain_adapter, tmp_path / "adapter"))
    weights = load_file(folder / "adapter_model.safetensors")
    name = sorted(weights)[0]
    weights[name][0, 0] = float("nan")
    save_file(weights, folder / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(NumericalError, match=r"NaN or infinity \(first in .*lora_"):
        load(folder)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("LoraConfig", {"use_dora": True}),
        ("LoraConfig", {"target_modules": "all-linear"}),
        ("LoraConfig", {"target_modules": ["q_proj", "embed_tokens", "lm_head"]}),
        ("LoraConfig", {"modules_to_save": ["lm_head"]}),
        ("LoraConfig", {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 3}}),
        ("IA3Config", {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}),
        ("LoHaConfig", {"r": 4, "alpha": 8, "target_modules": ["q_proj"]}),
        ("AdaLoraConfig", {"target_modules": ["q_proj"], "total_step": 10}),
    ],
    ids=["DoRA", "all linear", "embeddings and head", "module saved", "patterns", "IA3", "LoHa", "AdaLoRA"],
)
def test_adapters_of_every_common_kind_load_and_merge(
    method: str, settings: dict[str, Any], make_adapter: MakeAdapter, tiny_folder: TinyFolder
) -> None:
    folder = make_adapter(method, **settings)
    subject = load(folder)
    assert subject.shares_prompts
    assert subject.vocabulary == 320
    assert (logits(subject.model) - logits(load(tiny_folder("llama")).model)).abs().max() > 1e-3
    torch.testing.assert_close(logits(load(folder, merge=True).model), logits(subject.model), atol=1e-3, rtol=0)


@pytest.mark.parametrize("method", ["PromptTuningConfig", "PrefixTuningConfig"])
def test_an_adapter_with_tokens_of_its_own_is_refused(
    method: str, make_adapter: MakeAdapter, tiny_model: TinyModel, tiny_tokenizer: Any
) -> None:
    import peft

    assert "puts tokens of its own before the prompt; use LoRA" in refusal(make_adapter(method, num_virtual_tokens=3))
    config = getattr(peft, method)(num_virtual_tokens=3, task_type="CAUSAL_LM")
    with pytest.raises(SubjectError, match=r"^mine: .* puts tokens of its own"):
        as_subject(peft.get_peft_model(tiny_model("llama"), config), tiny_tokenizer, "mine")


def test_an_adapter_config_that_leaves_out_defaults_loads(plain_adapter: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(plain_adapter, tmp_path / "adapter"))
    edit_json(folder / "adapter_config.json", lora_alpha=..., use_rslora=...)  # PEFT's default alpha is 8
    assert load(folder).identity.adapter == load(plain_adapter).identity.adapter


@pytest.mark.parametrize(
    "changes", [{"r": "four"}, {"r": 0}, {"peft_type": "ZORK"}, {"peft_type": ...}, {"target_modules": ["zork"]}]
)
def test_an_adapter_config_that_makes_no_sense_is_refused(
    changes: dict[str, Any], plain_adapter: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(plain_adapter, tmp_path / "adapter"))
    edit_json(folder / "adapter_config.json", **changes)
    assert refusal(folder).startswith(str(folder))


def test_an_adapter_that_cannot_be_merged_is_told_in_one_line(make_adapter: MakeAdapter) -> None:
    folder = make_adapter(lora_bias=True)  # the base has no bias to merge it into
    assert load(folder).identity.kind == "adapter"
    assert "merg" in refusal(folder, merge=True).lower()


# --- digests and live models ----------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen2", "mixtral"])
def test_the_digest_survives_saving_and_loading(architecture: str, tiny_folder: TinyFolder, tmp_path: Path) -> None:
    subject = load(tiny_folder(architecture))
    save_model(subject.model, subject.tokenizer, tmp_path / "again")
    again = load(tmp_path / "again")
    assert again.identity.weights_sha256 == subject.identity.weights_sha256
    assert again.identity.template_sha256 == subject.identity.template_sha256


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_digest_changes_with_one_bit(architecture: str, tiny_model: TinyModel) -> None:
    model = tiny_model(architecture)
    before = weights_digest(model)
    for parameter in (list(model.parameters())[3], list(model.parameters())[-1]):
        bits = parameter.data.view(-1).view(torch.int32)
        bits[-1] ^= 1
        assert weights_digest(model) != before
        bits[-1] ^= 1
    assert weights_digest(model) == before


def test_the_digest_changes_with_names_shapes_and_types() -> None:
    def model(name: str, *shape: int, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
        module = torch.nn.Module()
        module.register_parameter(name, torch.nn.Parameter(torch.zeros(*shape, dtype=dtype)))
        return module

    made = [model("a", 2, 3), model("b", 2, 3), model("a", 3, 2), model("a", 6), model("a", 2, 3, dtype=torch.float64)]
    assert len({weights_digest(m) for m in made}) == len(made)


def test_tied_weights_count_once(tiny_model: TinyModel) -> None:
    module = torch.nn.Module()
    shared = torch.nn.Parameter(torch.randn(3, 4))
    module.register_parameter("a", shared)
    alone = weights_digest(module)
    module.register_parameter("b", shared)
    assert weights_digest(module) == alone
    module.register_parameter("b", torch.nn.Parameter(shared.detach().clone()))
    assert weights_digest(module) != alone


def test_the_digest_of_strided_empty_and_scalar_tensors() -> None:
    module = torch.nn.Module()
    module.register_buffer("strided", torch.arange(12.0).view(3, 4).t())
    module.register_buffer("empty", torch.zeros(0, 3))
    module.register_buffer("scalar", torch.tensor(True))
    same = torch.nn.Module()
    same.register_buffer("strided", torch.arange(12.0).view(3, 4).t().contiguous())
    same.register_buffer("empty", torch.zeros(0, 3))
    same.register_buffer("scalar", torch.tensor(True))
    assert weights_digest(module) == weights_digest(same)


def test_a_live_model_is_a_subject(tiny_model: TinyModel, tiny_tokenizer: Any, tiny_folder: TinyFolder) -> None:
    subject = as_subject(tiny_model("llama").train(), tiny_tokenizer, "mine")
    assert (subject.identity.spec, subject.identity.kind) == ("mine", "live")
    assert subject.identity.weights_sha256 == load(tiny_folder("llama")).identity.weights_sha256
    assert not subject.model.training


def test_a_broken_live_model_is_refused(tiny_model: TinyModel, tiny_tokenizer: Any) -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(NumericalError, match=r"^mine: .*first in model\.norm\.weight"):
        as_subject(model, tiny_tokenizer, "mine")


# --- saving ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "empty folder", "file"])
def test_saving_never_overwrites(kind: str, tiny_model: TinyModel, tiny_tokenizer: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        if kind == "folder":
            (out / "mine").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError, match="never overwritten, choose another --out"):
        save_model(tiny_model("llama"), tiny_tokenizer, out)
    assert sorted(tmp_path.rglob("*")) == before


def test_saving_makes_the_parents_and_leaves_only_the_folder(
    tiny_model: TinyModel, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    save_model(tiny_model("llama"), tiny_tokenizer, tmp_path / "a" / "b")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
    assert (tmp_path / "a" / "b" / "model.safetensors").exists()


def test_saving_under_a_file_is_refused(tiny_model: TinyModel, tiny_tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError):
        save_model(tiny_model("llama"), tiny_tokenizer, tmp_path / "file" / "out")
