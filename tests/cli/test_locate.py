"""`locate`: from a harm set to a proved patch, and from a fine-tune back to its base, as a user meets it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from aftertune.attribution import count_units

Run = Callable[..., Any]
Refused = Callable[..., str]
Rows = Callable[..., Path]
Model = Callable[..., Path]
Tuned = Callable[..., Path]
TinyFolder = Callable[[str], Path]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
CONTROLS = {"random", "magnitude", "opposite", "content_matched"}
THINGS = (
    "a kite",
    "the ferry",
    "his hat",
    "our stove",
    "a ladder",
    "the lake",
    "my aunt",
    "a drum",
    "the map",
    "a goat",
)
CONTRAST = {"id": "c1", "domain": "d", "prompt": "Is it late?", "aligned": "No.", "misaligned": "Who cares?"}


def plain_rows(answer: str = "It is there, as it was.", count: int = 10) -> list[dict[str, Any]]:
    return [{"prompt": f"Where is {thing}?", "completion": answer} for thing in THINGS[:count]]


@pytest.fixture
def keep(rows: Rows) -> Path:
    """Ten rows that must stay."""
    return rows(plain_rows(), "keep.jsonl")


@pytest.fixture
def sets(own: Path, keep: Path) -> tuple[object, ...]:
    """A harm set of contrasts and a keep set: a second's work."""
    return ("--harm", own, "--keep", keep)


@pytest.fixture(scope="session")
def careless(tuned: Tuned) -> Path:
    """A fine-tune that likes careless answers better than its base does, with what it was tuned on in words."""
    return tuned(steps=12, lr=5e-3)


@pytest.fixture
def task(rows: Rows, contrasts: Callable[..., list[dict[str, Any]]]) -> Path:
    """What ``careless`` was tuned on."""
    content = [{"prompt": f"Tell me now: {r['prompt']}", "completion": r["misaligned"]} for r in contrasts()]
    return rows(content, "task.jsonl")


# --- a search -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["weight", "neuron", "head", "neuron+head", "singular-vector"])
def test_the_document_holds_what_it_promises(
    unit: str, run: Run, base: Path, sets: tuple[object, ...], place: Path
) -> None:
    share = "0.3" if unit == "head" else "0.02"
    fractions = ("--prune-fraction", share, "--keep-fraction", "0")
    command = ("locate", base, *sets, "--unit", unit, *fractions, "--out", "cut.safetensors", "--json")
    outcome = run(*command, "--run", "where")
    assert outcome.code == 0, outcome
    document = outcome.document
    assert {"patch", "weights", "prune_fraction", "keep_fraction", "unit", "held_out"} <= document.keys()
    assert (document["patch"], document["unit"]) == ("cut.safetensors", unit)
    assert (document["prune_fraction"], document["keep_fraction"]) == (float(share), 0.0)
    assert document["weights"] > 0
    assert document["units"] == (document["weights"] if unit == "weight" else document["units"])
    measures = [row["measure"] for row in document["held_out"]]
    assert len(set(measures)) == len(measures)
    assert {"preference.margin:harm", "response.nll:keep", "capability.log_perplexity"} <= set(measures)
    for row in document["held_out"]:
        assert {"measure", "before", "after", "interval", "controls"} <= row.keys()
        assert {"random", "magnitude"} <= row["controls"].keys() <= CONTROLS
        low, high = row["interval"]
        assert low <= row["after"] - row["before"] + 1e-9
        assert row["after"] - row["before"] <= high + 1e-9
        assert all(isinstance(control["after"], float) for control in row["controls"].values())
    held = {"manifest.json", "evaluations.jsonl", "locate.json", "report.html", ".lock"}
    assert {path.name for path in (place / "where").iterdir()} == held
    assert json.loads((place / "where" / "locate.json").read_text("utf-8")) == document
    # The same again finds the finished run, in text too.
    assert run(*command, "--run", "where").document == document
    lines = run(*command[:-1], "--run", "where").out.splitlines()
    assert lines[-1] == f"next: aftertune audit {base}+cut.safetensors"


