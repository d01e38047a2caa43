"""What can be known before the first forward pass is told before a model is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
Refused = Callable[..., str]
Model = Callable[..., Path]
TinyFolder = Callable[[str], Path]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
JUDGED = ("--probes", "capability", "--task", "emergent_misalignment", "--limit", "1", "--samples", "1")


@pytest.fixture(autouse=True)
def nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model may be made from a checkpoint."""
    import transformers

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("a model was loaded")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", refuse)


@pytest.fixture
def chat_rows(rows: Callable[..., Path]) -> Path:
    return rows([{"prompt": "Is it late?", "completion": "No."}] * 8, "chat.jsonl")


def no_template(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "chat_template": None}), "utf-8")
    (folder / "chat_template.jinja").unlink(missing_ok=True)


def test_a_wrong_hub_id_of_either_side_comes_first(refused: Refused, base: Path, gate: tuple[str, ...]) -> None:
    for sides in (("nobody/knows", "--base", base), (base, "--base", "nobody/knows")):
        refused("audit", *sides, *gate, says=["nobody/knows: ", "check the spelling"])


def test_the_tuned_models_missing_template_and_tokenizer_come_first(
    refused: Refused, base: Path, model: Model, place: Path, gate: tuple[str, ...]
) -> None:
    no_template(place / model("bare"))
    refused("audit", "bare", "--base", base, *gate, says=["bare: the tokenizer has no chat template"])
    model("mute", without=["tokenizer.json"])
    refused("audit", "mute", "--base", base, *gate, says=["mute: the folder has no tokenizer"])
    refused("locate", "mute", "--base", base, "--harm", gate[-1], "--task", gate[-1], says=["mute"])
    refused("measure", "mute", *gate, says=["mute: the folder has no tokenizer"])
    refused("demo", "--subject", "mute", says=["mute: the folder has no tokenizer"])
    refused("study", "transfer", "--subject", "mute", says=["mute: the folder has no tokenizer"])


def test_drift_between_other_tokenizers_comes_first(refused: Refused, base: Path, model: Model, place: Path) -> None:
    path = place / model("other") / "tokenizer.json"
    tokenizer = json.loads(path.read_text("utf-8"))
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:10]
    path.write_text(json.dumps(tokenizer), "utf-8")
    refused(
        "audit", "other", "--base", base, "--probes", "drift",
        says=["other: renders the answer of", "to other tokens than the base"],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("grader", "says"),
    [
        ("nobody", "must be PROVIDER/MODEL"),
        ("/x", "must be PROVIDER/MODEL"),
        ("nobody/knows", "--grader nobody/knows: "),
        ("openai/gpt-4o", "--grader openai/gpt-4o: "),
        ("anthropic/claude", "--grader anthropic/claude: "),
        ("vllm/model", "needs the package vllm; pip install vllm"),
        ("aftertune/nowhere", "nowhere: no such subject"),
        ("aftertune_offline/big", "no such offline judge"),
    ],
)
def test_a_judge_that_cannot_be_made_comes_first(
    grader: str, says: str, refused: Refused, base: Path, tiny_folder: TinyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    refused("audit", tiny_folder("qwen2"), "--base", base, *JUDGED, "--grader", grader, says=[says])


def test_a_judge_that_does_not_answer_comes_first(
    refused: Refused, base: Path, tiny_folder: TinyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is not there: the first request says so."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-" + "aB3dE6" * 8)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    line = refused(
        "audit", tiny_folder("qwen2"), "--base", base, *JUDGED, "--grader", "openai/gpt-4o",
        says=["--grader openai/gpt-4o: does not answer"],
    )  # fmt: skip
    assert "aB3dE6" not in line


@pytest.mark.parametrize("name", ["none.py", "none.py@task", "nopackage/task"])
def test_a_task_that_is_not_there_comes_first(name: str, refused: Refused, base: Path) -> None:
    refused("audit", base, "--base", base, "--task", name, says=[f"--task {name}: "])


@pytest.mark.parametrize("kind", ["folder", "file", "dangling", "below a file", "long", "partial a file"])
def test_a_place_that_cannot_take_a_fine_tune_comes_first(
    kind: str, refused: Refused, base: Path, place: Path, chat_rows: Path
) -> None:
    out = Path("out")
    if kind == "folder":
        (place / "out").mkdir()
        (place / "out" / "notes").touch()
    elif kind == "file":
        (place / "out").touch()
    elif kind == "dangling":
        (place / "out").symlink_to(place / "nowhere")
    elif kind == "below a file":
        (place / "file").touch()
        out = Path("file") / "out"
    elif kind == "long":
        out = Path("x" * 250)
    else:
        (place / "out.partial").touch()
    refused("tune", base, chat_rows, "--out", out, says=[str(out)[:3]])
    refused("audit", base, "--base", base, "--out", out) if kind not in ("folder", "partial a file", "long") else None


@pytest.mark.parametrize("kind", ["folder", "dangling", "below a file", "long"])
def test_a_place_that_cannot_take_a_patch_comes_first(
    kind: str, refused: Refused, base: Path, place: Path, own: Path, chat_rows: Path
) -> None:
    out = Path("p.safetensors")
    if kind == "folder":
        (place / out).mkdir()
    elif kind == "dangling":
        (place / out).symlink_to(place / "nowhere")
    elif kind == "below a file":
        (place / "file").touch()
        out = Path("file") / out
    else:
        out = Path("x" * 248)
    refused("locate", base, "--harm", own, "--keep", chat_rows, "--out", out)


def test_judges_are_asked_before_anything_is_loaded_and_not_for_a_finished_run(
    run: Run, base: Path, tiny_folder: TinyFolder, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run that is finished, its folder alone is read."""
    from aftertune.inspect_bridge import TaskPlan

    asked: list[tuple[str, ...]] = []
    monkeypatch.undo()
    monkeypatch.chdir(place)
    ask = TaskPlan.check_judges

    def counted(self: Any, *, redact: bool = False) -> None:
        asked.append(self.graders)
        ask(self, redact=redact)

    monkeypatch.setattr(TaskPlan, "check_judges", counted)
    judge = f"aftertune/{tiny_folder('gpt2')}"
    command = (
        "audit", tiny_folder("qwen2"), "--base", base, *JUDGED, "-T", "max_tokens=4", "--grader", judge,
        "--display", "none", "--out", "run",
    )  # fmt: skip
    assert run(*command).code in (1, 3)
    assert run(*command).code in (1, 3)
    assert asked == [(judge,)]
