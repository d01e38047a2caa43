"""What is wrong with a subject is known from its small files: the same complaints as when it is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from aftertune.errors import AftertuneError, PatchError, SubjectError, UsageError
from aftertune.model import Placement, check_subject, load

TinyFolder = Callable[[str], Path]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture
def copy(tiny_folder: TinyFolder, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder("llama"), tmp_path / "model"))


@pytest.fixture
def adapter(copy: Path, tmp_path: Path) -> Path:
    import peft
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(copy)
    live: Any = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    live.save_pretrained(tmp_path / "adapter")
    edit(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path=str(copy))
    return tmp_path / "adapter"


def edit(path: Path, **changed: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changed}), "utf-8")


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model may be made."""
    import transformers

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("a model was loaded")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", refuse)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen2", "mixtral"])
def test_a_sound_subject_passes_without_its_weights(
    architecture: str, tiny_folder: TinyFolder, no_weights: None
) -> None:
    chat = check_subject(tiny_folder(architecture))
    assert chat is not None
    assert chat.template


def test_a_sound_adapter_passes_and_has_the_tokenizer_of_its_base(adapter: Path, copy: Path) -> None:
    chat, base = check_subject(adapter), check_subject(copy)
    assert chat is not None
    assert base is not None
    assert chat.digest == base.digest


def damage(name: str, content: str | bytes) -> Callable[[Path], None]:
    return lambda folder: (
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode()) and None
    )


def remove(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink(missing_ok=True) for name in names] and None


def without_template(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", chat_template=None)
    (folder / "chat_template.jinja").unlink(missing_ok=True)


def broken_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    edit(folder / "tokenizer_config.json", chat_template="{% for message in %}")


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def sharded(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}), "utf-8")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (remove("config.json"), "neither config.json nor adapter_config.json"),
        (damage("config.json", "{"), "cannot be loaded"),
        (damage("config.json", "[" * 100_000), "cannot be loaded (nested too deeply)"),
        (damage("config.json", '{"model_type": "nothing_known"}'), "cannot be loaded"),
        (damage("config.json", '{"model_type": "vit"}'), "continues no text"),
        (remove("tokenizer.json", "tokenizer.model", "vocab.json"), "no tokenizer"),
        (damage("tokenizer.json", "{"), "its tokenizer cannot be loaded"),
        (without_template, "no chat template"),
        (broken_template, "its chat template cannot be read"),
        (damage("model.safetensors", b"garbage" * 10), "model.safetensors: cannot be loaded"),
        (damage("model.safetensors", b""), "model.safetensors: cannot be loaded"),
        (pickled, "only pickled weights"),
        (sharded, "model-00002-of-00002.safetensors"),
        (lambda folder: edit(folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4}), "quantised"),
    ],
)  # fmt: skip
def test_what_load_would_refuse_is_refused(
    change: Callable[[Path], None], says: str, copy: Path, no_weights: None
) -> None:
    change(copy)
    with pytest.raises(SubjectError) as caught:
        check_subject(copy)
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_the_end_of_a_weight_file_that_is_cut_short_is_missed(copy: Path) -> None:
    whole = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(whole[:-10])
    with pytest.raises(SubjectError, match=r"model.safetensors: cannot be loaded .*copy it again"):
        check_subject(copy)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("{", "cannot be read"),
        ("[" * 100_000, r"cannot be read \(nested too deeply\)"),
        ("[]", "must hold a JSON object"),
        ("{}", "names no base model"),
        ('{"base_model_name_or_path": "nowhere"}', "its base, nowhere, cannot be found .*--base"),
        ('{"base_model_name_or_path": "~nouser/x"}', "its base, ~nouser/x, cannot be found .*--base"),
    ],
)
def test_a_broken_adapter_is_refused(config: str, says: str, adapter: Path, no_weights: None) -> None:
    (adapter / "adapter_config.json").write_text(config, "utf-8")
    with pytest.raises(SubjectError, match=says):
        check_subject(adapter)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_adapters_that_are_each_others_base_are_refused(length: int, adapter: Path, tmp_path: Path) -> None:
    ring = [Path(shutil.copytree(adapter, tmp_path / f"ring{n}")) for n in range(length)]
    for one, other in zip(ring, [*ring[1:], ring[0]], strict=True):
        edit(one / "adapter_config.json", base_model_name_or_path=str(other))
    with pytest.raises(SubjectError, match="give the right one with --base"):
        check_subject(ring[0])


def test_a_base_that_is_given_takes_the_place_of_the_adapters(adapter: Path, tiny_folder: TinyFolder) -> None:
    edit(adapter / "adapter_config.json", base_model_name_or_path="nowhere")
    check_subject(adapter, base=str(tiny_folder("llama")))
    with pytest.raises(SubjectError, match="no such subject"):
        check_subject(adapter, base="elsewhere")


def test_options_are_checked_too(copy: Path, tmp_path: Path, no_weights: None) -> None:
    (tmp_path / "broken.jinja").write_text("{% if %}", "utf-8")
    cases: list[tuple[dict[str, Any], type[AftertuneError]]] = [
        ({"chat_template": "none.jinja"}, UsageError),
        ({"chat_template": str(tmp_path / "broken.jinja")}, SubjectError),
        ({"chat_template": str(tmp_path)}, UsageError),
        ({"tokenizer": str(tmp_path)}, SubjectError),
        ({"tokenizer": "no/such"}, SubjectError),
        ({"placement": Placement(device="meta")}, UsageError),
        ({"placement": Placement(device="cuda:99")}, UsageError),
    ]
    for options, kind in cases:
        with pytest.raises(kind):
            check_subject(copy, **options)


def test_a_hub_id_that_cannot_be_reached_is_refused(no_weights: None) -> None:
    with pytest.raises(SubjectError, match="check the spelling, or your connection"):
        check_subject("nobody/has-this-model")


def test_a_patch_and_a_gguf_file_are_looked_at(copy: Path, tmp_path: Path, no_weights: None) -> None:
    (tmp_path / "p.safetensors").write_bytes(b"garbage" * 10)
    with pytest.raises(SubjectError, match=r"p.safetensors: cannot be loaded"):
        check_subject(f"{copy}+{tmp_path / 'p.safetensors'}")
    with pytest.raises(PatchError, match="there is no patch file"):
        check_subject(f"{copy}+{tmp_path / 'none.safetensors'}")
    (tmp_path / "m.gguf").write_bytes(b"FUGG" * 10)
    with pytest.raises(SubjectError, match="is no GGUF file"):
        check_subject(tmp_path / "m.gguf")


def test_what_passes_can_be_loaded(adapter: Path, copy: Path) -> None:
    for spec in (adapter, copy):
        check_subject(spec)
        assert load(spec).identity.weights_sha256
