"""Vector files: what is stored comes back, ``SUBJECT+VECTOR`` runs with it and is another subject, damage is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from aftertune.errors import OutputError, PatchError, SubjectError, UsageError
from aftertune.model import (
    SteeringVector,
    SubjectChoice,
    WeightView,
    load,
    make_patch,
    make_vector,
    read_patch,
    read_vector,
    save_model,
    steered,
    subject_content,
    write_patch,
    write_vector,
)

TinyFolder = Callable[[str], Path]
IDS = torch.arange(3, 40)[None]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


def vector_of(spec: Path, *layers: int, seed: int = 0) -> SteeringVector:
    generator = torch.Generator().manual_seed(seed)
    parts = {layer: torch.randn(32, generator=generator) for layer in layers}
    return make_vector(parts, load(spec).identity, {"made": "for a test", "rows": 3})


@pytest.fixture
def folder(tiny_folder: TinyFolder) -> Path:
    return tiny_folder("llama")


@pytest.fixture
def stored(folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "evil.safetensors"
    write_vector(path, vector_of(folder, 0, 1))
    return path


def test_a_vector_comes_back_as_it_was(folder: Path, stored: Path, tmp_path: Path) -> None:
    made, read = vector_of(folder, 0, 1), read_vector(stored)
    assert list(read.layers) == [0, 1]
    assert all(torch.equal(read.layers[layer], made.layers[layer]) for layer in (0, 1))
    assert read.about == {"made": "for a test", "rows": 3}
    assert read.base == {"spec": str(folder), "weights_sha256": load(folder).identity.weights_sha256}
    assert read.norms[1] == pytest.approx(float(made.layers[1].square().sum()) ** 0.5)
    write_vector(tmp_path / "again.safetensors", made)
    assert (tmp_path / "again.safetensors").read_bytes() == stored.read_bytes()
    assert torch.equal(read.scaled(-2).layers[0], made.layers[0] * -2)
    assert read.scaled(-2).scaled(3).about["factor"] == -6


def test_a_subject_with_a_vector_runs_as_one_in_a_block(folder: Path, stored: Path) -> None:
    plain = load(folder)
    named = load(f"{folder}+{stored}")
    with steered(plain, read_vector(stored).layers):
        expected = logits(plain.model)
    assert torch.equal(logits(named.model), expected)
    assert not torch.allclose(logits(plain.model), expected, atol=1e-2)
    [facts] = named.identity.patches or []
    assert (facts["operation"], facts["layers"], facts["checked"]) == ("steer", [0, 1], "same weights")


def test_a_steered_subject_is_another_one(folder: Path, stored: Path, tmp_path: Path) -> None:
    """The weights are the same, so a verdict that went by them alone would pass it unseen."""
    plain, named = load(folder), load(f"{folder}+{stored}")
    assert named.identity.weights_sha256 == plain.identity.weights_sha256
    assert named.identity.config_sha256 != plain.identity.config_sha256
    assert named.identity.content != plain.identity.content
    write_vector(tmp_path / "other.safetensors", read_vector(stored).scaled(1.5))
    other = load(f"{folder}+{tmp_path / 'other.safetensors'}")
    assert len({s.identity.config_sha256 for s in (plain, named, other)}) == 3
    assert load(f"{folder}+{stored}").identity.config_sha256 == named.identity.config_sha256
    contents = [subject_content(f"{folder}+{tmp_path / name}") for name in ("evil.safetensors", "other.safetensors")]
    assert contents[0] != contents[1] != subject_content(folder)


def test_vectors_and_patches_follow_each_other(folder: Path, stored: Path, tmp_path: Path) -> None:
    view = WeightView(load(folder).model)
    write_patch(tmp_path / "zero.safetensors", make_patch(view, {next(iter(view)): torch.arange(9)}, "zero", {}))
    both = load(f"{folder}+{tmp_path / 'zero.safetensors'}+{stored}+{stored}")
    assert [facts["operation"] for facts in both.identity.patches or []] == ["zero", "steer", "steer"]
    patched = load(f"{folder}+{tmp_path / 'zero.safetensors'}")
    with steered(patched, read_vector(stored).scaled(2).layers):
        torch.testing.assert_close(logits(patched.model), logits(both.model), rtol=1e-4, atol=1e-4)


def test_a_vector_of_another_fine_tune_is_taken_and_noted(
    folder: Path, stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from aftertune.runs import Plain

    subject = load(folder)
    with torch.no_grad():
        next(iter(WeightView(subject.model).values())).parameter.add_(0.01)
    save_model(subject.model, subject.tokenizer, tmp_path / "tuned")
    named = load(f"{tmp_path / 'tuned'}+{stored}", progress=Plain())
    assert "was made on other weights" in capsys.readouterr().err
    assert (named.identity.patches or [])[0]["checked"] == "width and layers"


def test_a_vector_that_does_not_fit_is_refused_before_and_at_loading(
    folder: Path, tmp_path: Path, tiny_model: Callable[..., Any], tiny_tokenizer: Any
) -> None:
    deep = make_vector({5: torch.ones(32)}, load(folder).identity)
    wide = make_vector({0: torch.ones(48)}, load(folder).identity)
    for name, vector, why in (("deep", deep, "layer 5 does not exist"), ("wide", wide, r"has shape \(48,\)")):
        path = tmp_path / f"{name}.safetensors"
        write_vector(path, vector)
        with pytest.raises(PatchError, match=why):
            SubjectChoice(f"{folder}+{path}").check()
        with pytest.raises(PatchError, match=why):
            load(f"{folder}+{path}")


def test_a_file_that_is_no_vector_or_was_changed_is_refused(folder: Path, stored: Path, tmp_path: Path) -> None:
    tensors = load_file(stored)
    from safetensors import safe_open

    with safe_open(stored, "pt") as file:
        header = file.metadata()
    changed = tmp_path / "changed.safetensors"
    save_file({**tensors, "layer.0": tensors["layer.0"] * 2}, changed, header)
    with pytest.raises(PatchError, match="does not match its digest"):
        read_vector(changed)
    with pytest.raises(PatchError, match="does not match its digest"):
        SubjectChoice(f"{folder}+{changed}").check()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(stored.read_bytes()[:-5])
    with pytest.raises(PatchError, match="no steering vector, or a damaged one"):
        read_vector(cut)
    with pytest.raises(PatchError, match="cannot be read"):
        read_vector(tmp_path / "absent.safetensors")
    with pytest.raises(OutputError, match="never overwritten"):
        write_vector(stored, read_vector(stored))
    for parts in ({}, {0: torch.ones(2, 32)}, {0: torch.ones(32), 1: torch.ones(3)}, {0: torch.full((32,), torch.inf)}):
        with pytest.raises(UsageError, match="a steering vector"):
            make_vector(parts, load(folder).identity)


def test_a_vector_is_no_patch_and_no_weight(folder: Path, stored: Path, tmp_path: Path) -> None:
    with pytest.raises(PatchError, match=r"is a steering vector, not a patch; .* SUBJECT\+evil\.safetensors"):
        read_patch(stored)
    named = load(f"{folder}+{stored}")
    with pytest.raises(OutputError, match="cannot be saved with the weights"):
        save_model(named.model, named.tokenizer, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_steered_subject_is_not_tuned(folder: Path, stored: Path, tmp_path: Path) -> None:
    from aftertune.data import Conversation, Message
    from aftertune.tuning import tune

    row = Conversation((Message("user", "Hello?"), Message("assistant", "Yes.")))
    with pytest.raises(SubjectError, match="runs with a steering vector"):
        tune(load(f"{folder}+{stored}"), [row], tmp_path / "tuned")
