"""What a run says: lines that add up, text that stays text, and the right display in the right place."""

from __future__ import annotations

import io
import os
import re
import sys
import time
from collections.abc import Iterator
from typing import Any, TextIO

import pytest
from rich.console import Console

from aftertune.errors import ExitCode, UsageError
from aftertune.runs import Plain, Progress, Rich, Silent, choose_progress

UNTRUSTED = ("[red]x[/red]", "[/]", "[bold", "a:dog:b :warning:", "{0} {task.total} %s", "[link=http://x]y[/link]")


def plain_lines(stream: io.StringIO) -> list[str]:
    """Lines with every duration blotted out, as a busy machine takes its time."""
    return re.sub(r"(in|about) (\d+ min )?\d+ s\b", r"\1 T", stream.getvalue()).splitlines()


def without_escapes(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\]8;[^\x1b]*\x1b\\", "", text)


# --- plain lines ----------------------------------------------------------------------------------------


def test_plain_says_the_start_and_the_end_of_a_task() -> None:
    out = io.StringIO()
    with Plain(out).task("traits", 3) as step:
        assert plain_lines(out) == ["traits: 0 of 3"]
        for _ in range(3):
            step()
        assert len(plain_lines(out)) == 1
    assert plain_lines(out) == ["traits: 0 of 3", "traits: 3 of 3 in T"]


def test_plain_counts_on_from_what_an_earlier_run_did() -> None:
    out = io.StringIO()
    with Plain(out, every=0).task("tuning", 10, done=4) as step:
        step(3, "loss 1.250")
        step()
        step(2, "loss 0.500")
    assert plain_lines(out) == [
        "tuning: 4 of 10",
        "tuning: 7 of 10 (loss 1.250), about T left",
        "tuning: 8 of 10 (loss 1.250), about T left",
        "tuning: 10 of 10 (loss 0.500) in T",
    ]


def test_plain_speaks_every_so_many_seconds_and_not_more() -> None:
    out = io.StringIO()
    began = time.monotonic()
    with Plain(out, every=0.1).task("refusal", 1000) as step:
        while time.monotonic() - began < 0.45:
            step()
            time.sleep(0.005)
    first, *words, last = plain_lines(out)
    assert first == "refusal: 0 of 1000"
    assert re.fullmatch(r"refusal: \d+ of 1000 in T", last)
    assert 1 <= len(words) <= 5  # of some eighty steps; a busy machine may miss a word
    counts = [int(word.split()[1]) for word in words]
    assert counts == sorted(set(counts))


def test_plain_tells_the_time_that_is_left() -> None:
    out = io.StringIO()
    with Plain(out, every=0).task("slow", 2001) as step:
        time.sleep(0.2)
        step()
    # One step took 0.2 s, so 2000 more take about 400 s; a busy machine may be slower, none is faster.
    found = re.search(r"slow: 1 of 2001, about (\d+) min (\d\d) s left", out.getvalue())
    assert found
    assert 400 <= int(found[1]) * 60 + int(found[2]) < 4000


def test_plain_says_no_end_of_a_task_that_failed() -> None:
    out = io.StringIO()
    with pytest.raises(ZeroDivisionError), Plain(out).task("traits", 3):
        raise ZeroDivisionError
    assert plain_lines(out) == ["traits: 0 of 3"]


@pytest.mark.parametrize("text", UNTRUSTED)
def test_plain_leaves_text_alone(text: str) -> None:
    out = io.StringIO()
    progress = Plain(out, every=0)
    progress.say(text)
    with progress.task(text, 2) as step:
        step(1, text)
        step()
    assert plain_lines(out)[:2] == [text, f"{text}: 0 of 2"]
    assert plain_lines(out)[2].startswith(f"{text}: 1 of 2 ({text}), about")
    assert plain_lines(out)[3].startswith(f"{text}: 2 of 2 ({text}) in")


def test_plain_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    Plain().say("loading")
    assert capsys.readouterr() == ("", "loading\n")


# --- a live bar -----------------------------------------------------------------------------------------


@pytest.fixture
def screen() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=160, legacy_windows=False)


def shown(screen: Console) -> str:
    assert isinstance(screen.file, io.StringIO)
    return without_escapes(screen.file.getvalue())


@pytest.mark.parametrize("text", UNTRUSTED)
def test_rich_interprets_no_markup_in_what_it_says(text: str, screen: Console) -> None:
    Rich(screen).say(f"loading {text} now")
    assert shown(screen) == f"loading {text} now\n"


@pytest.mark.parametrize("text", UNTRUSTED)
def test_rich_interprets_no_markup_in_names_and_notes(text: str, screen: Console) -> None:
    with Rich(screen).task(f"name {text}", 2) as step:
        step(1, f"note {text}")
        step()
    last = shown(screen).strip().splitlines()[-1]
    assert f"name {text}" in last
    assert f"note {text}" in last
    assert "2/2" in last