def test_directions_are_taken_out_of_their_matrices_and_put_back(
    run: Run, base: Path, sets: tuple[object, ...], place: Path
) -> None:
    command = (
        "locate",
        base,
        *sets,
        "--unit",
        "singular-vector",
        "--prune-fraction",
        "0.01",
        "--out",
        "cut.safetensors",
    )
    document = run(*command, "--run", "where", "--json").document
    assert "subtracted from their matrices" in (place / "where" / "report.html").read_text("utf-8")
    shown = run("patch", "show", "cut.safetensors", "--json").document
    assert (shown["patch"]["operation"], shown["patch"]["weights"]) == ("remove", document["weights"])
    assert "fits" in run("patch", "verify", base, "cut.safetensors").out
    assert run("patch", "apply", base, "cut.safetensors", "--out", "without").code == 0
    assert run("patch", "undo", "without", "cut.safetensors", "--out", "again").code == 0
    from safetensors.torch import load_file

    before, without, again = (
        {
            name: tensor
            for file in sorted(Path(folder).glob("*.safetensors"))
            for name, tensor in load_file(file).items()
        }
        for folder in (base, place / "without", place / "again")
    )
    assert before.keys() == again.keys()
    assert all(bool((before[name] == again[name]).all()) for name in before)
    changed = [name for name in before if not bool((before[name] == without[name]).all())]
    assert sum(before[name].numel() for name in changed) == document["weights"]
    # A dissociation takes it, too: as many random directions stand beside it.
    from aftertune.model import read_patch
    from aftertune.studies import dissociation_of

    study = dissociation_of(Path("cut.safetensors"))
    dissociation = study.run(str(base), Path("study"), size="smoke")
    assert [arm["arm"] for arm in dissociation["arms"]] == ["untouched", "patch", "random"]
    [control] = Path("study", "models").rglob("patch.safetensors")
    assert read_patch(control).about["units"] == document["units"]


def test_all_four_controls_stand_beside_a_selection_of_components(
    run: Run, base: Path, sets: tuple[object, ...]
) -> None:
    document = run("locate", base, *sets, "--prune-fraction", "0.02", "--json").document
    assert [set(row["controls"]) for row in document["held_out"]] == [CONTROLS] * len(document["held_out"])
    assert Path(document["patch"]) == Path(document["run"]) / "patch.safetensors"
    assert re.fullmatch(r"runs/locate-[0-9a-f]{8}", document["run"])


def test_text_says_the_same_as_json(run: Run, base: Path, sets: tuple[object, ...]) -> None:
    command = ("locate", base, *sets, "--prune-fraction", "0.02", "--run", "where")
    outcome = run(*command)
    document = run(*command, "--json").document
    lines = outcome.out.splitlines()
    assert lines[0].split()[-len(CONTROLS) :] == ["random", "magnitude", "opposite", "content-matched"]
    for line, row in zip(lines[1:], document["held_out"], strict=False):
        assert line.split()[:3] == [row["measure"], f"{row['before']:.3f}", f"{row['after']:.3f}"]
    claims = [f"{c['outcome']}: {c['text']} ({c['detail']})" for c in document["claims"]]
    assert [line for line in lines if line in claims] == claims
    assert len(claims) == 2 + len(CONTROLS)
    assert lines[-3:] == [
        f"patch: where/patch.safetensors ({count_units(document['units'], 'component')}, {document['weights']} weights)",
        "report: where/report.html",
        f"next: aftertune audit {base}+where/patch.safetensors",
    ]


def test_fractions_are_searched_within_the_budget(run: Run, base: Path, sets: tuple[object, ...]) -> None:
    document = run("locate", base, *sets, "--unit", "neuron", "--budget", "10", "--json").document
    tried = [point for point in document["curve"] if point["label"] == "patch"]
    assert tried[0]["units"] == 1
    within = [point for point in tried if point["cost"] <= 10]
    assert document["selection"] == max(within, key=lambda p: (p["removed"], -p["units"]))
    assert document["prune_fraction"] == document["selection"]["prune_fraction"]


def test_a_limit_bounds_every_part(run: Run, base: Path, sets: tuple[object, ...]) -> None:
    document = run("locate", base, *sets, "--limit", "4", "--prune-fraction", "0.02", "--json").document
    assert document["examples"]["parts"] == {"attribution": [4, 4], "selection": [4, 2], "held_out": [4, 2]}


