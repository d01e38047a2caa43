"""`patch`: put on and taken off in fresh processes, bit for bit; refused where it does not belong."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

Run = Callable[..., Any]
Refused = Callable[..., str]
TinyFolder = Callable[[str], Path]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
ARCHITECTURES = ("llama", "gpt2", "qwen2", "mixtral")
HOSTILE = "\x1b[31mred\x1b]0;title\x07\x9b2J\u202eback\nnext [bold]"
STEERING = ("\x1b", "\x9b", "\x07", "\u202e")


@pytest.fixture
def make(place: Path) -> Callable[..., Path]:
    """Writes a patch of eight weights in every matrix of a subject into ``place``."""

    def patch(subject: object, name: str = "p", *, factor: float = -1.0, about: Any = None, **loading: Any) -> Path:
        from aftertune.model import Placement, WeightView, load, make_patch, write_patch

        dtype = loading.pop("dtype", None)
        view = WeightView(load(str(subject), merge=True, placement=Placement(dtype=dtype), **loading).model)
        chosen = {matrix: torch.arange(3, m.weights, m.weights // 8)[:8] for matrix, m in view.items()}
        file = place / f"{name}.safetensors"
        write_patch(file, make_patch(view, chosen, "scale", about or {"formula": "-w g"}, factor=factor))
        return file.relative_to(place)

    return patch


def in_a_fresh_process(*arguments: object) -> str:
    command = [sys.executable, "-m", "aftertune", *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def alike(one: Path, other: Path) -> bool:
    """Whether two checkpoints hold the same bits."""
    first, second = tensors(one), tensors(other)
    return first.keys() == second.keys() and all(
        t.dtype == second[n].dtype and torch.equal(t.view(torch.uint8), second[n].view(torch.uint8))
        for n, t in first.items()
    )


# --- on and off -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "dtype"),
    [("llama", "float32"), ("qwen2", "float32"), ("gpt2", "bfloat16"), ("mixtral", "bfloat16")],
)
def test_applied_and_undone_in_fresh_processes_gives_the_original_bits(
    architecture: str, dtype: str, make: Callable[..., Path], tiny_folder: TinyFolder, place: Path
) -> None:
    from aftertune.model import Placement, load, save_model

    loaded = load(tiny_folder(architecture), placement=Placement(dtype=dtype))
    save_model(loaded.model, loaded.tokenizer, place / "model")
    file = make("model", dtype=dtype)
    options = ("--dtype", dtype, "--json")
    document = json.loads(in_a_fresh_process("patch", "apply", "model", file, "--out", "on", *options))
    assert document["patch"]["checked"] == "whole matrices"
    assert not alike(place / "on", place / "model")
    in_a_fresh_process("patch", "undo", "on", file, "--out", "off", *options)
    assert alike(place / "off", place / "model")
    # The folder is an ordinary one, and the very subject that MODEL+PATCH names.
    placement = Placement(dtype=dtype)
    digests = {load(spec, placement=placement).identity.weights_sha256 for spec in ("on", f"model+{file}")}
    assert digests == {document["weights_sha256"]}


@pytest.mark.parametrize(
    ("architecture", "dtype"),
    [("llama", "bfloat16"), ("qwen2", "float16"), ("gpt2", "float32"), ("mixtral", "float32")],
)
def test_applied_and_undone_in_one_process_too(
    architecture: str, dtype: str, run: Run, make: Callable[..., Path], tiny_folder: TinyFolder, place: Path
) -> None:
    from aftertune.model import Placement, load, save_model

    loaded = load(tiny_folder(architecture), placement=Placement(dtype=dtype))
    save_model(loaded.model, loaded.tokenizer, place / "model")
    file = make("model", dtype=dtype)
    assert run("patch", "apply", "model", file, "--out", "on", "--dtype", dtype).code == 0
    assert run("patch", "undo", "on", file, "--out", "off", "--dtype", dtype).code == 0
    assert not alike(place / "on", place / "model")
    assert alike(place / "off", place / "model")


def test_a_patch_of_the_wide_checkpoint_goes_on_and_off_in_the_narrow_one(
    run: Run, make: Callable[..., Path], base: Path, place: Path
) -> None:
    from aftertune.model import Placement, load, save_model

    file = make(base)
    narrow = load(base, placement=Placement(dtype="bfloat16"))
    save_model(narrow.model, narrow.tokenizer, place / "narrow")
    for verb, subject, out in (("apply", "narrow", "on"), ("undo", "on", "off")):
        outcome = run("patch", verb, subject, file, "--out", out, "--dtype", "bfloat16")
        assert (outcome.code, "(touched weights checked)" in outcome.out) == (0, True), outcome
    assert (
        "made in float32, so here only the touched weights could be checked"
        in run("patch", "apply", "narrow", file, "--out", "again", "--dtype", "bfloat16").err
    )
    assert alike(place / "off", place / "narrow")
    assert not alike(place / "on", place / "narrow")


def test_two_patches_go_on_in_order_and_off_in_reverse(
    run: Run, refused: Refused, make: Callable[..., Path], model: Callable[..., Path], place: Path
) -> None:
    first = make(model("m"), "a")
    second = make(f"m+{first}", "b", factor=5.0)
    assert run("patch", "apply", f"m+{first}", second, "--out", "both").code == 0
    refused("patch", "undo", "both", first, "--out", "wrong", says=["a.safetensors: ", "has other values"])
    assert run("patch", "undo", "both", second, "--out", "one").code == 0
    assert run("patch", "undo", "one", first, "--out", "none").code == 0
    assert alike(place / "none", place / "m")


def test_undo_notices_what_else_was_changed(
    run: Run, refused: Refused, make: Callable[..., Path], base: Path, place: Path
) -> None:
    from safetensors.torch import save_file

    file = make(base)
    assert run("patch", "apply", base, file, "--out", "on").code == 0
    weights = tensors(place / "on")
    weights["model.layers.0.mlp.up_proj.weight"].view(-1)[0] += 1
    save_file(weights, place / "on" / "model.safetensors", {"format": "pt"})
    refused("patch", "undo", "on", file, "--out", "off", says=["up_proj.weight has other values"])


def test_a_patched_adapter_is_saved_merged(
    run: Run, make: Callable[..., Path], tuned: Callable[..., Path], base: Path, place: Path
) -> None:
    from aftertune.model import load

    file = make(tuned())
    outcome = run("patch", "apply", tuned(), file, "--out", "on")
    assert outcome.out.splitlines()[-1] == f"next: aftertune audit on --base {base}"
    assert (place / "on" / "model.safetensors").exists()
    assert load("on").identity.weights_sha256 == load(f"{tuned()}+{file}").identity.weights_sha256


def test_text_says_what_was_done_and_what_comes_next(run: Run, make: Callable[..., Path], base: Path) -> None:
    file = make(base)
    outcome = run("patch", "apply", base, file, "--out", "on")
    assert outcome.out.splitlines() == [
        "on: 112 weights changed (whole matrices checked)",
        f"next: aftertune audit on --base {base}",
    ]
    outcome = run("patch", "undo", "on", file, "--out", "off")
    assert outcome.out == "off: 112 weights restored (whole matrices checked)\n"


def test_a_patched_subject_is_measured_and_audited_by_its_name(
    run: Run, make: Callable[..., Path], tuned: Callable[..., Path], base: Path, gate: tuple[str, ...], place: Path
) -> None:
    document = run("audit", f"{base}+{make(base)}", *gate, "--json").document
    assert (document["base"]["spec"], document["base"]["patches"]) == (str(base), None)
    assert document["tuned"]["spec"] == f"{base}+p.safetensors"
    assert [facts["weights"] for facts in document["tuned"]["patches"]] == [112]
    assert document["findings"][0]["difference"] != 0
    repair = make(tuned(), "repair", factor=0.5)
    against_base = run("audit", f"{tuned()}+{repair}", *gate, "--json").document
    assert against_base["base"]["spec"] == str(base)
    against_itself = run("audit", f"{tuned()}+{repair}", "--base", tuned(), *gate, "--json").document
    assert against_itself["base"]["spec"] == str(tuned())
    measured = run("measure", f"{base}+p.safetensors", *gate, "--json").document
    assert measured["subject"]["weights_sha256"] == document["tuned"]["weights_sha256"]


def test_a_patch_that_was_changed_is_measured_anew(
    run: Run, refused: Refused, make: Callable[..., Path], base: Path, gate: tuple[str, ...], place: Path
) -> None:
    command = ("measure", f"{base}+{make(base)}", *gate, "--out", "m")
    assert run(*command).code == 0
    (place / "p.safetensors").unlink()
    make(base, factor=2.0)
    refused(*command, says=["holds a run with other settings (differing: subject.content.patches)"])


# --- verify ---------------------------------------------------------------------------------------------


def test_verify_tells_on_from_off(run: Run, make: Callable[..., Path], base: Path, place: Path) -> None:
    file = make(base)
    outcome = run("patch", "verify", base, file)
    assert outcome.code == 0
    assert outcome.out == (
        f"p.safetensors fits {base} and is not applied: 112 weights in 14 matrices (whole matrices checked)\n"
    )
    outcome = run("patch", "verify", f"{base}+{file}", file)
    assert outcome.code == 0
    assert outcome.out.startswith(f"p.safetensors is applied to {base}+{file}: 112 weights in 14 matrices (whole")
    outcome = run("patch", "verify", base, file, "--dtype", "bfloat16")
    assert (outcome.code, "(touched weights checked)" in outcome.out) == (0, True)
    for subject, applied in ((base, False), (f"{base}+{file}", True)):
        document = run("patch", "verify", subject, file, "--json").document
        assert (document["subject"], document["applied"]) == (str(subject), applied)
        assert document["patch"].keys() == {"file", "sha256", "operation", "weights", "checked"}
    assert [path.name for path in place.iterdir()] == ["p.safetensors"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("verb", ["apply", "undo", "verify"])
def test_another_models_patch_is_refused(
    verb: str, dtype: str, refused: Refused, make: Callable[..., Path], base: Path, tiny_folder: TinyFolder
) -> None:
    out = () if verb == "verify" else ("--out", "out")
    file = make(tiny_folder("qwen2"))  # of the same names and shapes
    refused("patch", verb, base, file, *out, "--dtype", dtype, says=["p.safetensors: ", "has other values"])
    file = make(tiny_folder("gpt2"), "q")
    refused("patch", verb, base, file, *out, "--dtype", dtype, says=["q.safetensors: the model has no matrix"])


# --- what cannot be used --------------------------------------------------------------------------------


@pytest.fixture
def damaged(make: Callable[..., Path], base: Path, place: Path) -> Callable[[str], Path]:
    """A patch file that something happened to."""

    def damage(how: str) -> Path:
        from safetensors import safe_open
        from safetensors.torch import load_file, save_file

        file = place / make(base)
        whole = file.read_bytes()
        held = load_file(file)
        with safe_open(file, "pt") as reader:
            header = json.loads(reader.metadata()["aftertune_patch"])
        if how == "truncated":
            file.write_bytes(whole[: len(whole) // 2])
        elif how == "empty":
            file.write_bytes(b"")
        elif how == "another safetensors file":
            save_file(held, file)
        elif how == "header":
            header["about"]["formula"] = "w g"
            save_file(held, file, {"aftertune_patch": json.dumps(header)})
        elif how == "tensor":
            held[next(name for name in held if name.endswith(":after"))][0] = 0.5
            save_file(held, file, {"aftertune_patch": json.dumps(header)})
        elif how == "absent":
            file.unlink()
        elif how == "folder":
            file.unlink()
            file.mkdir()
        return file.relative_to(place)

    return damage


@pytest.mark.parametrize("verb", ["apply", "undo", "verify", "show", "measure"])
@pytest.mark.parametrize(
    "how", ["truncated", "empty", "another safetensors file", "header", "tensor", "absent", "folder"]
)
def test_a_damaged_or_absent_patch_is_named(
    how: str, verb: str, refused: Refused, damaged: Callable[[str], Path], base: Path
) -> None:
    file = damaged(how)
    commands = {
        "apply": ("patch", "apply", base, file, "--out", "out"),
        "undo": ("patch", "undo", base, file, "--out", "out"),
        "verify": ("patch", "verify", base, file),
        "show": ("patch", "show", file),
        "measure": ("measure", f"{base}+{file}", "--probes", "capability"),
    }
    line = refused(*commands[verb], says=["p.safetensors"])
    assert line.isprintable()


def test_on_twice_and_off_twice_are_refused(run: Run, refused: Refused, make: Callable[..., Path], base: Path) -> None:
    file = make(base)
    assert run("patch", "apply", base, file, "--out", "on").code == 0
    refused("patch", "apply", "on", file, "--out", "twice", says=["error: p.safetensors: is applied already"])
    refused("patch", "undo", base, file, "--out", "off", says=["p.safetensors: is not applied to these weights"])
    refused("measure", f"on+{file}", says=["p.safetensors: is applied already"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("apply m p.safetensors", ["Missing option '--out'", "see aftertune patch apply --help"]),
        ("mend m p.safetensors", ["No such command 'mend'", "see aftertune patch --help"]),
        ("show", ["Missing argument 'PATCH'", "see aftertune patch show --help"]),
        ("verify nowhere p.safetensors", ["nowhere: no such subject"]),
        ("verify m p.safetensors --dtype int8", ["dtype 'int8' is unknown"]),
        ("verify m+no.safetensors p.safetensors", ["there is no patch file no.safetensors"]),
    ],
)
def test_what_cannot_be_understood_is_told_in_one_line(
    arguments: str, says: list[str], refused: Refused, make: Callable[..., Path], model: Callable[..., Path]
) -> None:
    make(model("m"))
    refused("patch", *arguments.split(), says=says)


# --- where the model goes -------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["apply", "undo"])
@pytest.mark.parametrize("held", ["file", "folder", "empty folder", "subject"])
def test_what_is_there_already_is_left_alone(
    held: str, verb: str, refused: Refused, make: Callable[..., Path], model: Callable[..., Path], place: Path
) -> None:
    file = make(model("m"))
    if held == "file":
        (place / "out").write_text("mine", "utf-8")
    elif held != "subject":
        (place / "out").mkdir()
        if held == "folder":
            (place / "out" / "notes.txt").write_text("mine", "utf-8")
    out = "m" if held == "subject" else "out"
    refused("patch", verb, "m", file, "--out", out, says=[f"{out}: exists; models are never overwritten", "--out"])


@pytest.mark.parametrize("out", ["file/out", "/proc/nowhere/out", "long" * 100])
def test_a_place_that_cannot_be_written_is_named(
    out: str, refused: Refused, make: Callable[..., Path], base: Path, place: Path
) -> None:
    (place / "file").write_text("mine", "utf-8")
    says = [": cannot be written (", "; choose another folder with --out"]
    refused("patch", "apply", base, make(base), "--out", out, says=says)


def test_a_read_only_disk_and_a_full_one_are_told(
    run: Run, refused: Refused, make: Callable[..., Path], base: Path, tmp_path: Path
) -> None:
    file = make(base)
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "aftertune-test", str(disk)]
    if shutil.which("mount") is None or os.geteuid() != 0 or subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("needs leave to mount a small disk")
    try:
        outcome = run("patch", "apply", base, file, "--out", disk / "out")
        assert (outcome.code, outcome.out, len(outcome.errors)) == (4, "", 1), outcome
        assert "no space left on the disk" in outcome.errors[0]
        assert list(disk.iterdir()) == []
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        refused("patch", "apply", base, file, "--out", disk / "out", says=["(read-only file system)", "--out"])
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], capture_output=True, check=False)


def test_a_limit_on_file_sizes_is_told_in_one_line(run: Run, make: Callable[..., Path], base: Path) -> None:
    file = make(base)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))
    try:
        outcome = run("patch", "apply", base, file, "--out", "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (outcome.code, outcome.out, len(outcome.errors)) == (4, "", 1), outcome
    assert "Traceback" not in outcome.err


# --- show -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_show_counts_by_layer_and_matrix_alike_in_text_and_json(
    architecture: str, run: Run, make: Callable[..., Path], tiny_folder: TinyFolder
) -> None:
    from aftertune.model import WeightView, load

    loaded = load(tiny_folder(architecture))
    about = {
        "subject": loaded.identity.as_dict(),
        "formula": "-w g",
        "sign": "the best to remove stand at the top",
        "fractions": {"prune": 0.001, "keep": 0.05},
        "sets": ["one", "two"],
    }
    file = make(tiny_folder(architecture), about=about)
    document = run("patch", "show", file, "--json").document
    assert document["about"] == about
    assert (document["patch"]["operation"], document["patch"]["dtype"]) == ("scale", "float32")
    view = WeightView(loaded.model)
    expected: dict[int | None, dict[str, int]] = {}
    for matrix in view.values():
        expected.setdefault(matrix.layer, {})[matrix.role] = 8
    assert {row["layer"]: row["by_role"] for row in document["layers"]} == expected
    assert sum(row["weights"] for row in document["layers"]) == document["patch"]["weights"] == 8 * len(view)
    text = run("patch", "show", file).out
    facts, _, rows = text.partition("\n\n")
    said = {line.split("  ", 1)[0]: line.split("  ", 1)[1].strip() for line in facts.splitlines()}
    assert said["operation"] == "scale"
    assert said["subject"] == f"{tiny_folder(architecture)} (float32, weights {loaded.identity.weights_sha256[:12]})"
    assert (said["fractions.prune"], said["fractions.keep"], said["sets"]) == ("0.001", "0.05", '["one", "two"]')
    header, *lines = rows.splitlines()
    assert header.split()[0] == "layer"
    assert header.split()[-1] == "weights"
    assert [line.split()[0] for line in lines] == ["0", "1"]
    assert all(line.split()[-1] == "#" * 30 for line in lines)
    assert {len(line) for line in lines} == {len(lines[0])}
    if architecture == "gpt2":  # two matrices of one short name
        assert {"attn.c_proj", "mlp.c_proj", "c_fc"} <= set(header.split())


def test_a_bar_is_as_long_as_its_layer_is_touched(run: Run, base: Path, place: Path) -> None:
    from aftertune.model import WeightView, load, make_patch, write_patch

    view = WeightView(load(base).model)
    chosen = {
        name: torch.arange(count)
        for name, count in (("model.layers.0.mlp.up_proj.weight", 10), ("model.layers.1.mlp.down_proj.weight", 1000))
    }
    write_patch(place / "p.safetensors", make_patch(view, chosen, "zero", {}))
    lines = run("patch", "show", "p.safetensors").out.partition("\n\n")[2].splitlines()
    assert [line.split() for line in lines] == [
        ["layer", "up_proj", "down_proj", "weights"],
        ["0", "10", "10", "#"],
        ["1", "1000", "1000", "#" * 30],
    ]


def test_a_terminal_gets_no_escape_sequence_from_a_patch(
    run: Run, refused: Refused, make: Callable[..., Path], base: Path, tiny_folder: TinyFolder
) -> None:
    about = {HOSTILE: HOSTILE, "fractions": {HOSTILE: HOSTILE}, "list": [HOSTILE], "long": HOSTILE * 100}
    about["subject"] = {"spec": HOSTILE, "dtype": HOSTILE, "weights_sha256": [HOSTILE]}
    file = make(base, HOSTILE.replace("\n", ""), about=about)
    out = "\x1b[31mout"
    outcomes = [
        run("patch", "show", file),
        run("patch", "show", file, "--json"),
        run("patch", "verify", base, file),
        run("patch", "apply", base, file, "--out", out),
        run("patch", "undo", out, file, "--out", out + "2"),
    ]
    assert [outcome.code for outcome in outcomes] == [0] * 5
    for outcome in outcomes:
        assert not [c for c in STEERING if c in outcome.out]
    assert "\\x1b[31mred" in outcomes[0].out
    assert max(map(len, outcomes[0].out.splitlines())) < 160
    assert outcomes[1].document["about"] == about
    assert refused("patch", "verify", tiny_folder("qwen2"), file, says=["has other values"]).isprintable()


def test_show_loads_no_model(run: Run, make: Callable[..., Path], base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import aftertune.model

    file = make(base)
    monkeypatch.delattr(aftertune.model, "load")
    assert run("patch", "show", file).code == 0
