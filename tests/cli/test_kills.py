"""An audit killed at any moment goes on when the command is given again, ends with the same numbers, and wastes little."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aftertune.probes import REFERENCE
from aftertune.stats import read_measurements

Tuned = Callable[..., Path]

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")]

# One process imports everything and forks the commands that are killed. Each notes the forward passes it makes.
_HARNESS = """
import gc, hashlib, json, os, random, shutil, signal, sys, time
from pathlib import Path

import torch

torch.set_num_threads(1)
import pyarrow.parquet, scipy.stats, transformers
import aftertune.verbs._audit
from aftertune.cli import main
from aftertune.model import _likelihood as _sharing, load

root, command = Path(sys.argv[1]), json.loads(sys.argv[2])
os.chdir(root)
load(command[3]).shares_prompts  # imports what imports late
gc.collect()
gc.freeze()


trying, agrees = False, _sharing._agrees


def tried(*arguments):  # whether prompts can be shared is found out by passes of its own, at every start
    global trying
    trying = True
    try:
        return agrees(*arguments)
    finally:
        trying = False


_sharing._agrees = tried


def note(module, arguments, options, output):
    if isinstance(module, transformers.LlamaForCausalLM) and not trying:
        what = f"{float(module.lm_head.weight.sum())!r} {options['input_ids'].tolist()}"
        os.write(noted, hashlib.sha256(what.encode()).hexdigest().encode() + b"\\n")


torch.nn.modules.module.register_module_forward_hook(note, with_kwargs=True)