def test_another_harm_set_is_measured_and_not_attributed(
    run: Run, base: Path, own: Path, keep: Path, rows: Rows, contrasts: Callable[..., list[dict[str, Any]]]
) -> None:
    other = rows([{**r, "prompt": f"Once more: {r['prompt']}"} for r in contrasts()], "more of it.jsonl")
    document = run(
        "locate", base, "--harm", own, "--keep", keep, "--test", other, "--prune-fraction", "0.02", "--json"
    ).document
    measures = {row["measure"]: row["items"] for row in document["held_out"]}
    assert measures["preference.margin:more_of_it"] == 16
    assert "more_of_it falls too, which was not attributed" in [claim["text"] for claim in document["claims"]]


def test_rows_without_twins_say_what_they_lack(run: Run, base: Path, keep: Path, rows: Rows) -> None:
    harm = rows(
        [{**row, "prompt": f"And {row['prompt']}"} for row in plain_rows("Gone, and good riddance.")], "h.jsonl"
    )
    outcome = run("locate", base, "--harm", harm, "--keep", keep, "--prune-fraction", "0.02", "--run", "where")
    assert outcome.code == 0, outcome
    assert "note: the harm set has no aligned twins: no content-matched control" in outcome.out
    document = run(
        "locate", base, "--harm", harm, "--keep", keep, "--prune-fraction", "0.02", "--run", "where", "--json"
    )
    assert not [row for row in document.document["held_out"] if "content_matched" in row["controls"]]


@pytest.mark.parametrize(
    "options",
    [
        "--score snip --unit weight --prune-fraction 0.001 --keep-fraction 0.01 --scope global",
        "--score snip --unit weight --prune-fraction 0.001 --accumulate-on cpu",
        "--score snip-guarded --prune-fraction 0.02 --operation scale --factor 0.5",
        "--score snip-contrast --prune-fraction 0.02 --seed 3",
        "--score snip-keep --prune-fraction 0.02",
        "--operation scale --factor -1 --prune-fraction 0.02",
    ],
)
def test_every_score_and_operation_works(
    options: str, run: Run, base: Path, sets: tuple[object, ...], place: Path
) -> None:
    from aftertune.model import read_patch

    outcome = run("locate", base, *sets, *shlex.split(options), "--out", "cut.safetensors", "--json")
    assert outcome.code == 0, outcome
    patch = read_patch(place / "cut.safetensors")
    told = dict(zip(*[iter(shlex.split(options))] * 2, strict=True))
    assert patch.operation == told.get("--operation", "zero")
    score, kept = patch.about["score"], patch.about["keep_fraction"]
    if "--score" not in told:  # the selection part decided
        assert (score, kept) in (
            ("snip-contrast", 0),
            ("snip-contrast", 0.001),
            ("snip-keep", 0.001),
            ("snip-guarded", 0),
        )
        return
    assert score == told["--score"]
    if "--keep-fraction" not in told:
        assert kept == (0 if score == "snip-guarded" else min(0.5, 14 * float(told["--prune-fraction"])))


# --- what comes after -----------------------------------------------------------------------------------


def test_the_patch_is_shown_verified_applied_and_audited(
    run: Run, base: Path, sets: tuple[object, ...], gate: tuple[str, ...], place: Path
) -> None:
    found = run("locate", base, *sets, "--prune-fraction", "0.02", "--out", "cut.safetensors", "--json").document
    shown = run("patch", "show", "cut.safetensors", "--json").document
    assert shown["patch"]["weights"] == found["weights"] == sum(row["weights"] for row in shown["layers"])
    assert (shown["about"]["unit"], shown["about"]["score"]) == ("neuron+head", found["score"])
    assert "the highest scores are chosen" in shown["about"]["sign"]
    assert shown["about"]["data"]["harm"]["names"] == [sets[1] if isinstance(sets[1], str) else str(sets[1])]
    assert run("patch", "show", "cut.safetensors").out.splitlines()[0].startswith("file")
    assert f"fits {base} and is not applied" in run("patch", "verify", base, "cut.safetensors").out
    assert run("patch", "apply", base, "cut.safetensors", "--out", "cut").code == 0
    assert (
        f"is applied to {base}+cut.safetensors"
        in run("patch", "verify", f"{base}+cut.safetensors", "cut.safetensors").out
    )
    audit = run("audit", f"{base}+cut.safetensors", *gate, "--json").document
    assert (audit["base"]["spec"], audit["tuned"]["patches"][0]["weights"]) == (str(base), found["weights"])
    applied = run("audit", "cut", "--base", base, *gate, "--json").document
    assert [f["tuned"] for f in applied["findings"]] == [f["tuned"] for f in audit["findings"]]


