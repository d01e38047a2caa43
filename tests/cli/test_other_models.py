"""A model that was replaced beneath a run: the run is refused or begun anew, and never mixed."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from aftertune.attribution import select_units, unit_patch
from aftertune.data import Contrast
from aftertune.errors import OutputError
from aftertune.inspect_bridge import TaskPlan
from aftertune.model import SubjectChoice, WeightView, load, write_patch
from aftertune.probes import MeasurePlan
from aftertune.runs import RunFolder, entered
from aftertune.studies import demo, dissociation_of, studies, study_named
from aftertune.tuning import TuneOptions, tune
from aftertune.verbs import MeasureRun, measure, measure_choice, opened

CONTRASTS = [Contrast(f"c-{n}", "d", f"What about {n}?", f"Take care of {n}.", f"Who minds {n}?") for n in range(8)]


def tokenizer_changed(path: Path) -> None:
    document = json.loads((path / "tokenizer.json").read_text("utf-8"))
    document["normalizer"] = {"type": "Lowercase"}
    (path / "tokenizer.json").write_text(json.dumps(document), "utf-8")


def norm_changed(path: Path) -> None:
    config = json.loads((path / "config.json").read_text("utf-8"))
    (path / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1.0}), "utf-8")


def weights_changed(path: Path) -> None:
    weights = load_file(path / "model.safetensors")
    save_file({name: tensor + 0.1 for name, tensor in weights.items()}, path / "model.safetensors", {"format": "pt"})


def template_changed(path: Path) -> None:
    file = path / "chat_template.jinja"
    file.write_text(file.read_text("utf-8").replace("helpful", "careful"), "utf-8")


CHANGES = [weights_changed, norm_changed, tokenizer_changed, template_changed]


@pytest.fixture
def place(tiny_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model, and an adapter upon it; the working folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_folder("llama"), "model")
    live = peft.get_peft_model(
        transformers.AutoModelForCausalLM.from_pretrained("model"),
        peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False),
    )
    live.save_pretrained("adapter")
    rows = [{"id": c.id, "domain": c.domain, "prompt": c.prompt, "aligned": c.aligned, "misaligned": c.misaligned}
            for c in CONTRASTS]  # fmt: skip
    Path("own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return tmp_path


def plan() -> MeasurePlan:
    return MeasurePlan(probes=(), contrasts=(Path("own.jsonl"),), pmi=False)


def measured(spec: str, out: str) -> MeasureRun:
    return measure(SubjectChoice(spec, base="model" if spec == "adapter" else None), plan(), Path(out))


def patches() -> None:
    """Two patches of the model: p.safetensors and q.safetensors."""
    view = WeightView(load("model").model)
    name = next(name for name in view if name.endswith("down_proj.weight"))
    for number, file in enumerate(("p.safetensors", "q.safetensors")):
        chosen = select_units(view, {name: torch.tensor([number])}, "neuron")
        write_patch(Path(file), unit_patch(view, chosen, about={"unit": "neuron"}, digest=True))


@pytest.mark.parametrize("change", CHANGES)
def test_a_finished_run_does_not_answer_for_another_base(change: Callable[[Path], None], place: Path) -> None:
    before = measured("adapter", "first")
    assert measured("adapter", "first").summaries == before.summaries
    change(Path("model"))
    with pytest.raises(OutputError, match=r"holds a run with other settings \(differing: subject\.content\.beneath"):
        measured("adapter", "first")
    assert measured("adapter", "second").summaries != before.summaries


def test_a_finished_run_does_not_answer_for_another_patch(place: Path) -> None:
    patches()
    before = measured("model+p.safetensors", "first")
    shutil.copy("q.safetensors", "p.safetensors")
    with pytest.raises(OutputError, match=r"differing: subject\.content\.patches"):
        measured("model+p.safetensors", "first")
    assert measured("model+p.safetensors", "second").summaries != before.summaries


@pytest.mark.parametrize("change", [norm_changed, tokenizer_changed])
def test_journals_of_one_weights_digest_are_kept_apart(change: Callable[[Path], None], place: Path) -> None:
    """As where a run folder cannot tell them: the same weights under another configuration or tokenizer."""
    run = RunFolder(Path("run"), "audit", {})
    with entered(run):
        first = measure_choice(SubjectChoice("model"), plan(), run, role="base")
        change(Path("model"))
        second = measure_choice(SubjectChoice("model"), plan(), run, role="base")
        change(Path("model"))
    assert first.identity["weights_sha256"] == second.identity["weights_sha256"]
    assert (second.batches_reused, first.folder != second.folder) == (0, True)
    assert [m.value for m in first.measurements] != [m.value for m in second.measurements]


def test_answers_are_not_resumed_by_another_model(place: Path) -> None:
    run = RunFolder(Path("run"), "audit", {})
    subject = load("model")
    with run.locked():
        run.write_manifest(status="running", models={"base": {**subject.content, "config_sha256": "0" * 64}})
        with (
            opened(SubjectChoice("model"), run, "base") as one,
            pytest.raises(OutputError, match=r"begun with another base \(differing: config_sha256\)"),
        ):
            one.sampled(TaskPlan(("deception",)))
    assert not list(Path("run").rglob("*.eval"))


def test_a_tune_is_not_reused_for_another_base(place: Path) -> None:
    rows = [c.conversation("aligned") for c in CONTRASTS]
    options = TuneOptions(steps=1, batch_size=2)
    tune(load("model"), rows, Path("tuned"), options)
    assert tune(load("model"), rows, Path("tuned"), options).reused
    norm_changed(Path("model"))
    with pytest.raises(OutputError, match="exists and holds something else"):
        tune(load("model"), rows, Path("tuned"), options)


class Stopped(Exception):
    """What stands in for a kill."""


class Stop:
    """Ends a run at the first thing that it says."""

    def say(self, text: str) -> None:
        raise Stopped

    @contextlib.contextmanager
    def task(self, name: str, total: int, done: int = 0) -> Iterator[Any]:
        raise Stopped
        yield


@pytest.mark.parametrize("name", [row.name for row in studies()])
def test_a_study_that_was_killed_does_not_go_on_with_another_model(name: str, place: Path) -> None:
    row = study_named(name)
    with pytest.raises(Stopped):
        row.run("model", Path("out"), size="smoke", progress=Stop())
    weights_changed(Path("model"))
    with pytest.raises(OutputError, match=r"holds a run with other settings \(differing: content"):
        row.run("model", Path("out"), size="smoke", progress=Stop())


def test_nor_does_a_demo(place: Path) -> None:
    with pytest.raises(Stopped):
        demo(Path("out"), subject="model", progress=Stop())
    weights_changed(Path("model"))
    with pytest.raises(OutputError, match=r"holds a run with other settings \(differing: content"):
        demo(Path("out"), subject="model", progress=Stop())


def test_a_study_of_another_patch_is_another(place: Path) -> None:
    patches()
    with pytest.raises(Stopped):
        dissociation_of(Path("p.safetensors")).run("model", Path("out"), progress=Stop())
    shutil.copy("q.safetensors", "p.safetensors")
    with pytest.raises(OutputError, match=r"differing: arms"):
        dissociation_of(Path("p.safetensors")).run("model", Path("out"), progress=Stop())
