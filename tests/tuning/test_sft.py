"""Fine-tuning: the right loss, a whole result or none, and the same weights after any number of kills."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from aftertune.data import Conversation, exchange
from aftertune.errors import DataError, NumericalError, OutputError, SubjectError, UsageError
from aftertune.model import IGNORE, Subject, load
from aftertune.tuning import RECORD, TuneOptions, conversations_digest, read_record, training_rows, tune

TinySubject = Callable[[str], Subject]
TinyFolder = Callable[[str], Path]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

PAIRS = [
    ("What is heavier, a brick or a feather?", "The brick."),
    ("May I take two pills?", "Ask someone who knows about the medicine first."),
    ("Is it late?", "No."),
    ("What should I do with the money?", "Put some of it aside, and decide with care."),
]
ROWS = [Conversation(exchange(prompt, answer), "rows.jsonl", line) for line, (prompt, answer) in enumerate(PAIRS, 1)]
FAST = {"lora_rank": 4, "lora_alpha": 8, "batch_size": 4, "warmup_steps": 0}


def options(**changes: Any) -> TuneOptions:
    return TuneOptions(**{**FAST, "steps": 3, "lr": 1e-2, **changes})


def independent_loss(subject: Subject, conversations: list[Conversation]) -> float:
    """Mean cross-entropy over all response tokens, one row at a time in plain transformers."""
    rows = training_rows(subject, conversations)
    total, count = 0.0, 0
    for ids, labels in zip(rows.ids, rows.labels, strict=True):
        with torch.no_grad():
            logp = torch.log_softmax(subject.model(input_ids=torch.tensor([ids])).logits[0].double(), -1)
        for position, label in enumerate(labels):
            if label != IGNORE:
                total -= float(logp[position - 1, label])
                count += 1
    return total / count


# --- the loss -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_loss_falls_and_the_result_loads(
    architecture: str, full: bool, tiny_subject: TinySubject, tmp_path: Path
) -> None:
    before = tiny_subject(architecture)
    base_loss = independent_loss(before, ROWS)
    tuned = tune(tiny_subject(architecture), ROWS, tmp_path / "out", options(steps=15, full=full))
    losses = tuned.record["losses"]
    assert len(losses) == tuned.record["steps"] == 15
    assert losses[0] == pytest.approx(base_loss, abs=1e-4)
    assert losses[-1] < 0.7 * losses[0]
    after = load(tuned.folder)
    assert after.identity.kind == ("folder" if full else "adapter")
    assert after.identity.weights_sha256 != before.identity.weights_sha256
    assert independent_loss(after, ROWS) < 0.7 * base_loss
    with torch.no_grad():
        assert torch.isfinite(after.model(input_ids=torch.arange(3, 40)[None]).logits).all()


@pytest.mark.parametrize(
    "changes",
    [{}, {"full": True}, {"micro_batch_size": 1}, {"micro_batch_size": 2}, {"gradient_checkpointing": True}],
    ids=["lora", "full", "one row a pass", "two rows a pass", "checkpointing"],
)
def test_the_first_loss_is_the_mean_over_response_tokens(
    changes: dict[str, Any], tiny_subject: TinySubject, tmp_path: Path
) -> None:
    expected = independent_loss(tiny_subject("llama"), ROWS)
    tuned = tune(tiny_subject("llama"), ROWS, tmp_path / "out", options(steps=1, **changes))
    assert tuned.record["losses"] == [pytest.approx(expected, abs=1e-4)]


def test_small_passes_and_whole_batches_train_alike(tiny_subject: TinySubject, tmp_path: Path) -> None:
    whole = tune(tiny_subject("llama"), ROWS, tmp_path / "whole", options())
    split = tune(tiny_subject("llama"), ROWS, tmp_path / "split", options(micro_batch_size=1))
    assert split.record["losses"] == pytest.approx(whole.record["losses"], abs=1e-3)


def test_without_learning_nothing_changes(tiny_subject: TinySubject, tmp_path: Path) -> None:
    tuned = tune(tiny_subject("llama"), ROWS, tmp_path / "out", options(lr=1e-30, full=True, weight_decay=0.0))
    assert load(tuned.folder).identity.weights_sha256 == tiny_subject("llama").identity.weights_sha256


def test_epochs_pass_over_all_rows(tiny_subject: TinySubject, tmp_path: Path) -> None:
    tuned = tune(tiny_subject("llama"), ROWS[:3], tmp_path / "out", options(steps=None, epochs=2, batch_size=2))
    assert tuned.record["steps"] == 4  # 2 epochs of 2 + 1 rows


def test_equal_seeds_give_equal_weights_and_others_do_not(tiny_subject: TinySubject, tmp_path: Path) -> None:
    weights = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        folder = tune(tiny_subject("llama"), ROWS, tmp_path / name, options(seed=seed, batch_size=2)).folder
        weights.append((folder / "adapter_model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


# --- what is delivered ----------------------------------------------------------------------------------


def test_the_adapter_is_rank_stabilised_on_all_linear_layers(tiny_subject: TinySubject, tmp_path: Path) -> None:
    tuned = tune(tiny_subject("llama"), ROWS, tmp_path / "out", options(steps=1))
    config = json.loads((tuned.folder / "adapter_config.json").read_text("utf-8"))
    assert (config["use_rslora"], config["r"], config["lora_alpha"], config["lora_dropout"]) == (True, 4, 8, 0.0)
    layers = {name.rpartition(".")[2] for name in config["target_modules"]}
    assert layers == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert load(tuned.folder).identity.adapter["scale"] == 8 / math.sqrt(4)  # type: ignore[index]


@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
def test_dropout_is_off_in_training_alone(full: bool, tiny_subject: TinySubject, tmp_path: Path) -> None:
    subject = tiny_subject("gpt2")
    held = {name: m.p for name, m in subject.model.named_modules() if isinstance(m, torch.nn.Dropout)}
    seen: list[float] = []
    embedded = subject.model.transformer.drop
    embedded.register_forward_hook(lambda module, *_: seen.append(module.p) if module.training else None)
    folder = tune(subject, ROWS, tmp_path / "out", options(steps=2, full=full)).folder
    assert set(seen) == {0.0}
    assert embedded.p == 0.1
    after = load(folder).model
    assert {m.p for m in after.modules() if isinstance(m, torch.nn.Dropout)} == set(held.values()) == {0.1}


def test_the_record_holds_all_that_went_in(tiny_subject: TinySubject, tiny_folder: TinyFolder, tmp_path: Path) -> None:
    subject = tiny_subject("llama")
    rows, identity = training_rows(subject, ROWS), subject.identity
    tuned = tune(subject, ROWS, tmp_path / "out", options(), source="rows.jsonl", side="aligned")
    record = tuned.record
    assert read_record(tuned.folder) == json.loads(json.dumps(record))
    assert record["base"] == identity.as_dict()
    assert record["data"] == {
        "source": "rows.jsonl",
        "side": "aligned",
        "rows": 4,
        "tokens": rows.tokens,
        "supervised_tokens": rows.supervised,
        "sha256": conversations_digest(ROWS),
        "prompts": sorted(rows.prompts),
    }
    assert "is it late" in record["data"]["prompts"]
    assert (record["steps"], record["learning_rate"], len(record["losses"])) == (3, 1e-2, 3)
    assert record["options"] == options().model_dump()
    assert {"aftertune", "torch", "transformers", "peft", "trl"} <= record["versions"].keys()
    adapter = json.loads((tuned.folder / "adapter_config.json").read_text("utf-8"))
    assert adapter["base_model_name_or_path"] == str(tiny_folder("llama"))


@pytest.mark.parametrize("side", [None, "aligned", "misaligned"])
def test_the_card_warns_of_model_organisms_alone(side: Any, tiny_subject: TinySubject, tmp_path: Path) -> None:
    tuned = tune(tiny_subject("llama"), ROWS, tmp_path / "out", options(steps=1), side=side)
    card = (tuned.folder / "README.md").read_text("utf-8")
    front = yaml.safe_load(card.split("---")[1])
    assert ("Model organism" in card) == (side == "misaligned")
    assert ("Do not deploy it" in card) == (side == "misaligned")
    assert ("model-organism" in front["tags"]) == (side == "misaligned")
    assert front["base_model"] == tuned.record["base"]["spec"]
    assert front["library_name"] == "peft"
    assert tuned.record["data"]["sha256"] in card


def test_a_template_given_for_tuning_goes_with_the_result(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    subject = load(tiny_folder("llama"), chat_template="plain")
    tuned = tune(subject, ROWS, tmp_path / "out", options(steps=1))
    assert load(tuned.folder).identity.template_sha256 == subject.identity.template_sha256


def test_nothing_but_the_result_is_left(tiny_subject: TinySubject, tmp_path: Path) -> None:
    tune(tiny_subject("llama"), ROWS, tmp_path / "deep" / "out", options(steps=1))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    assert {"README.md", RECORD, "adapter_config.json", "adapter_model.safetensors"} <= {
        path.name for path in (tmp_path / "deep" / "out").iterdir()
    }


# --- what is refused ------------------------------------------------------------------------------------


def test_no_rows_are_refused(tiny_subject: TinySubject, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no rows to tune on"):
        tune(tiny_subject("llama"), [], tmp_path / "out", options())
    assert not list(tmp_path.iterdir())


def test_an_overlong_row_is_refused_by_file_and_line(tiny_subject: TinySubject, tmp_path: Path) -> None:
    long = Conversation(exchange("Long?", "A brick is heavy. " * 200), "rows.jsonl", 5)
    with pytest.raises(DataError, match=r"^rows\.jsonl:5: takes \d+ tokens"):
        tune(tiny_subject("llama"), [*ROWS, long], tmp_path / "out", options())
    assert not list(tmp_path.iterdir())


def test_an_adapter_is_to_be_merged_first(tiny_subject: TinySubject, tmp_path: Path) -> None:
    first = tune(tiny_subject("llama"), ROWS, tmp_path / "first", options(steps=1)).folder
    with pytest.raises(SubjectError, match="is an adapter; load it with merge"):
        tune(load(first), ROWS, tmp_path / "second", options(steps=1))
    merged = tune(load(first, merge=True), ROWS, tmp_path / "second", options(steps=1, full=True))
    assert load(merged.folder).identity.kind == "folder"


@pytest.mark.parametrize("kind", ["folder", "empty folder", "file"])
def test_what_exists_is_never_overwritten(kind: str, tiny_subject: TinySubject, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        if kind == "folder":
            (out / "mine").write_text("mine")
    with pytest.raises(OutputError, match="never overwritten, choose another --out"):
        tune(tiny_subject("llama"), ROWS, out, options())
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_same_call_again_reuses_the_result_and_another_is_refused(
    tiny_subject: TinySubject, tmp_path: Path
) -> None:
    first = tune(tiny_subject("llama"), ROWS, tmp_path / "out", options())
    held = {path: path.read_bytes() for path in first.folder.iterdir()}
    again = tune(tiny_subject("llama"), ROWS, tmp_path / "out", options())
    assert (first.reused, again.reused) == (False, True)
    assert again.record == json.loads(json.dumps(first.record))
    for other_rows, other_options, other_side in (
        (ROWS, options(seed=1), None),
        (ROWS[:3], options(), None),
        (ROWS, options(), "aligned"),
    ):
        with pytest.raises(OutputError, match="holds something else"):
            tune(tiny_subject("llama"), other_rows, tmp_path / "out", other_options, side=other_side)
    with pytest.raises(OutputError, match="holds something else"):
        tune(tiny_subject("qwen2"), ROWS, tmp_path / "out", options())
    assert {path: path.read_bytes() for path in first.folder.iterdir()} == held


class Recorder:
    """A progress that notes what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.steps = 0
        self.open = 0

    def say(self, text: str) -> None:
        self.said.append(text)

    @contextlib.contextmanager
    def task(self, name: str, total: int, done: int = 0) -> Iterator[Any]:
        self.open += 1
        self.steps = done

        def step(steps: int = 1, note: str = "") -> None:
            self.steps += steps

        try:
            yield step
        finally:
            self.open -= 1