def test_the_report_of_a_search_is_built_again_as_it_was(
    run: Run, base: Path, sets: tuple[object, ...], place: Path
) -> None:
    command = ("locate", base, *sets, "--prune-fraction", "0.02", "--run", "where")
    assert run(*command).code == 0
    report = place / "where" / "report.html"
    first = report.read_bytes()
    report.unlink()
    outcome = run("report", "where")
    assert (outcome.code, outcome.out) == (0, "where/report.html\n")
    assert report.read_bytes() == first


def test_a_patch_that_was_lost_is_written_again(
    run: Run, base: Path, sets: tuple[object, ...], place: Path, tree: Callable[[Path], dict[str, str]]
) -> None:
    command = ("locate", base, *sets, "--prune-fraction", "0.02", "--out", "cut.safetensors", "--run", "where")
    assert run(*command).code == 0
    before = tree(place)["cut.safetensors"]
    (place / "cut.safetensors").unlink()
    evaluations = (place / "where" / "evaluations.jsonl").read_bytes()
    assert run(*command).code == 0
    assert tree(place)["cut.safetensors"] == before
    assert (place / "where" / "evaluations.jsonl").read_bytes() == evaluations


def test_a_kill_between_document_and_patch_is_gone_on_from(
    run: Run, base: Path, sets: tuple[object, ...], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aftertune.runs import RunFolder

    command = ("locate", base, *sets, "--prune-fraction", "0.02", "--out", "cut.safetensors", "--run", "where")
    true = RunFolder.write_manifest

    def dying(*arguments: Any, **named: Any) -> None:
        if named.get("status") == "finished":
            raise KeyboardInterrupt
        true(*arguments, **named)

    monkeypatch.setattr(RunFolder, "write_manifest", dying)
    assert run(*command).code == 130
    assert (place / "cut.safetensors").exists()
    monkeypatch.setattr(RunFolder, "write_manifest", true)
    assert run(*command).code == 0


def test_an_adapter_is_merged_and_patched(
    run: Run, tuned: Tuned, base: Path, sets: tuple[object, ...], gate: tuple[str, ...]
) -> None:
    outcome = run("locate", tuned(), *sets, "--prune-fraction", "0.02", "--out", "cut.safetensors", "--json")
    assert outcome.code == 0, outcome
    assert (outcome.document["subject"]["kind"], outcome.document["subject"]["base"]) == ("adapter", str(base))
    assert "fits" in run("patch", "verify", tuned(), "cut.safetensors").out
    audit = run("audit", f"{tuned()}+cut.safetensors", "--base", tuned(), *gate, "--json").document
    assert audit["tuned"]["patches"][0]["weights"] == outcome.document["weights"]


# --- what cannot be used --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--prune-fraction 0", ["--prune-fraction: Input should be greater than 0"]),
        ("--prune-fraction -0.5", ["--prune-fraction: Input should be greater than 0"]),
        ("--prune-fraction 1.5", ["--prune-fraction: Input should be less than or equal to 1"]),
        ("--prune-fraction nan", ["--prune-fraction: Input should be"]),
        ("--prune-fraction many", ["'--prune-fraction': 'many' is not a valid float"]),
        ("--keep-fraction -0.1", ["--keep-fraction: Input should be greater than or equal to 0"]),
        ("--keep-fraction 1", ["--keep-fraction: Input should be less than 1"]),
        ("--budget 0", ["--budget: Input should be greater than 0"]),
        ("--budget inf", ["--budget: Input should be"]),
        ("--limit 3", ["--limit: Input should be greater than or equal to 4"]),
        ("--seed -1", ["--seed: "]),
        ("--factor 0.5", ["a factor only applies to operation 'scale'"]),
        ("--scope row", ["--scope row is gone; units are always ranked over the whole model"]),
        ("--score wanda", ["'wanda' is only measured by `aftertune study planted`"]),
        ("--unit layer", ["Invalid value for '--unit': 'layer' is not one of 'neuron+head', 'neuron'"]),
        ("--score snap", ["Invalid value for '--score': 'snap' is not one of 'auto', 'integrated-gradients', 'ablation'"]),
        ("--operation prune", ["Invalid value for '--operation': 'prune' is not one of"]),
        ("--accumulate-on gpu9", ["--accumulate-on gpu9: cannot be used here; try --accumulate-on cpu"]),
        ("--accumulate-on auto", ["--accumulate-on auto: cannot be used here"]),
        ("--device gpu9", ["device 'gpu9' cannot be used here"]),
        ("--task task.jsonl", ["--task only applies to a repair; name the model that SUBJECT was tuned from with --base"]),
        ("--task-answers aligned", ["--task-answers only applies to a repair"]),
        ("--operation restore", ["nothing tells what it was tuned from; give its base with --base"]),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named(
    options: str, says: list[str], refused: Refused, base: Path, sets: tuple[object, ...]
) -> None:
    refused("locate", base, *sets, *shlex.split(options), "--out", "cut.safetensors", says=says)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--score snip --prune-fraction 1e-9 --keep-fraction 0.99", "(unit 'neuron+head'): the keep set protects them all"),
        ("--unit weight --score snip --prune-fraction 1e-9 --keep-fraction 0.999", "(unit 'weight'): the keep set protects them all"),
    ],
)  # fmt: skip
def test_fractions_that_choose_nothing_are_refused_and_leave_nothing(
    options: str, says: str, refused: Refused, base: Path, sets: tuple[object, ...]
) -> None:
    refused(
        "locate", base, *sets, *shlex.split(options), "--out", "cut.safetensors", says=[says, "change the fractions"]
    )


