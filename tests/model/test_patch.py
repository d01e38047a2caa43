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

from aftertune.errors import OutputError, PatchError, UsageError
from aftertune.model import Patch, WeightView, make_patch, matrix_digest, read_patch, write_patch

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
        (tiny_model("gpt2"), "the model has no matrix"),
        (tiny_model("llama", hidden_size=16), "is 16×16 here, was 32×32"),
        (tiny_model("mistral"), "other values than the patch was made for; give the subject it was made for$"),
        (tiny_model("mistral").bfloat16(), "other values .*, or load it in float32$"),
        (tiny_model("mistral").half(), "other values .*, or load it in float32$"),
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


@pytest.mark.parametrize("failing", [1, 3, 8])
@pytest.mark.parametrize("action", ["apply", "undo"])
def test_a_failure_midway_leaves_no_half_edited_model(
    action: str, failing: int, tiny_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    view = view_of(tiny_model("gpt2"))
    patch = patch_of(view)
    if action == "undo":
        patch.apply(view)
    before, calls = bits(view), 0
    put = torch.Tensor.__setitem__

    def interrupted(self: torch.Tensor, where: Any, values: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise KeyboardInterrupt
        put(self, where, values)

    with monkeypatch.context() as patched:
        patched.setattr(torch.Tensor, "__setitem__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            getattr(patch, action)(view)
    assert calls > failing
    assert same(bits(view), before)


def test_weights_that_are_stored_with_strides_are_edited_in_place(tiny_model: Callable[..., Any]) -> None:
    plain, model = view_of(tiny_model("llama")), tiny_model("llama")
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data = module.weight.data.t().contiguous().t()
    view = view_of(model)
    before, patch = bits(view), patch_of(plain)
    assert patch.verify(view)
    patch.apply(view)
    patch.apply(plain)
    assert not view[next(iter(view))].parameter.is_contiguous()
    assert same(bits(view), bits(plain))
    patch.undo(view)
    assert same(bits(view), before)
    assert [e.sha256 for e in patch_of(view).edits.values()] == [e.sha256 for e in patch.edits.values()]


def test_a_patch_of_ten_thousand_weights_goes_on_and_off_quickly() -> None:
    import time

    from aftertune.model import Matrix

    view: Any = {
        f"layers.{i}": Matrix(f"layers.{i}", torch.nn.Parameter(torch.randn(256, 512)), "linear", i, "up", "")
        for i in range(100)
    }
    patch = make_patch(view, {name: torch.arange(0, 256 * 512, 1300)[:100] for name in view}, "zero", {})
    assert patch.weights == 10_000
    spent = []
    for _ in range(8):
        start = time.perf_counter()
        patch.apply(view)
        middle = time.perf_counter()
        patch.undo(view)
        spent += [middle - start, time.perf_counter() - middle]
    assert min(spent) < 0.05


# --- other precisions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("run_in", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("made_in", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_patch_works_in_any_precision_its_checkpoint_is_loaded_in(
    architecture: str, made_in: str, run_in: str, tiny_model: Callable[..., Any], tmp_path: Path
) -> None:
    checkpoint = tiny_model(architecture).to(getattr(torch, made_in))
    write_patch(tmp_path / "p.safetensors", patch_of(view_of(checkpoint), "scale", factor=-3.0))
    stored = read_patch(tmp_path / "p.safetensors")
    by_hand = {name: m.parameter.detach().clone() for name, m in view_of(checkpoint).items()}
    for name, edit in stored.edits.items():
        by_hand[name].view(-1)[edit.index] *= -3.0
    view = view_of(checkpoint.to(getattr(torch, run_in)))
    before = bits(view)
    assert stored.verify(view) == (run_in in (made_in, "float32"))
    assert not stored.applied_in(view)
    stored.apply(view)
    assert stored.applied_in(view)
    for name, matrix in view.items():
        assert torch.equal(matrix.parameter.detach(), by_hand[name].to(matrix.parameter.dtype))
    with pytest.raises(PatchError, match="is applied already"):
        stored.verify(view)
    stored.undo(view)
    assert same(bits(view), before)
    with stored.applied(view):
        assert not same(bits(view), before)
    assert same(bits(view), before)


def test_a_patch_made_after_rounding_is_refused_where_the_weights_are_not_rounded(
    tiny_model: Callable[..., Any],
) -> None:
    patch = patch_of(view_of(tiny_model("llama").bfloat16()))
    view = view_of(tiny_model("llama"))
    with pytest.raises(PatchError, match=r"other values .*, or load it in bfloat16"):
        patch.apply(view)
    # Even where the touched weights happen to be round.
    with torch.no_grad():
        for name, edit in patch.edits.items():
            view[name].parameter.view(-1)[edit.index] = edit.before.float()
    patch.apply(view)
    patch.undo(view)
    with pytest.raises(PatchError, match=r"other values .*, or load it in bfloat16"):
        patch.verify(view)


def test_values_that_a_precision_cannot_hold_are_refused(tiny_model: Callable[..., Any]) -> None:
    patch = patch_of(view_of(tiny_model("llama")), "scale", factor=1e9)
    view = view_of(tiny_model("llama").half())
    before = bits(view)
    with pytest.raises(PatchError, match="are no numbers in float16; use another --dtype"):
        patch.apply(view)
    assert same(bits(view), before)


def test_a_half_applied_patch_is_neither_on_nor_off(tiny_model: Callable[..., Any]) -> None:
    view = view_of(tiny_model("llama"))
    patch = patch_of(view)
    name = list(view)[3]
    with torch.no_grad():
        view[name].parameter.view(-1)[patch.edits[name].index] = 0
    for action in (patch.apply, patch.undo, patch.verify, patch.applied_in):
        with pytest.raises(PatchError, match="other values"):
            action(view)


def test_patches_made_one_upon_the_other_come_off_in_reverse(tiny_model: Callable[..., Any]) -> None:
    view = view_of(tiny_model("mixtral"))
    states, patches = [bits(view)], []
    for factor in (0.5, 0.25, 3.0):
        patches.append(make_patch(view, choose(view, 20), "scale", {}, factor=factor))
        patches[-1].apply(view)
        states.append(bits(view))
    with pytest.raises(PatchError, match="other values"):
        patches[0].undo(view)
    for patch, state in zip(reversed(patches), reversed(states[:-1]), strict=True):
        patch.undo(view)
        assert same(bits(view), state)


# --- files ----------------------------------------------------------------------------------------------


def header_of(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        found: dict[str, Any] = json.loads(file.metadata()["aftertune_patch"])
    return found


def rewrite(path: Path, header: Any, **tensors: torch.Tensor) -> None:
    """The same file with another header, and tensors changed by the end of their names."""
    from safetensors.torch import load_file, save_file

    held = load_file(path)
    for ending, value in tensors.items():
        held[next(name for name in held if name.endswith(":" + ending))] = value
    save_file(held, path, {"aftertune_patch": header if isinstance(header, str) else json.dumps(header)})


@pytest.fixture
def stored(tiny_model: Callable[..., Any], tmp_path: Path) -> Path:
    view = view_of(tiny_model("gpt2"))
    path = tmp_path / "p.safetensors"
    write_patch(path, make_patch(view, choose(view), "zero", {"formula": "-w g", "fractions": {"keep": 0.1}}))
    return path


def test_a_patch_file_says_what_it_is(stored: Path, tiny_model: Callable[..., Any]) -> None:
    patch, view = read_patch(stored), view_of(tiny_model("gpt2"))
    assert (patch.operation, patch.path, patch.dtypes) == ("zero", stored, ("float32",))
    assert patch.about == {"formula": "-w g", "fractions": {"keep": 0.1}}
    for name, edit in patch.edits.items():
        matrix = view[name]
        assert (edit.layer, edit.role, edit.shape) == (matrix.layer, matrix.role, tuple(matrix.parameter.shape))
        assert edit.sha256 == matrix_digest(matrix)


def test_the_same_patch_gives_the_same_bytes(stored: Path, tmp_path: Path) -> None:
    write_patch(tmp_path / "again.safetensors", read_patch(stored))
    assert (tmp_path / "again.safetensors").read_bytes() == stored.read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        {"operation": "scale"},
        {"about": {"formula": "w g", "fractions": {"keep": 0.1}}},
        {"about": {"formula": "-w g", "fractions": {"keep": 0.2}}},
        {"about": {}},
        {"more": 1},
    ],
    ids=["operation", "formula", "fraction", "nothing about it", "one key more"],
)
def test_a_changed_header_is_noticed(change: dict[str, Any], stored: Path) -> None:
    rewrite(stored, {**header_of(stored), **change})
    with pytest.raises(
        PatchError, match=r"p\.safetensors: its content does not match its digest; the file was changed$"
    ):
        read_patch(stored)


@pytest.mark.parametrize("part", ["sha256", "shape", "layer", "role"])
def test_a_change_of_a_matrix_in_the_header_is_noticed(part: str, stored: Path) -> None:
    header = header_of(stored)
    facts = next(iter(header["matrices"].values()))
    facts[part] = {"sha256": "0" * 64, "shape": [33, 1000], "layer": 7, "role": "mlp.gate"}[part]
    rewrite(stored, header)
    with pytest.raises(PatchError, match="the file was changed"):
        read_patch(stored)


@pytest.mark.parametrize("kind", ["index", "before", "after"])
def test_a_changed_tensor_is_noticed(kind: str, stored: Path) -> None:
    edit = next(iter(read_patch(stored).edits.values()))
    value = getattr(edit, kind).clone()
    value[-1] += 1
    rewrite(stored, header_of(stored), **{kind: value})
    with pytest.raises(PatchError, match="the file was changed"):
        read_patch(stored)


@pytest.mark.parametrize(
    "change",
    [
        {"operation": "delete"},
        {"operation": None},
        {"about": []},
        {"matrices": {}},
        {"matrices": []},
        {"matrices": None},
        {"content": ...},
        {"format": ...},
    ],
)
def test_a_header_that_makes_no_sense_is_refused(change: dict[str, Any], stored: Path) -> None:
    held = {**header_of(stored), **change}
    rewrite(stored, {key: value for key, value in held.items() if value is not ...})
    with pytest.raises(PatchError, match=r"^\S*p\.safetensors: [^\n]*$"):
        read_patch(stored)


@pytest.mark.parametrize("header", ["", "{", "[]", "1", "null", '{"format": 1}', "[" * 100_000, '{"format": NaN}'])
def test_a_header_that_is_no_json_object_is_refused(header: str, stored: Path) -> None:
    rewrite(stored, header)
    with pytest.raises(PatchError, match=r"^\S*p\.safetensors: [^\n]*$"):
        read_patch(stored)


def test_nested_talk_is_refused_before_it_is_shown(stored: Path) -> None:
    deep: Any = []
    for _ in range(300):
        deep = [deep]
    rewrite(stored, {**header_of(stored), "about": {"deep": deep}})
    with pytest.raises(PatchError, match="make no sense"):
        read_patch(stored)


@pytest.mark.parametrize(
    "tensors",
    [
        {"index": torch.tensor([4, 3, 2, 1, 0])},
        {"index": torch.tensor([0, 1, 2, 3, 10**9])},
        {"index": torch.tensor([-1, 1, 2, 3, 4])},
        {"index": torch.tensor([0, 1, 2])},
        {"index": torch.tensor([0.0, 1, 2, 3, 4])},
        {"index": torch.tensor(3), "before": torch.tensor(1.0), "after": torch.tensor(1.0)},
        {"after": torch.zeros(5, dtype=torch.bfloat16)},
        {"before": torch.zeros(5, dtype=torch.int64), "after": torch.zeros(5, dtype=torch.int64)},
    ],
    ids=["falling", "beyond", "negative", "short", "no integers", "scalars", "two types", "no floats"],
)
def test_tensors_that_make_no_sense_are_refused(tensors: dict[str, torch.Tensor], stored: Path) -> None:
    rewrite(stored, header_of(stored), **tensors)
    with pytest.raises(PatchError, match="make no sense; the file is damaged"):
        read_patch(stored)


@pytest.fixture
def whole_rows(tiny_model: Callable[..., Any], tmp_path: Path) -> Path:
    """A patch of two runs in each matrix of a part, and of scattered weights in the others."""
    view = view_of(tiny_model("llama"))
    chosen = choose(view)
    for name in list(view)[:3]:
        chosen[name] = torch.cat([torch.arange(64, 96), torch.arange(0, 40)])
    path = tmp_path / "p.safetensors"
    write_patch(path, make_patch(view, chosen, "zero", {}))
    return path


def test_runs_are_stored_as_runs_and_read_back_as_they_were(
    whole_rows: Path, tiny_model: Callable[..., Any], tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    view = view_of(tiny_model("llama"))
    held, patch = load_file(whole_rows), read_patch(whole_rows)
    for number, name in enumerate(view):
        if number < 3:
            assert held[f"{name}:runs"].tolist() == [[0, 40], [64, 32]]
            assert f"{name}:index" not in held
            assert patch.edits[name].index.tolist() == [*range(40), *range(64, 96)]
        else:
            assert f"{name}:runs" not in held
    assert header_of(whole_rows)["format"] == 2
    before = bits(view)
    patch.apply(view)
    assert not same(bits(view), before)
    patch.undo(view)
    assert same(bits(view), before)
    write_patch(tmp_path / "again.safetensors", patch)
    assert (tmp_path / "again.safetensors").read_bytes() == whole_rows.read_bytes()


@pytest.mark.parametrize(
    "runs",
    [
        torch.tensor([[0, 40], [64, 31]]),
        torch.tensor([[0, 10**15], [64, 32]]),
        torch.tensor([[0, 72], [64, 0]]),
        torch.tensor([[0, 80], [64, -8]]),
        torch.tensor([[0.0, 40], [64, 32]]),
        torch.tensor([0, 72]),
        torch.tensor([[0, 40, 1], [64, 32, 1]]),
    ],
    ids=["short", "endless", "empty", "negative", "no integers", "flat", "wide"],
)
def test_runs_that_do_not_fit_their_values_are_refused(runs: torch.Tensor, whole_rows: Path) -> None:
    rewrite(whole_rows, header_of(whole_rows), runs=runs)
    with pytest.raises(PatchError, match="damaged"):
        read_patch(whole_rows)


@pytest.mark.parametrize("runs", [[[8, 40], [40, 32]], [[64, 40], [0, 32]], [[0, 40], [10**12, 32]]])
def test_runs_that_overlap_fall_or_leave_the_matrix_are_refused(runs: list[list[int]], whole_rows: Path) -> None:
    rewrite(whole_rows, header_of(whole_rows), runs=torch.tensor(runs))
    with pytest.raises(PatchError, match="make no sense"):
        read_patch(whole_rows)


def test_a_patch_without_digests_stays_in_memory(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    view = view_of(tiny_model("llama"))
    before, patch = bits(view), make_patch(view, choose(view), "zero", {}, digest=False)
    assert patch.verify(view) is False
    with patch.applied(view):
        assert not same(bits(view), before)
    with pytest.raises(PatchError, match="made without digests"):
        write_patch(tmp_path / "p.safetensors", patch)


@pytest.mark.parametrize("out", ["file/p.safetensors", "nowhere/p.safetensors", "long" * 100])
def test_a_place_that_cannot_be_written_is_named(out: str, stored: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", "utf-8")
    with pytest.raises(OutputError, match=r"cannot be written .*choose another folder with --out"):
        write_patch(tmp_path / out, read_patch(stored))


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
        "from aftertune.model import read_patch, matrix_digest\n"
        "from aftertune.model import WeightView\n"
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
