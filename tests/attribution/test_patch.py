"""Patches: exact, reversible, and refused where they do not belong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from aftertune.attribution import Patch, make_patch, matrix_digest, read_patch, write_patch
from aftertune.errors import OutputError, PatchError, UsageError
from aftertune.subject import WeightView

ARCHITECTURES = ("llama", "gpt2", "qwen2", "mixtral")


def view_of(model: Any) -> WeightView:
    return WeightView(model)


def bits(view: WeightView) -> dict[str, torch.Tensor]:
    return {
        name: m.parameter.detach().clone().contiguous().view(-1).view(torch.uint8).clone() for name, m in view.items()
    }


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def choose(view: WeightView, each: int = 5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return {name: torch.randperm(m.weights, generator=generator)[:each] for name, m in view.items()}


def patch_of(view: WeightView, operation: Any = "zero", **options: Any) -> Patch:
    return make_patch(view, choose(view), operation, {"formula": "test"}, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_apply_changes_exactly_the_chosen_weights_and_undo_restores_every_bit(
    architecture: str, dtype: torch.dtype, tiny_model: Callable[..., Any], tmp_path: Path
) -> None:
    view = view_of(tiny_model(architecture).to(dtype))
    before, chosen = bits(view), choose(view)
    patch = patch_of(view)
    assert same(bits(view), before)
    write_patch(tmp_path / "p.safetensors", patch)
    stored = read_patch(tmp_path / "p.safetensors")
    stored.verify(view)
    stored.apply(view)
    for name, matrix in view.items():
        flat = matrix.parameter.detach().reshape(-1)
        assert (flat[chosen[name]] == 0).all()
        rest = torch.ones(flat.numel(), dtype=torch.bool)
        rest[chosen[name]] = False
        assert torch.equal(flat[rest], before[name].view(dtype)[rest])
    stored.undo(view)
    assert same(bits(view), before)
    assert stored.weights == 5 * len(view)


def test_odd_values_come_back_bit_for_bit(tiny_model: Callable[..., Any]) -> None:
    view = view_of(tiny_model("llama"))
    name = next(iter(view))
    with torch.no_grad():
        view[name].parameter.view(-1)[:4] = torch.tensor([-0.0, float("nan"), 1e-42, float("-inf")])
    before = bits(view)
    patch = make_patch(view, {name: torch.arange(4)}, "zero", {})
    with patch.applied(view):
        assert (view[name].parameter.view(-1)[:4] == 0).all()
    assert same(bits(view), before)


def test_scale_and_restore(tiny_model: Callable[..., Any]) -> None:
    view, base = view_of(tiny_model("llama")), view_of(tiny_model("llama"))
    with torch.no_grad():
        for matrix in view.values():
            matrix.parameter.add_(0.25)
    chosen = choose(view)
    scaled = make_patch(view, chosen, "scale", {}, factor=0.5)
    restored = make_patch(view, chosen, "restore", {}, base={n: m.parameter for n, m in base.items()})
    for name, index in chosen.items():
        order = index.sort().values
        held = view[name].parameter.detach().reshape(-1)[order]
        assert torch.equal(scaled.edits[name].after, held * 0.5)
        assert torch.equal(restored.edits[name].after, base[name].parameter.detach().reshape(-1)[order])


def test_an_exception_inside_a_block_leaves_no_half_edited_model(tiny_model: Callable[..., Any]) -> None:
    view = view_of(tiny_model("gpt2"))
    before = bits(view)
    patch = patch_of(view)

    def interrupted() -> None:
        with patch.applied(view):
            assert not same(bits(view), before)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert same(bits(view), before)


def test_another_model_is_refused_and_left_alone(tiny_model: Callable[..., Any]) -> None:
    patch = patch_of(view_of(tiny_model("llama")))
    for model, says in (
        (tiny_model("gpt2"), "no such matrix"),
        (tiny_model("llama", hidden_size=16), "too small|other values"),
        (tiny_model("llama").bfloat16(), "--dtype"),
        (tiny_model("mistral"), "other values"),
    ):
        view = view_of(model)
        before = bits(view)
        with pytest.raises(PatchError, match=says):
            patch.apply(view)
        assert same(bits(view), before)


def test_verify_notices_a_change_beside_the_patch(tiny_model: Callable[..., Any]) -> None:
    view = view_of(tiny_model("llama"))
    patch = patch_of(view)
    name = next(iter(view))
    beside = next(i for i in range(100) if i not in patch.edits[name].index.tolist())
    with torch.no_grad():
        view[name].parameter.view(-1)[beside] += 1
    with pytest.raises(PatchError, match="other values"):
        patch.verify(view)


def test_applying_twice_and_undoing_what_is_not_there_are_refused(tiny_model: Callable[..., Any]) -> None:
    view = view_of(tiny_model("llama"))
    patch = patch_of(view)
    with pytest.raises(PatchError, match="not applied"):
        patch.undo(view)
    patch.apply(view)
    with pytest.raises(PatchError, match="applied already"):
        patch.apply(view)


def test_files_cut_short_changed_or_foreign_are_refused(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "p.safetensors"
    write_patch(path, patch_of(view_of(tiny_model("llama"))))
    whole = path.read_bytes()
    with pytest.raises(OutputError, match="never overwritten"):
        write_patch(path, patch_of(view_of(tiny_model("llama"))))
    for damaged in (whole[: len(whole) // 2], whole[:-3], b"", whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:]):
        path.write_bytes(damaged)
        with pytest.raises(PatchError, match=r"^\S*p\.safetensors: "):
            read_patch(path)
    save_file({"a": torch.zeros(3)}, path)
    with pytest.raises(PatchError, match="no patch"):
        read_patch(path)
    path.write_bytes(whole.replace(b'\\"format\\": 1', b'\\"format\\": 9'))
    with pytest.raises(PatchError, match="has patch format 9"):
        read_patch(path)
    with pytest.raises(PatchError, match=r"cannot be read|no patch"):
        read_patch(tmp_path / "absent.safetensors")


def test_nothing_chosen_or_chosen_twice_is_refused(tiny_model: Callable[..., Any]) -> None:
    view = view_of(tiny_model("llama"))
    name = next(iter(view))
    for index in ([3, 3], [-1], [10**9]):
        with pytest.raises(UsageError, match="out of range"):
            make_patch(view, {name: torch.tensor(index)}, "zero", {})
    with pytest.raises(UsageError, match="no weight is chosen"):
        make_patch(view, {name: torch.tensor([], dtype=torch.int64)}, "zero", {})
    with pytest.raises(UsageError, match="no base values"):
        make_patch(view, {name: torch.tensor([1])}, "restore", {})


def test_a_patch_survives_fresh_processes(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    view = view_of(AutoModelForCausalLM.from_pretrained(tiny_folder("llama")))
    patch = patch_of(view)
    write_patch(tmp_path / "p.safetensors", patch)
    patch.apply(view)
    expected = {name: matrix_digest(view[name]) for name in patch.edits}
    code = (
        "import sys, json; from pathlib import Path\n"
        "from aftertune.attribution import read_patch, matrix_digest\n"
        "from aftertune.subject import WeightView\n"
        "from transformers import AutoModelForCausalLM\n"
        "view = WeightView(AutoModelForCausalLM.from_pretrained(sys.argv[1]))\n"
        "patch = read_patch(Path(sys.argv[2])); patch.verify(view); patch.apply(view)\n"
        "print(json.dumps({n: matrix_digest(view[n]) for n in patch.edits}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_folder("llama")), str(tmp_path / "p.safetensors")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[-1]) == expected