def start(out):
    global noted
    child = os.fork()
    if child:
        return child
    noted = os.open(f"{out}.passes", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{out}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    sys.argv = ["aftertune", *command, "--out", out]
    code = 99
    try:
        main()
    except SystemExit as ended:
        code = int(ended.code)
    finally:
        os._exit(code)


def finish(out):
    return os.waitstatus_to_exitcode(os.waitpid(start(out), 0)[1])


def recorded(out):
    return sum(file.read_bytes().count(b"\\n") for file in root.glob(f"{out}/measurements/*/journal.jsonl"))


def finished(out):
    manifest = root / out / "manifest.json"
    return manifest.exists() and json.loads(manifest.read_text())["status"] == "finished"


def strike(out, when, within, number):
    child = start(out)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not when():
        if os.waitpid(child, os.WNOHANG) != (0, 0):
            return None
        time.sleep(0.0005)
    time.sleep(random.uniform(0, within))
    os.kill(child, number)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def redone(out, *lost):
    # The same run, every batch on record: what it still computes is the price of a start.
    shutil.copytree("undisturbed", out)
    manifest = json.loads((root / out / "manifest.json").read_text())
    (root / out / "manifest.json").write_text(json.dumps({**manifest, "status": "running"}))
    for file in lost:
        next(root.glob(f"{out}/measurements/*/{file}")).unlink()
    return finish(out)


codes = [finish("undisturbed"), redone("restarted"), redone("referred", "drift.safetensors")]
total = recorded("undisturbed")
moments = [lambda: True] * 2
moments += [lambda least=total * part // 7: recorded("killed") >= least for part in range(1, 6)]
moments += [(root / "killed" / "measurements.parquet").exists, (root / "killed" / "verdict.json").exists]
moments += [lambda: finished("killed")]
spans = [0.1] * 2 + [0.04] * 5 + [0.01] * 3
struck = [strike("killed", *moment, signal.SIGKILL) for moment in zip(moments, spans)]
for attempt in range(5):  # on a busy machine the audit may be over before the signal comes
    interrupted = strike("interrupted", lambda: recorded("interrupted") >= 2, 0, signal.SIGINT)
    if not finished("interrupted"):
        break
    shutil.rmtree("interrupted")
said = (root / "interrupted.err").read_text()
codes += [finish("killed"), finish("interrupted")]
print(json.dumps({"codes": codes, "struck": struck, "total": total, "interrupted": interrupted, "said": said}))
"""


@pytest.fixture(scope="module")
def aftermath(
    base: Path, tuned: Tuned, own: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """One audit undisturbed, one killed ten times, one interrupted; the folder that holds all, and what happened."""
    root = tmp_path_factory.mktemp("kills")
    command = [
        "audit", str(tuned(full=True, steps=15, lr=1e-2)), "--base", str(base), "--probes", "drift",
        "--contrasts", str(own), "--max-batch-tokens", "900", "--display", "plain",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", _HARNESS, str(root), json.dumps(command)],
        capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return root, json.loads(done.stdout.splitlines()[-1])


def passes(root: Path, *names: str) -> Counter[str]:
    """How often each forward pass was made."""
    return Counter(line for name in names for line in (root / f"{name}.passes").read_text("utf-8").splitlines())


def journals(folder: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in folder.glob("measurements/*/journal.jsonl")}


def test_the_kills_struck(aftermath: tuple[Path, dict[str, Any]]) -> None:
    _, happened = aftermath
    assert len(happened["struck"]) == 10
    assert sum(code == -9 for code in happened["struck"]) >= 8, happened["struck"]
    assert happened["total"] >= 12


def test_a_killed_audit_ends_as_an_undisturbed_one(aftermath: tuple[Path, dict[str, Any]]) -> None:
    root, happened = aftermath
    assert happened["codes"] == [1] * 5
    expected = json.loads((root / "undisturbed" / "verdict.json").read_text("utf-8"))
    for name in ("killed", "interrupted", "restarted", "referred"):
        found = json.loads((root / name / "verdict.json").read_text("utf-8"))
        assert {**found, "run": ""} == {**expected, "run": ""}
        assert read_measurements(root / name / "measurements.parquet") == read_measurements(
            root / "undisturbed" / "measurements.parquet"
        )
        assert (root / name / "junit.xml").read_bytes() == (root / "undisturbed" / "junit.xml").read_bytes()
        assert json.loads((root / name / "manifest.json").read_text("utf-8"))["status"] == "finished"
        assert "Fail" in (root / name / "report.html").read_text("utf-8")


def test_a_killed_audit_leaves_no_files_that_an_undisturbed_one_does_not(
    aftermath: tuple[Path, dict[str, Any]],
) -> None:
    root, _ = aftermath
    names = {
        name: {str(p.relative_to(root / name)) for p in (root / name).rglob("*")} for name in ("killed", "undisturbed")
    }
    # What a kill leaves of a file that was being written is hidden and never read.
    assert {name for name in names["killed"] if not name.rpartition("/")[2].startswith(".")} == {
        name for name in names["undisturbed"] if not name.startswith(".")
    }


def test_every_batch_is_recorded_once(aftermath: tuple[Path, dict[str, Any]]) -> None:
    root, _ = aftermath
    expected = journals(root / "undisturbed")
    for name in ("killed", "interrupted"):
        assert journals(root / name) == expected
    for content in expected.values():
        keys = [json.loads(line)[0] for line in content.splitlines()]
        assert len(set(keys)) == len(keys)


def test_no_batch_is_computed_twice_but_the_one_in_hand_when_killed(aftermath: tuple[Path, dict[str, Any]]) -> None:
    root, happened = aftermath
    undisturbed = passes(root, "undisturbed")
    batches = undisturbed.keys() - passes(root, "restarted", "referred").keys()
    # A run whose batches are all on record computes none of them: what is left are those on record. One row more tells
    # that the drift reference is whole.
    rows = [json.loads(line) for file in journals(root / "undisturbed").values() for line in file.splitlines()]
    assert [key for key, *_ in rows].count(REFERENCE) == 1
    assert len(batches) == happened["total"] - 1
    assert all(undisturbed[batch] == 1 for batch in batches)
    killed = passes(root, "killed")
    assert batches <= killed.keys() <= undisturbed.keys()
    twice = sum(killed[batch] - 1 for batch in batches)
    assert twice <= sum(code == -9 for code in happened["struck"])


def test_ctrl_c_is_told_in_one_line_and_is_no_verdict(aftermath: tuple[Path, dict[str, Any]]) -> None:
    _, happened = aftermath
    assert happened["interrupted"] == 130
    assert happened["said"].splitlines()[-1] == "Interrupted. Run the same command again to continue."
    assert "Traceback" not in happened["said"]
