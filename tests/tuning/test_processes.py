"""Several processes that tune together under torchrun, on CPUs: one batch, one folder, one voice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from aftertune.data import Conversation, exchange
from aftertune.model import Placement, Subject, load
from aftertune.tuning import TuneOptions, parse_defence, tune

TinyFolder = Callable[[str], Path]
TinySubject = Callable[[str], Subject]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
ROWS = [Conversation(exchange(f"Is it {n}?", "It is late. " * (1 + n % 3))) for n in range(8)]

_SCRIPT = """
import json, os, sys
from pathlib import Path

import torch

torch.set_num_threads(1)
from aftertune.data import Conversation, exchange
from aftertune.errors import AftertuneError
from aftertune.model import load
from aftertune.tuning import TuneOptions, _trainer, parse_defence, tune

_trainer.SAVE_EVERY_SECONDS = 0.0
base, root, jobs = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
rows = [Conversation(exchange(f"Is it {n}?", "It is late. " * (1 + n % 3))) for n in range(8)]


class Log:
    said = []

    def say(self, text):
        self.said.append(text)

    def task(self, name, total, done=0):
        from aftertune.runs import Silent

        self.said.append(f"{name} {done} of {total}")
        return Silent().task(name, total, done)


answers = []
for name, options, defences in jobs:
    try:
        made = tune(load(base), rows, root / name, TuneOptions(**options), progress=Log(),
                    defences=[parse_defence(text) for text in defences])
        answers.append({"record": made.record, "reused": made.reused})
    except AftertuneError as error:
        answers.append({"error": type(error).__name__, "text": str(error)})
(root / f"rank-{os.environ['RANK']}.json").write_text(json.dumps({"answers": answers, "said": Log.said}))
torch.distributed.destroy_process_group()
"""
OPTIONS = {"lora_rank": 4, "warmup_steps": 0, "steps": 3, "lr": 1e-2, "batch_size": 4}
JOBS: list[tuple[str, dict[str, Any], list[str]]] = [
    ("out", OPTIONS, []),
    ("out", OPTIONS, []),
    ("odd", {**OPTIONS, "batch_size": 3}, []),
    ("stopped", {**OPTIONS, "steps": 9}, ["early-stop:loss_at_most=5,held_out=3"]),
    ("taken", OPTIONS, []),
]


def test_two_processes_train_one_batch_into_one_folder(
    tiny_folder: TinyFolder, tiny_subject: TinySubject, tmp_path: Path
) -> None:
    two = tmp_path / "two"
    (two / "taken").mkdir(parents=True)
    (two / "script.py").write_text(_SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, str(two / "script.py"), str(tiny_folder("llama")), str(two), json.dumps(JOBS)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]

    def alone(job: int) -> dict[str, Any]:
        name, options, texts = JOBS[job]
        chosen = [parse_defence(text) for text in texts]
        settings = TuneOptions(**options, micro_batch_size=2)
        return tune(tiny_subject("llama"), ROWS, tmp_path / name, settings, defences=chosen).record

    reference, early_alone = alone(0), alone(3)
    ranks = [json.loads((two / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    (first, again, odd, early, taken), others = ranks[0]["answers"], ranks[1]["answers"]
    # Both report one run. Its steps saw the rows of a single process's, and ended with its weights.
    assert first["record"] == others[0]["record"]
    assert first["record"]["losses"] == pytest.approx(reference["losses"], abs=1e-3)
    assert first["record"]["effort"] == {**reference["effort"], "processes": 2}
    from safetensors.torch import load_file

    made, expected = (load_file(root / "out" / "adapter_model.safetensors") for root in (two, tmp_path))
    assert all(torch.allclose(made[name], expected[name], atol=2e-3) for name in expected)
    # The same call again finds the result, in each process.
    assert again["reused"]
    assert others[1]["reused"]
    # What is wrong is said in each process, by the first one in its own words.
    assert [answer["error"] for answer in (odd, others[2])] == ["UsageError", "UsageError"]
    assert "--batch-size 3 cannot be shared by 2 processes of 1 rows each" in odd["text"]
    assert (taken["error"], others[4]["error"]) == ("OutputError", "UsageError")
    assert others[4]["text"] == f"the first process stopped: {taken['text']}"
    # Both stop at the same step, which is the one of a single process.
    assert early["record"]["steps"] == others[3]["record"]["steps"] == early_alone["steps"] < 9
    # One speaks, and nothing is left over.
    assert any(text.startswith("tuning 0 of 3") for text in ranks[0]["said"])
    assert ranks[1]["said"] == []
    left = {path.name for path in two.iterdir()}
    assert left == {"out", "stopped", "taken", "script.py", "rank-0.json", "rank-1.json"}


def test_a_machine_with_four_gpus_does_not_train_four_times_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl import SFTConfig

    from aftertune.tuning._trainer import _OneDevice

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    plain = SFTConfig(output_dir=str(tmp_path), per_device_train_batch_size=2, bf16=False)
    assert (plain.n_gpu, plain.train_batch_size) == (4, 8)
    ours = _OneDevice(output_dir=str(tmp_path), per_device_train_batch_size=2, bf16=False, own_device="meta")
    assert (ours.n_gpu, ours.train_batch_size) == (1, 2)
    assert ours.device == torch.device("meta")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_device_asked_for_is_the_device_trained_on(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    subject = load(tiny_folder("llama"), placement=Placement(device="cuda:1"))
    tune(subject, ROWS, tmp_path / "out", TuneOptions(**OPTIONS))
    assert {str(parameter.device) for parameter in subject.model.parameters()} == {"cuda:1"}
