"""``SUBJECT+PATCH``: how it is read, what it loads, and what is recorded of it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from aftertune.errors import AftertuneError, PatchError, SubjectError
from aftertune.model import (
    Placement,
    SubjectChoice,
    WeightView,
    load,
    make_patch,
    matrix_digest,
    parse_spec,
    read_patch,
    save_model,
    weights_digest,
    write_patch,
)
from aftertune.runs import write_json
from aftertune.tuning import known_base, refuse_other_base

TinyFolder = Callable[[str], Path]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
ARCHITECTURES = ("llama", "gpt2", "qwen2", "mixtral")
IDS = torch.arange(3, 40)[None]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


def patched(spec: object, path: Path, *, factor: float = -1.0, seed: int = 0, **options: Any) -> Path:
    """A patch of twenty weights in every matrix of a subject, written to ``path``."""
    view = WeightView(load(str(spec), merge=True, **options).model)
    generator = torch.Generator().manual_seed(seed)
    chosen = {name: torch.randperm(m.weights, generator=generator)[:20] for name, m in view.items()}
    write_patch(path, make_patch(view, chosen, "scale", {"formula": "test"}, factor=factor))
    return path


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def model(tiny_folder: TinyFolder, place: Path) -> Path:
    """A folder called "model" in the working directory."""
    return Path(shutil.copytree(tiny_folder("llama"), place / "model")).relative_to(place)


@pytest.fixture
def adapter(model: Path, place: Path) -> Path:
    """A LoRA adapter on "model", with nonzero B."""
    import peft
    from transformers import AutoModelForCausalLM

    torch.manual_seed(5)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(model), config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.2)
    adapted.save_pretrained(place / "adapter")
    return Path("adapter")


# --- reading the string ---------------------------------------------------------------------------------


def test_what_follows_a_plus_is_a_patch(model: Path, place: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        (place / name).touch()
    spec = parse_spec("model+a.safetensors+b.safetensors")
    assert (spec.kind, spec.location) == ("folder", "model")
    assert (spec.text, spec.unpatched) == ("model+a.safetensors+b.safetensors", "model")
    assert spec.patches == ("a.safetensors", "b.safetensors")
    assert parse_spec("model+b.safetensors+b.safetensors").patches == ("b.safetensors", "b.safetensors")
    assert parse_spec(f"smollm2+{place / 'a.safetensors'}").patches == (str(place / "a.safetensors"),)
    hub = parse_spec("owner/name@v1+a.safetensors")
    assert (hub.kind, hub.location, hub.revision, hub.unpatched) == ("hub", "owner/name", "v1", "owner/name@v1")
    assert parse_spec("model").patches == ()
    assert parse_spec("model").unpatched == "model"


def test_a_home_is_found_on_both_sides(model: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(place))
    (place / "a.safetensors").touch()
    spec = parse_spec("~/model+~/a.safetensors")
    assert (spec.location, spec.patches) == (str(place / "model"), (str(place / "a.safetensors"),))


def test_a_path_that_exists_is_not_split(model: Path, place: Path) -> None:
    shutil.copytree(model, "model+a.safetensors")
    (place / "a.safetensors").touch()
    assert parse_spec("model+a.safetensors").patches == ()
    assert parse_spec("model+a.safetensors+a.safetensors").location == "model+a.safetensors"
    (place / "x+y.safetensors").touch()
    (place / "x.safetensors").touch()
    assert parse_spec("model+x+y.safetensors").patches == ("x+y.safetensors",)
    assert parse_spec("model+x.safetensors+x+y.safetensors").patches == ("x.safetensors", "x+y.safetensors")


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("model+none.safetensors", PatchError, "there is no patch file none.safetensors; check the path"),
        ("model+", PatchError, "must come a patch file (.safetensors), not ''"),
        ("model+notes.txt", PatchError, "must come a patch file (.safetensors), not 'notes.txt'"),
        ("model+a.safetensors+", PatchError, "not ''"),
        ("smollm2+money", PatchError, "not 'money'"),
        ("nowhere+a.safetensors", SubjectError, "nowhere: no such subject"),
        ("model+" + "x" * 5000, PatchError, "must come a patch file"),
    ],
)
def test_what_is_no_patch_is_named(text: str, kind: type[AftertuneError], says: str, model: Path, place: Path) -> None:
    (place / "a.safetensors").touch()
    (place / "notes.txt").touch()
    with pytest.raises(kind) as caught:
        parse_spec(text)
    assert says in str(caught.value)


# --- loading --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_patched_subject_is_the_subject_patched_by_hand(
    architecture: str, dtype: str, tiny_folder: TinyFolder, tmp_path: Path
) -> None:
    folder, placement = tiny_folder(architecture), Placement(dtype=dtype)
    file = patched(folder, tmp_path / "p.safetensors")
    subject, by_hand = load(f"{folder}+{file}", placement=placement), load(folder, placement=placement)
    view = WeightView(by_hand.model)
    before = {name: matrix_digest(m) for name, m in view.items()}
    with torch.no_grad():
        for name, edit in read_patch(file).edits.items():
            view[name].parameter.view(-1)[edit.index] *= -1
    assert torch.equal(logits(subject.model), logits(by_hand.model))
    assert not torch.equal(logits(subject.model), logits(load(folder, placement=placement).model))
    identity = subject.identity
    assert identity.weights_sha256 == weights_digest(by_hand.model)
    assert (identity.spec, identity.kind, identity.source) == (f"{folder}+{file}", "folder", str(folder))
    assert identity.patches == [
        {
            "file": "p.safetensors",
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "operation": "scale",
            "weights": 20 * len(view),
            "checked": "whole matrices" if dtype == "float32" else "touched weights",
        }
    ]
    assert by_hand.identity.patches is None
    read_patch(file).undo(WeightView(subject.model))
    assert {name: matrix_digest(m) for name, m in WeightView(subject.model).items()} == before


def test_the_result_may_be_saved_and_loaded(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    folder = tiny_folder("mixtral")
    subject = load(f"{folder}+{patched(folder, tmp_path / 'p.safetensors')}")
    save_model(subject.model, subject.tokenizer, tmp_path / "saved")
    assert load(tmp_path / "saved").identity.weights_sha256 == subject.identity.weights_sha256


def test_patches_go_on_in_order(model: Path, place: Path) -> None:
    patched("model", place / "a.safetensors")
    patched("model+a.safetensors", place / "b.safetensors", factor=3.0)
    both = load("model+a.safetensors+b.safetensors")
    assert [facts["file"] for facts in both.identity.patches or []] == ["a.safetensors", "b.safetensors"]
    with pytest.raises(PatchError, match=r"^b\.safetensors: .* has other values"):
        load("model+b.safetensors+a.safetensors")
    with pytest.raises(PatchError, match=r"^a\.safetensors: is applied already$"):
        load("model+a.safetensors+a.safetensors")
    view = WeightView(both.model)
    for name in ("b", "a"):
        read_patch(place / f"{name}.safetensors").undo(view)
    assert weights_digest(both.model) == load("model").identity.weights_sha256


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_another_models_patch_is_refused_in_any_precision(
    dtype: str, model: Path, place: Path, tiny_model: Any
) -> None:
    save_model(tiny_model("llama", initializer_range=0.1), load("model").tokenizer, place / "other")
    patched("other", place / "p.safetensors")
    with pytest.raises(PatchError, match=r"^p\.safetensors: .* has other values than the patch was made for"):
        load("model+p.safetensors", placement=Placement(dtype=dtype))


def test_a_change_beside_the_patch_is_noticed(model: Path, place: Path) -> None:
    from safetensors.torch import load_file, save_file

    patched("model", place / "p.safetensors")
    weights = load_file(model / "model.safetensors")
    name, edit = next(iter(read_patch(place / "p.safetensors").edits.items()))
    beside = next(i for i in range(100) if i not in edit.index.tolist())
    weights[name].view(-1)[beside] += 1
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(PatchError, match="has other values"):
        load("model+p.safetensors")


def test_a_patch_that_could_only_be_checked_in_part_is_told(model: Path, place: Path) -> None:
    said: list[str] = []

    class Listener:
        say = staticmethod(said.append)

    patched("model", place / "p.safetensors")
    listener: Any = Listener()
    load("model+p.safetensors", placement=Placement(dtype="bfloat16"), progress=listener)
    assert said == ["p.safetensors: made in float32, so here only the touched weights could be checked"]


def test_a_damaged_patch_is_refused(model: Path, place: Path) -> None:
    whole = patched("model", place / "p.safetensors").read_bytes()
    (place / "p.safetensors").write_bytes(whole[:-3])
    with pytest.raises(PatchError, match=r"^p\.safetensors: is no patch, or a damaged one"):
        load("model+p.safetensors")


def test_a_patched_adapter_is_merged_first(adapter: Path, place: Path) -> None:
    patched("adapter", place / "p.safetensors")
    subject, merged = load("adapter+p.safetensors"), load("adapter", merge=True)
    assert not hasattr(subject.model, "peft_config")
    assert subject.identity.kind == "adapter"
    assert subject.identity.adapter == merged.identity.adapter
    read_patch(place / "p.safetensors").apply(WeightView(merged.model))
    assert torch.equal(logits(subject.model), logits(merged.model))
    assert subject.identity.weights_sha256 == weights_digest(merged.model)
    with pytest.raises(PatchError, match="has other values"):
        load("model+p.safetensors")
    with pytest.raises(SubjectError, match="merging needs fp32"):
        load("adapter+p.safetensors", placement=Placement(dtype="bfloat16"))


def test_an_adapter_may_sit_on_a_patched_base(adapter: Path, place: Path) -> None:
    patched("model", place / "p.safetensors")
    beside = load("adapter", base="model+p.safetensors")
    saved = load("model+p.safetensors")
    save_model(saved.model, saved.tokenizer, place / "saved")
    assert torch.equal(logits(beside.model), logits(load("adapter", base="saved").model))
    assert (beside.identity.base, beside.identity.patches) == ("model+p.safetensors", None)


# --- runs and audits ------------------------------------------------------------------------------------


def record(spec: str, sha256: str = "") -> dict[str, Any]:
    """The part of `tune`'s record that audits read."""
    return {"base": {"spec": spec, "weights_sha256": sha256, "dtype": "float32"}, "data": {"prompts": []}}


def test_the_base_of_a_patched_subject_is_that_of_the_subject_if_it_knows_one(adapter: Path, place: Path) -> None:
    (place / "a.safetensors").touch()
    assert known_base("model+a.safetensors") == "model"
    assert known_base("smollm2+a.safetensors+a.safetensors") == "smollm2"
    assert known_base("adapter+a.safetensors") == known_base("adapter") == "model"
    write_json(place / "model" / "aftertune.json", record("owner/first"))
    assert known_base("model+a.safetensors") == known_base("model") == "owner/first"


def test_a_patched_fine_tune_may_be_compared_to_itself_unpatched(model: Path, place: Path) -> None:
    patched("model", place / "p.safetensors")
    write_json(place / "model" / "aftertune.json", record("base", "0" * 64))
    identity = load("model").identity.as_dict()
    refuse_other_base(SubjectChoice("model+p.safetensors"), identity)
    with pytest.raises(SubjectError, match="was tuned from weights 000000000000"):
        refuse_other_base(SubjectChoice("model"), identity)