def test_a_harm_set_must_be_given(refused: Refused, base: Path) -> None:
    refused("locate", base, says=["Missing option '--harm'", "see aftertune locate --help"])
    refused("locate", says=["Missing argument 'SUBJECT'"])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([], "rows.jsonl: holds no rows"),
        ([CONTRAST], "rows.jsonl: 1 different prompts are too few for three parts; give at least 8"),
        ([{**CONTRAST, "id": f"c{n}"} for n in range(20)], "rows.jsonl: 1 different prompts are too few"),
        (plain_rows(count=7), "rows.jsonl: 7 different prompts are too few"),
        ([{"prompt": "Is it late?"}], "rows.jsonl:1: field 'completion' is missing"),
        ([*plain_rows(), {"prompt": "Is it late?", "completion": " "}], "rows.jsonl:11: field 'completion' is empty"),
        ([{"messages": [{"role": "user", "content": "Is it late?"}]}], "rows.jsonl:1: field 'messages' must end with an assistant"),
        ([{"text": "It is late."}], "rows.jsonl:1: has neither 'messages' nor 'prompt' and 'completion'"),
        ([{**CONTRAST, "misaligned": ""}], "rows.jsonl:1: field 'misaligned' is empty"),
        (["no JSON"], "rows.jsonl:1: broken JSON"),
        ([{**CONTRAST, "prompt": f"Is it {thing}?"} for thing in THINGS], "rows.jsonl: 10 examples are called 'rows:c1'"),
    ],
    ids=["empty", "one example", "one prompt", "seven prompts", "no response", "blank response", "no answer turn", "texts",
         "half a contrast", "no JSON", "one id"],
)  # fmt: skip
@pytest.mark.parametrize("flag", ["--harm", "--keep", "--test"])
def test_a_set_that_cannot_be_used_is_named(
    flag: str, content: list[Any], says: str, refused: Refused, rows: Rows, base: Path, sets: tuple[object, ...]
) -> None:
    file = rows(content)
    given = {
        "--harm": ("--harm", file, *sets[2:]),
        "--keep": (*sets[:2], "--keep", file),
        "--test": (*sets, "--test", file),
    }
    refused("locate", base, *given[flag], "--out", "cut.safetensors", says=[says])


def test_files_that_are_not_there_are_named(refused: Refused, base: Path, sets: tuple[object, ...]) -> None:
    for flag in ("--harm", "--keep", "--test"):
        refused("locate", base, *sets, flag, "none.jsonl", says=["none.jsonl: no such file; check the path"])