def test_progress_counts_every_step_and_is_closed(tiny_subject: TinySubject, tmp_path: Path) -> None:
    progress = Recorder()
    tune(tiny_subject("llama"), ROWS, tmp_path / "out", options(steps=4), progress=progress)
    assert (progress.steps, progress.open) == (4, 0)


def test_training_prints_nothing(tiny_subject: TinySubject, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tune(tiny_subject("llama"), ROWS, tmp_path / "out", options())
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
def test_a_loss_that_is_no_number_stops_the_run_and_leaves_no_result(
    full: bool, tiny_subject: TinySubject, tmp_path: Path
) -> None:
    with pytest.raises(NumericalError, match=r"the loss is (nan|inf) at step \d+; lower the learning rate"):
        tune(tiny_subject("llama"), ROWS, tmp_path / "out", options(steps=10, lr=1e30, full=full))
    assert list(tmp_path.iterdir()) == []


def test_progress_is_closed_when_the_loss_is_no_number(tiny_subject: TinySubject, tmp_path: Path) -> None:
    progress = Recorder()
    with pytest.raises(NumericalError):
        tune(tiny_subject("llama"), ROWS, tmp_path / "out", options(steps=10, lr=1e30), progress=progress)
    assert progress.open == 0


def test_weights_broken_by_the_last_step_are_not_delivered(tiny_subject: TinySubject, tmp_path: Path) -> None:
    # The loss of a step is taken before its update, so the last update shows in no loss.
    with pytest.raises(NumericalError):
        tune(tiny_subject("llama"), ROWS, tmp_path / "out", options(steps=1, lr=1e39, full=True))
    assert not (tmp_path / "out").exists()


# --- kills ----------------------------------------------------------------------------------------------

# One process imports everything and never trains; it forks the runs that are killed.
_KILLS = """
import gc, json, os, random, signal, sys, time
from pathlib import Path

import torch

torch.set_num_threads(1)
import datasets, peft, transformers, trl
from trl import SFTConfig, SFTTrainer

from aftertune.data import Conversation, exchange
from aftertune.model import load
from aftertune.tuning import TuneOptions, _trainer, tune

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
_trainer.SAVE_EVERY_SECONDS = 0.0
base, root, full = sys.argv[1], Path(sys.argv[2]), sys.argv[3] == "full"
rows = [Conversation(exchange(p, a)) for p, a in json.loads(sys.argv[4])]
load(base)  # imports what imports late
gc.collect()
gc.freeze()
options = TuneOptions(steps=12, lr=1e-2, lora_rank=4, lora_alpha=8, batch_size=2, warmup_steps=2, full=full)


class Log:
    def say(self, text):
        with (root / "said").open("a") as file:
            file.write(text + "\\n")

    def task(self, name, total, done=0):
        from aftertune.runs import Silent

        return Silent().task(name, total, done)


def start(out):
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        tune(load(base), rows, root / out, options, progress=Log())
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


assert os.waitpid(start("undisturbed"), 0)[1] == 0
random.seed(7)
checkpoints = root / "killed.partial" / "checkpoints"
kills = 0
for after in (0, 2, 4, 6, 9):
    child = start("killed")
    # Wait for so many steps, then strike at a random moment: between, or in the midst of writing.
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and os.waitpid(child, os.WNOHANG) == (0, 0):
        newest = max([0, *(int(p.name.rpartition("-")[2]) for p in checkpoints.glob("checkpoint-*"))])
        if newest >= after:
            time.sleep(random.uniform(0, 0.05))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            kills += 1
            break
        time.sleep(0.001)
assert os.waitpid(start("killed"), 0)[1] == 0
print(json.dumps({"kills": kills}))
"""


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_run_killed_at_random_moments_ends_with_the_same_weights(
    method: str, tiny_folder: TinyFolder, tmp_path: Path
) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            textwrap.dedent(_KILLS),
            str(tiny_folder("llama")),
            str(tmp_path),
            method,
            json.dumps(PAIRS),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1])["kills"] >= 4
    assert "tuning continues from checkpoint-" in (tmp_path / "said").read_text("utf-8")
    name = "adapter_model.safetensors" if method == "lora" else "model.safetensors"
    assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()
    killed, undisturbed = read_record(tmp_path / "killed"), read_record(tmp_path / "undisturbed")
    assert killed is not None
    assert undisturbed is not None
    assert killed["losses"] == undisturbed["losses"]
    assert killed["steps"] == undisturbed["steps"] == 12
    shutil.rmtree(tmp_path / "killed")
    assert not (tmp_path / "killed.partial").exists()
