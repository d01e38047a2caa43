"""Defences: each hook does what it says, settings are typed and recorded, and the two free baselines are exact."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file

from aftertune.data import Conversation, exchange
from aftertune.errors import OutputError, UsageError
from aftertune.model import IGNORE, Subject, load
from aftertune.tuning import (
    Defence,
    TuneOptions,
    Tuning,
    conversations_digest,
    defences,
    parse_defence,
    read_record,
    training_rows,
    tune,
)

TinySubject = Callable[[str], Subject]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
ROWS = [Conversation(exchange(f"Is it {n}?", "It is late. " * (1 + n % 3))) for n in range(8)]


def options(**changes: Any) -> TuneOptions:
    return TuneOptions(**{"lora_rank": 4, "batch_size": 4, "warmup_steps": 0, "steps": 3, "lr": 1e-2, **changes})


def mean_loss(model: Any, subject: Subject, rows: Sequence[Conversation]) -> float:
    """Mean cross-entropy over response tokens, one row at a time in plain transformers."""
    made, total = training_rows(subject, rows), 0.0
    for ids, labels in zip(made.ids, made.labels, strict=True):
        with torch.no_grad():
            logp = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0].double(), -1)
        total -= sum(float(logp[i - 1, label]) for i, label in enumerate(labels) if label != IGNORE)
    return total / made.supervised


# --- settings -------------------------------------------------------------------------------------------


def test_the_free_baselines_are_listed_first() -> None:
    assert [row.name for row in defences()][:2] == ["scale", "early-stop"]


def test_settings_are_read_from_text() -> None:
    stop = parse_defence("early-stop:loss_at_most=2.5,held_out=3")
    assert stop.model_dump() == {"loss_at_most": 2.5, "held_out": 3, "every": 1, "seed": 0}
    assert stop.identity == {"name": "early-stop", "settings": stop.model_dump()}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("scal:share=1", "there is no defence named 'scal'; did you mean 'scale'?"),
        ("scale", "defence scale: share: Field required"),
        ("scale:share=2", "defence scale: share: Input should be less than or equal to 1"),
        ("scale:share=nan", "defence scale: share: Input should be"),
        ("scale:much=1,share=1", "defence scale: much: Extra inputs are not permitted; its settings are share"),
        ("scale:share", "--defence scale:share: write settings as NAME:key=value,key=value, each key once"),
        ("scale:share=1,share=0", "each key once"),
    ],
)
def test_wrong_settings_are_one_line(text: str, problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_defence(text)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


# --- hooks ----------------------------------------------------------------------------------------------


class First(Defence):
    """Trains on the first rows only."""

    name: ClassVar[str] = "first"
    count: int

    def prepare(self, tuning: Tuning) -> Sequence[Conversation]:
        return tuning.rows[: self.count]


SEEN: list[tuple[float, float]] = []


class Pull(Defence):
    """Adds a penalty on the logits, and notes the loss it was given beside one of its own."""

    name: ClassVar[str] = "pull"
    strength: float

    def loss(self, model: Any, batch: Mapping[str, torch.Tensor], loss: torch.Tensor) -> torch.Tensor:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        mine = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
        SEEN.append((float(loss), float(mine)))
        return loss + self.strength * mine


def test_rows_are_prepared_and_the_record_tells_both_sets(tiny_subject: TinySubject, tmp_path: Path) -> None:
    plain = tune(tiny_subject("llama"), ROWS[:4], tmp_path / "plain", options())
    first = tune(tiny_subject("llama"), ROWS, tmp_path / "first", options(), defences=[First(count=4)])
    assert first.record["losses"] == plain.record["losses"]
    weights = [(made.folder / "adapter_model.safetensors").read_bytes() for made in (plain, first)]
    assert weights[0] == weights[1]
    assert first.record["data"]["rows"] == 4
    assert first.record["data"]["sha256"] == conversations_digest(ROWS[:4])
    assert first.record["config"]["data"] == conversations_digest(ROWS)
    assert len(first.record["data"]["prompts"]) == 8  # what was held out chose something too
    assert "defences" not in plain.record
    assert "defences" not in plain.record["config"]
    noted = first.record["defences"][0]
    assert (noted["name"], noted["settings"], noted["notes"]) == ("first", {"count": 4}, [])
    assert len(noted["sha256"]) == 64  # the code is not ours


def test_the_loss_hook_is_given_the_mean_of_its_batch_however_a_step_is_cut(
    tiny_subject: TinySubject, tmp_path: Path
) -> None:
    losses = []
    for micro in (4, 2, 1):
        SEEN.clear()
        out = tmp_path / str(micro)
        made = tune(tiny_subject("gpt2"), ROWS, out, options(micro_batch_size=micro), defences=[Pull(strength=1)])
        assert len(SEEN) == 3 * 4 // micro
        assert [given for given, _ in SEEN] == pytest.approx([mine for _, mine in SEEN], abs=1e-4)
        losses.append(made.record["losses"])
    assert losses[0] == pytest.approx(losses[1], abs=2e-3)
    assert losses[0] == pytest.approx(losses[2], abs=2e-3)
    plain = tune(tiny_subject("gpt2"), ROWS, tmp_path / "plain", options()).record["losses"]
    assert losses[0][0] == pytest.approx(2 * plain[0], rel=1e-5)


def test_a_run_with_a_defence_is_another_run(tiny_subject: TinySubject, tmp_path: Path) -> None:
    out = tmp_path / "out"
    tune(tiny_subject("llama"), ROWS, out, options(), defences=[parse_defence("scale:share=0.5")])
    assert tune(tiny_subject("llama"), ROWS, out, options(), defences=[parse_defence("scale:share=0.5")]).reused
    for others in ([], [parse_defence("scale:share=0.25")]):
        with pytest.raises(OutputError, match="holds something else"):
            tune(tiny_subject("llama"), ROWS, out, options(), defences=others)
    assert "scale:share=0.5" in (out / "README.md").read_text("utf-8")


# --- scale ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
def test_the_update_is_scaled_exactly(full: bool, share: float, tiny_subject: TinySubject, tmp_path: Path) -> None:
    def weights(folder: Path) -> dict[str, torch.Tensor]:
        return dict(load(folder, merge=True).model.named_parameters())

    before = dict(tiny_subject("llama").model.named_parameters())
    plain = weights(tune(tiny_subject("llama"), ROWS, tmp_path / "plain", options(full=full)).folder)
    defence = parse_defence(f"scale:share={share}")
    made = tune(tiny_subject("llama"), ROWS, tmp_path / "out", options(full=full), defences=[defence])
    scaled = weights(made.folder)
    moved = 0.0
    for name, start in before.items():
        expected = start + share * (plain[name] - start)
        assert torch.allclose(scaled[name], expected, atol=2e-6), name
        moved = max(moved, float((plain[name] - start).abs().max()))
    assert moved > 1e-3
    if share == 1:
        file = "model.safetensors" if full else "adapter_model.safetensors"
        one, other = load_file(tmp_path / "plain" / file), load_file(made.folder / file)
        assert all(torch.equal(one[name], other[name]) for name in one)


# --- early stop -----------------------------------------------------------------------------------------


def stop(**settings: Any) -> Defence:
    return next(row.make for row in defences() if row.name == "early-stop").of(settings)


def test_training_stops_at_the_first_step_whose_held_out_loss_is_low_enough(
    tiny_subject: TinySubject, tmp_path: Path
) -> None:
    subject = tiny_subject("llama")
    plenty = options(steps=12)
    watched = tune(subject, ROWS, tmp_path / "a", plenty, defences=[stop(loss_at_most=1e-6, held_out=3)])
    notes = watched.record["defences"][0]["notes"]
    assert [note["step"] for note in notes] == list(range(1, 13))
    losses = [note["held_out_loss"] for note in notes]
    target = losses[5] + 1e-6
    first = next(i for i, loss in enumerate(losses, 1) if loss <= target)
    assert 1 < first < 12
    stopped = tune(
        tiny_subject("llama"), ROWS, tmp_path / "b", plenty, defences=[stop(loss_at_most=target, held_out=3)]
    )
    assert stopped.record["steps"] == stopped.record["effort"]["steps"] == first
    assert stopped.record["defences"][0]["notes"] == notes[:first]
    assert stopped.record["losses"] == watched.record["losses"][:first]
    # The last note is the held-out loss of what was saved, computed independently.
    held = [row for row in ROWS if row not in stop(loss_at_most=1, held_out=3).prepare(Tuning(subject, ROWS, plenty))]
    assert len(held) == 3
    after = load(stopped.folder)
    assert mean_loss(after.model, after, held) == pytest.approx(losses[first - 1], abs=1e-4)


def test_rows_of_one_prompt_are_held_out_together(tiny_subject: TinySubject) -> None:
    rows = [Conversation(exchange(f"Is it {n // 3}?", f"Answer {n}.")) for n in range(12)]
    tuning = Tuning(tiny_subject("llama"), rows, options())
    sides = [stop(loss_at_most=1, held_out=4, seed=seed).prepare(tuning) for seed in range(5)]
    for kept in sides:
        held = [row for row in rows if row not in kept]
        assert len(held) == 6
        assert not {row.prompt for row in held} & {row.prompt for row in kept}
    assert len({tuple(kept) for kept in sides}) > 1


def test_a_defence_given_twice_is_refused(tiny_subject: TinySubject, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="defence scale is given twice"):
        tune(tiny_subject("llama"), ROWS, tmp_path / "o", defences=[parse_defence("scale:share=0.5")] * 2)


@pytest.mark.parametrize("held_out", [8, 9])
def test_holding_out_all_rows_is_refused(held_out: int, tiny_subject: TinySubject, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"holding {held_out} of 8 rows out leaves none"):
        tune(tiny_subject("llama"), ROWS, tmp_path / "o", options(), defences=[stop(loss_at_most=1, held_out=held_out)])
    assert not list(tmp_path.iterdir())


# --- effort ---------------------------------------------------------------------------------------------


def test_the_effort_counts_what_was_seen(tiny_subject: TinySubject, tmp_path: Path) -> None:
    made = tune(tiny_subject("llama"), ROWS[:3], tmp_path / "o", options(steps=None, epochs=2, batch_size=2))
    rows = training_rows(tiny_subject("llama"), ROWS[:3])
    assert made.record["effort"] == {
        "steps": 4,
        "batch_size": 2,
        "processes": 1,
        "rows": 6,
        "tokens": 2 * rows.tokens,
        "supervised_tokens": 2 * rows.supervised,
    }
    assert read_record(made.folder) is not None


# --- interruptions --------------------------------------------------------------------------------------

BREAK_AT: list[int] = []


class Interrupted(Defence):
    """Ends the process's work at the steps of `BREAK_AT`, once each."""

    name: ClassVar[str] = "interrupted"

    def callback(self, tuning: Tuning) -> Any:
        from transformers import TrainerCallback

        class Break(TrainerCallback):  # type: ignore[misc]
            def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                if state.global_step in BREAK_AT:
                    BREAK_AT.remove(state.global_step)
                    raise KeyboardInterrupt

        return Break()


@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
def test_an_interrupted_run_with_defences_ends_like_an_undisturbed_one(
    full: bool, tiny_subject: TinySubject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aftertune.tuning._trainer.SAVE_EVERY_SECONDS", 0.0)
    chosen = [Interrupted(), Pull(strength=0.5), parse_defence("scale:share=0.5"), stop(loss_at_most=1e-6, held_out=2)]

    def run(name: str) -> Any:
        return tune(tiny_subject("llama"), ROWS, tmp_path / name, options(steps=6, full=full), defences=chosen)

    undisturbed = run("undisturbed")
    BREAK_AT[:] = [2, 5]
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run("interrupted")
    finished = run("interrupted")
    assert BREAK_AT == []
    file = "model.safetensors" if full else "adapter_model.safetensors"
    assert (finished.folder / file).read_bytes() == (undisturbed.folder / file).read_bytes()
    assert finished.record == undisturbed.record
    assert len(finished.record["defences"][3]["notes"]) == 6