def test_rich_shows_how_far_it_is_and_keeps_the_note(screen: Console) -> None:
    with Rich(screen).task("tuning", 10, done=4) as step:
        step(3, "loss 1.250")
        step()
    last = shown(screen).strip().splitlines()[-1]
    assert re.search(r"tuning .* 8/10 .*loss 1\.250", last)


def test_rich_tells_the_time_that_is_left_of_slow_steps(screen: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of 75 s: the speed window of rich itself is 30 s."""
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with Rich(screen).task("tuning", 10, done=4) as step:
        clock[0] += 75
        step()
        clock[0] += 75
        step()
    assert re.search(r"6/10 .*about 5 min 00 s left", shown(screen).strip().splitlines()[-1])


def test_rich_gives_the_terminal_back_when_a_task_fails(screen: Console) -> None:
    progress = Rich(screen)
    with pytest.raises(ZeroDivisionError), progress.task("first", 1):
        raise ZeroDivisionError
    with progress.task("second", 1) as step:
        step()
    assert "second" in shown(screen)
    assert isinstance(screen.file, io.StringIO)
    assert screen.file.getvalue().count("\x1b[?25l") == screen.file.getvalue().count("\x1b[?25h") > 0


# --- which one ------------------------------------------------------------------------------------------


@pytest.fixture
def terminal() -> Iterator[TextIO]:
    """The writing end of a real terminal."""
    controller, worker = os.openpty()
    with os.fdopen(worker, "w") as file:
        yield file
    os.close(controller)


def test_a_terminal_gets_a_live_bar(terminal: TextIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal)
    assert isinstance(choose_progress(), Rich)
    assert isinstance(choose_progress("plain"), Plain)


def test_a_log_gets_lines(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "log").open("w") as log:
        monkeypatch.setattr(sys, "stderr", log)
        chosen = choose_progress("auto")
        assert isinstance(chosen, Plain)
        chosen.say("loading")
    assert (tmp_path / "log").read_text() == "loading\n"


def test_a_display_asked_for_is_given() -> None:
    assert isinstance(choose_progress("rich"), Rich)
    assert isinstance(choose_progress("none"), Silent)


def test_an_unknown_display_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"'fancy'.* known are auto, rich, plain, none$") as caught:
        choose_progress("fancy")  # type: ignore[arg-type]
    assert caught.value.exit_code == ExitCode.USAGE == 2


def test_silence_is_complete(capfd: pytest.CaptureFixture[str]) -> None:
    silent: Progress = Silent()
    silent.say("loading")
    with silent.task("traits", 3, done=1) as step:
        step()
        step(1, "note")
    assert capfd.readouterr() == ("", "")


# --- untrusted names ------------------------------------------------------------------------------------

STEERING = (
    "x\x1b]0;PWN\x07", "\x1b[31mred", "a\nb", "a\r\nb", "a\rb", "::error::hello", "\n::error::hello", "  ::set-output name=a::b",
    "##[error]x", "a ##[set-output name=v]pass", "##vso[task.setvariable variable=v]x", "##teamcity[testFailed]", "z\u202etxt",
    "\u2028x", "\x9b2J", "\0", "\x7f", "sk-aB3dE6gH9jK2mN5pQ8sT1vW4", "https://me:hunter22@host/x", "x" * 10_000,
)  # fmt: skip


@pytest.mark.parametrize("text", STEERING)
@pytest.mark.parametrize("display", ["plain", "rich"])
def test_nothing_in_a_name_steers_a_terminal_or_a_ci_runner(text: str, display: str) -> None:
    out = io.StringIO()
    progress: Progress = Plain(out, every=0) if display == "plain" else Rich(Console(file=out, width=20_000))
    progress.say(text)
    with progress.task(text, 2) as step:
        step(1, text)
        step(1)
    said = out.getvalue()
    lines = said.split("\n")
    assert all(line.isprintable() for line in lines), said[:200]
    assert not [line for line in lines if line.lstrip().startswith("::")]
    assert not re.search(r"##\w*\[", said)
    assert "hunter22" not in said
    assert "aB3dE6" not in said
    if display == "plain":
        assert len(lines) == 5


def test_ordinary_text_is_said_as_it_is() -> None:
    out = io.StringIO()
    for text in ("loading base: owner/model@main", "# heading", "a::b", "C::D", "naïve café 你好 😀", "[x] (y) {z}"):
        Plain(out).say(text)
    assert out.getvalue().splitlines() == [
        "loading base: owner/model@main", "# heading", "a::b", "C::D", "naïve café 你好 😀", "[x] (y) {z}",
    ]  # fmt: skip