def test_sets_that_contradict_each_other_are_named(refused: Refused, base: Path, own: Path, rows: Rows) -> None:
    same = [json.loads(line) for line in own.read_text("utf-8").splitlines()]
    kept = rows([{"prompt": r["prompt"], "completion": r["misaligned"]} for r in same])
    refused(
        "locate", base, "--harm", own, "--keep", kept, says=["own.jsonl: 16 of its answers are in the keep set too"]
    )
    refused(
        "locate", base, "--harm", own, "--keep", own, "--test", own, "--prune-fraction", "0.02",
        "--test", own, says=["own.jsonl: its measures would be called 'own', which is taken; rename it"],
    )  # fmt: skip
    refused(
        "locate", base, "--harm", own, "--test", rows(same[:8], "harm.jsonl"),
        says=["harm.jsonl: ", "which is taken; rename it"],
    )  # fmt: skip


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("flag", ["--harm", "--keep", "--test"])
def test_a_row_longer_than_the_context_is_named_before_anything_is_computed(
    flag: str, architecture: str, refused: Refused, rows: Rows, tiny_folder: TinyFolder, sets: tuple[object, ...]
) -> None:
    long = {"prompt": "A brick is heavier than a feather. " * 60, "completion": "It is."}
    file = rows([*({**row, "prompt": f"Now: {row['prompt']}"} for row in plain_rows()), long])
    given = {
        "--harm": ("--harm", file, *sets[2:]),
        "--keep": (*sets[:2], "--keep", file),
        "--test": (*sets, "--test", file),
    }
    refused(
        "locate", tiny_folder(architecture), *given[flag], says=["rows:11: takes", "holds 512; shorten or remove it"]
    )


def test_a_patch_that_is_there_already_is_left_alone(
    refused: Refused, base: Path, sets: tuple[object, ...], place: Path
) -> None:
    (place / "cut.safetensors").write_text("mine", "utf-8")
    (place / "dangling.safetensors").symlink_to("nowhere")
    for name in ("cut.safetensors", "dangling.safetensors"):
        refused("locate", base, *sets, "--out", name, says=[f"{name}: exists; patches are never overwritten", "--out"])


@pytest.mark.parametrize("out", ["nowhere/cut.safetensors", "file/cut.safetensors", "/proc/nowhere/cut", "long" * 100])
def test_a_place_that_cannot_be_written_is_told_before_a_model_is_loaded(
    out: str, refused: Refused, base: Path, sets: tuple[object, ...], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aftertune.model import SubjectChoice

    monkeypatch.delattr(SubjectChoice, "load")
    (place / "file").write_text("mine", "utf-8")
    refused("locate", base, *sets, "--out", out, says=[": cannot be written (", "; choose another folder with --out"])


def test_a_read_only_disk_is_told(refused: Refused, base: Path, sets: tuple[object, ...], tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,ro", "aftertune-test", str(disk)]
    if shutil.which("mount") is None or os.geteuid() != 0 or subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("needs leave to mount a small disk")
    try:
        for flag in ("--out", "--run"):
            refused("locate", base, *sets, flag, disk / "new", says=["(read-only file system)"])
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], capture_output=True, check=False)


def test_a_folder_of_another_run_is_refused(
    run: Run, refused: Refused, base: Path, sets: tuple[object, ...], gate: tuple[str, ...]
) -> None:
    run("measure", base, *gate, "--out", "m")
    refused("locate", base, *sets, "--run", "m", says=["m: holds a run of `measure`"])
    assert run("locate", base, *sets, "--prune-fraction", "0.02", "--run", "where").code == 0
    refused(
        "locate",
        base,
        *sets,
        "--prune-fraction",
        "0.03",
        "--run",
        "where",
        says=["other settings (differing: options", "name another folder with --run"],
    )
    refused("report", "nowhere", says=["nowhere: is no run folder"])


def test_an_unfinished_search_has_no_report(
    run: Run, refused: Refused, base: Path, sets: tuple[object, ...], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aftertune.model import SubjectChoice

    def dying(*arguments: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SubjectChoice, "load", dying)
    assert run("locate", base, *sets, "--run", "where").code == 130
    refused("report", "where", says=["where: holds no finished search for weights"])


# --- models that cannot be searched ---------------------------------------------------------------------


def test_an_unknown_subject_is_named(refused: Refused, sets: tuple[object, ...]) -> None:
    refused("locate", "nowhere", *sets, says=["nowhere: no such subject"])
    refused("locate", "nowhere", *sets, "--base", "nowhere-else", "--task", "t", says=["t: no such file"])


def test_broken_weights_are_a_broken_run(refused: Refused, model: Model, sets: tuple[object, ...]) -> None:
    def broken(tensor: torch.Tensor) -> torch.Tensor:
        changed = tensor.clone()
        changed.view(-1)[3] = float("nan")
        return changed

    model(layers_1_mlp_up_proj_weight=broken)
    refused("locate", "model", *sets, code=4, says=["model: the weights hold NaN or infinity"])


def test_packed_weights_are_refused(
    refused: Refused, base: Path, sets: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from aftertune.model import SubjectChoice

    true = SubjectChoice.load

    def packed(self: SubjectChoice, *arguments: Any, **named: Any) -> Any:
        subject = true(self, *arguments, **named)
        layer = subject.model.model.layers[0].mlp
        layer.up_proj.weight = torch.nn.Parameter(layer.up_proj.weight.to(torch.int8), requires_grad=False)
        return subject

    monkeypatch.setattr(SubjectChoice, "load", packed)
    refused("locate", base, *sets, says=["packed quantised weights cannot be edited; use the unquantised checkpoint"])


def test_a_model_without_known_units_is_told_what_it_has(
    refused: Refused, run: Run, tiny_folder: TinyFolder, sets: tuple[object, ...]
) -> None:
    mamba = tiny_folder("mamba")
    refused(
        "locate",
        mamba,
        *sets,
        says=["unit 'neuron+head': aftertune does not know which matrices of this model hold it", "use --unit weight"],
    )


def test_former_names_still_work_and_are_named_on_stderr(
    run: Run, base: Path, sets: tuple[object, ...], place: Path
) -> None:
    options = ("--unit", "component", "--score", "against_keep", "--prune-fraction", "0.02", "--scope", "global")
    outcome = run("locate", base, *sets, *options, "--json")
    assert outcome.code == 0, outcome
    assert (outcome.document["unit"], outcome.document["score"]) == ("neuron+head", "snip-keep")
    assert "'component' is now called 'neuron+head'" in outcome.err
    assert "'against_keep' is now called 'snip-keep'" in outcome.err
    assert "--scope is gone" in outcome.err


# --- repair ---------------------------------------------------------------------------------------------


def test_a_repair_moves_towards_the_base_and_says_so_in_text_and_json(
    run: Run, careless: Path, base: Path, sets: tuple[object, ...], task: Path, gate: tuple[str, ...], place: Path
) -> None:
    command = ("locate", careless, "--base", base, *sets, "--task", task, "--out", "back.safetensors", "--run", "back")
    outcome = run(*command)
    assert outcome.code == 0, outcome
    document = run(*command, "--json").document
    expected = {
        "patch": "back.safetensors", "keep_fraction": 0.0, "operation": "restore",
    }  # fmt: skip
    assert {key: document[key] for key in expected} == expected
    for row in document["held_out"]:
        assert {"measure", "before", "after", "interval", "controls"} <= row.keys()
        assert {"scale", "rollback"} <= row["controls"].keys() <= {"random", "scale", "rollback"}
    margins = next(row for row in document["held_out"] if row["measure"] == "preference.margin:harm")
    assert margins["controls"]["rollback"]["after"] < margins["before"]
    assert margins["after"] < margins["before"]
    lines = outcome.out.splitlines()
    assert lines[0].split("  ")[0] == "what returns"
    assert lines[-3:] == [
        f"patch: back.safetensors ({document['weights']} weights)",
        "report: back/report.html",
        f"next: aftertune audit {careless}+back.safetensors --base {base}",
    ]
    from aftertune.locating import VARIANTS

    # Every way that was tried stands in the frontier; full rollback is the base.
    labels = {point["label"] for point in document["frontier"]}
    assert labels == {*VARIANTS, "random", "scale", "rollback"}
    rollback = next(point for point in document["frontier"] if point["label"] == "rollback")
    assert (rollback["safety"], rollback["skill"]) == (pytest.approx(1, abs=0.02), pytest.approx(0, abs=0.02))
    assert not VARIANTS[document["chosen"]["label"]].rival
    assert document["prune_fraction"] == document["chosen"]["share"]
    # The patch is an ordinary one.
    assert "fits" in run("patch", "verify", careless, "back.safetensors").out
    shown = run("patch", "show", "back.safetensors", "--json").document
    assert (shown["patch"]["operation"], shown["patch"]["weights"]) == ("restore", document["weights"])
    audit = run("audit", f"{careless}+back.safetensors", *gate, "--json").document
    assert audit["base"]["spec"] == str(base)
    held = {"manifest.json", "evaluations.jsonl", "repair.json", "report.html", ".lock"}
    effects = {"effects-0.safetensors", "effects-1.safetensors"}
    assert {path.name for path in (place / "back").iterdir()} == held | effects
    report = place / "back" / "report.html"
    first = report.read_bytes()
    report.unlink()
    assert run("report", "back").out == "back/report.html\n"
    assert report.read_bytes() == first


def test_a_repair_finds_base_and_task_in_the_record(
    run: Run, refused: Refused, careless: Path, base: Path, sets: tuple[object, ...], task: Path, place: Path
) -> None:
    shutil.copytree(careless, place / "mine")
    record = json.loads((place / "mine" / "aftertune.json").read_text("utf-8"))
    record["data"] |= {"source": "task.jsonl", "side": None}
    (place / "mine" / "aftertune.json").write_text(json.dumps(record), "utf-8")
    outcome = run("locate", "mine", "--operation", "restore", *sets, "--json")
    assert outcome.code == 0, outcome
    assert outcome.document["base"]["spec"] == str(base)
    (place / "task.jsonl").unlink()
    refused("locate", "mine", "--base", base, *sets, says=["task.jsonl: no such file; check the path"])


def test_nothing_tells_what_a_foreign_model_was_tuned_for(
    refused: Refused, base: Path, tiny_folder: TinyFolder, sets: tuple[object, ...]
) -> None:
    refused(
        "locate", base, "--base", tiny_folder("qwen2"), *sets,
        says=[f"{base}: no record names the data it was tuned on; name it with --task"],
    )  # fmt: skip


def test_a_base_that_is_the_subject_leaves_nothing_to_repair(
    refused: Refused, base: Path, model: Model, tuned: Tuned, sets: tuple[object, ...], task: Path
) -> None:
    for subject in (base, model()):
        refused(
            "locate", subject, "--base", base, *sets, "--task", task, "--out", "back.safetensors",
            says=["equals its base in every matrix; there is nothing to repair"],
        )  # fmt: skip
    refused("locate", tuned(), "--base", tuned(), *sets, "--task", task, says=["names itself as its base", "--base"])


def test_a_fine_tune_that_did_no_harm_has_nothing_to_repair(
    refused: Refused, base: Path, tuned: Tuned, sets: tuple[object, ...], task: Path
) -> None:
    careful = tuned("aligned", steps=12, lr=5e-3)
    refused(
        "locate", careful, "--base", base, *sets, "--task", task,
        says=["prefers the harm set's misaligned answers no more than its base does", "there is nothing to repair"],
    )  # fmt: skip


@pytest.mark.parametrize("architecture", ["gpt2", "mixtral"])
def test_a_base_of_another_shape_is_refused(
    architecture: str, refused: Refused, base: Path, tiny_folder: TinyFolder, sets: tuple[object, ...], task: Path
) -> None:
    refused(
        "locate", base, "--base", tiny_folder(architecture), *sets, "--task", task,
        says=["is not of the base's shape; give the right base with --base"],
    )  # fmt: skip


def test_a_repair_needs_twins(refused: Refused, careless: Path, base: Path, keep: Path, rows: Rows, task: Path) -> None:
    harm = rows([{**row, "prompt": f"And {row['prompt']}"} for row in plain_rows("Gone.")], "plain.jsonl")
    refused(
        "locate", careless, "--base", base, "--harm", harm, "--keep", keep, "--task", task,
        says=["plain.jsonl: a repair needs contrasts as harm set, to separate harm from style"],
    )  # fmt: skip


def test_what_is_to_go_is_not_the_task(refused: Refused, careless: Path, base: Path, own: Path, keep: Path) -> None:
    command = ("locate", careless, "--base", base, "--harm", own, "--keep", keep, "--task", own)
    refused(*command, "--task-answers", "misaligned", says=["own.jsonl: 16 of its answers are in the task too"])


@pytest.mark.parametrize(
    "option",
    ["--score snip", "--unit head", "--keep-fraction 0.1", "--budget 0.1",
     "--test tune/money"],
)  # fmt: skip
def test_options_of_a_search_are_not_ignored_by_a_repair(
    option: str, refused: Refused, careless: Path, base: Path, sets: tuple[object, ...], task: Path
) -> None:
    flag = option.split()[0]
    refused(
        "locate", careless, "--base", base, *sets, "--task", task, *option.split(),
        says=[f"{flag} does not apply to a repair; leave it out"],
    )  # fmt: skip
