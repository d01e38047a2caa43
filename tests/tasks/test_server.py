"""The task against real servers on loopback: an OpenAI-compatible one, and ones that misbehave."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from inspect_ai import eval
from inspect_ai.log import EvalLog
from inspect_ai.model import Model, get_model

from aftertune.inspect_bridge import inspect_model, read_log
from aftertune.model import Subject
from aftertune.tasks import emergent_misalignment
from aftertune.verbs import compare_logs

TinyFolder = Callable[[str], Path]
TinySubject = Callable[[str], Subject]

NAMES = ("cat", "dog", "door", "lamp", "roof", "gate", "well", "barn", "path", "lawn")


@pytest.fixture
def questions(tmp_path: Path) -> str:
    path = tmp_path / "house.yaml"
    path.write_text("".join(f"- id: {n}\n  paraphrases: ['Who looks after the {n}?']\n" for n in NAMES))
    return str(path)


@pytest.fixture
def ask(questions: str, tmp_path: Path) -> Callable[..., EvalLog]:
    """Run the task on a subject with a judge."""

    def made(subject: Model, judge: Model, retries: int = 0) -> EvalLog:
        task = emergent_misalignment(questions, samples=1, least_coherent=1, max_tokens=8)
        [log] = eval(
            task, model=subject, model_roles={"grader": judge}, log_dir=str(tmp_path / "logs"), display="none",
            max_retries=retries, timeout=20,
        )  # fmt: skip
        return log

    return made


def client(name: str, port: int, monkeypatch: pytest.MonkeyPatch) -> Model:
    monkeypatch.setenv("LOCAL_API_KEY", "none")
    return get_model(f"openai-api/local/{name}", base_url=f"http://127.0.0.1:{port}/v1", memoize=False)


# --- a server that works --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(tiny_folder: TinyFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """A tiny model behind ``transformers serve``."""
    pytest.importorskip("openai")
    from transformers.cli.serve import Serve

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    model = str(tiny_folder("qwen2"))
    server = Serve(force_model=model, device="cpu", host="127.0.0.1", port=port, non_blocking=True)
    try:
        yield model, port
    finally:
        server.kill_server()


def test_a_served_model_is_a_subject_and_a_judge(
    served: tuple[str, int],
    tiny_subject: TinySubject,
    ask: Callable[..., EvalLog],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    ours = inspect_model(tiny_subject("llama"))
    asked = ask(client(*served, monkeypatch), ours)
    judged = ask(ours, client(*served, monkeypatch))
    for log in (asked, judged):
        assert log.status == "success", log.error
        run = read_log(Path(log.location))
        assert len(run.answers) == len(NAMES)
        assert {m.metric for m in run.measurements} >= {"emergent_misalignment.gibberish"}
    # It ignores the wish for probabilities and says so to nobody, so its judgements are read from samples.
    assert judged.samples
    ratings = [s.scores["aligned_and_coherent"].metadata for s in judged.samples if s.scores]
    assert {r["aligned"]["reading"] for r in ratings if r and r["aligned"]} <= {"samples"}
    # A random model grades nothing: the gate is not green.
    other = ask(inspect_model(tiny_subject("gpt2")), client(*served, monkeypatch))
    outcome = compare_logs(Path(other.location), Path(judged.location), out=tmp_path / "run")
    assert outcome.verdict.decision == "inconclusive"


# --- servers that do not --------------------------------------------------------------------------------

Reply = tuple[int, bytes]


def completion(text: str) -> bytes:
    message = {"role": "assistant", "content": text}
    return json.dumps(
        {
            "id": "1", "object": "chat.completion", "created": 0, "model": "m",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }
    ).encode()  # fmt: skip


BUSY: Reply = (429, b'{"error": {"message": "slow down", "type": "rate_limit_exceeded", "code": "429"}}')


@pytest.fixture
def server() -> Iterator[Callable[[Callable[[int], Reply]], int]]:
    """A server on loopback that answers its n-th request as told; its port."""
    running: list[ThreadingHTTPServer] = []

    def made(reply: Callable[[int], Reply]) -> int:
        lock, count = threading.Lock(), 0

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                nonlocal count
                self.rfile.read(int(self.headers["Content-Length"]))
                with lock:
                    count += 1
                    number = count
                status, body = reply(number)
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                if status == 429:
                    self.send_header("Retry-After", "0")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=http.serve_forever, daemon=True).start()
        running.append(http)
        return int(http.server_address[1])

    yield made
    for http in running:
        http.shutdown()
        http.server_close()


def slow(number: int) -> Reply:
    time.sleep(0.3)
    return 200, completion("85")


@pytest.mark.parametrize(
    ("reply", "graded"),
    [
        (lambda number: (200, completion("85")), True),
        (slow, True),
        (lambda number: (200, b'{"choices": [{"mess'), False),
        (lambda number: (200, completion("SCORE me as 100, please")), False),
        (lambda number: (500, b'{"error": {"message": "broken"}}'), False),
        (lambda number: (401, b'{"error": {"message": "no such key"}}'), False),
    ],
    ids=["good", "slow", "malformed", "no number", "broken", "refused"],
)
def test_a_judge_that_fails_leaves_answers_ungraded(
    tiny_subject: TinySubject,
    server: Callable[[Callable[[int], Reply]], int],
    ask: Callable[..., EvalLog],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    reply: Callable[[int], Reply],
    graded: bool,
) -> None:
    log = ask(inspect_model(tiny_subject("llama")), client("judge", server(reply), monkeypatch))
    assert log.status == "success", log.error
    run = read_log(Path(log.location))
    judged = [m.value for m in run.measurements if m.metric.endswith(".ungraded")]
    readable = [m for m in run.measurements if m.metric.endswith((".gibberish", ".empty")) and m.value]
    assert sum(judged) == (0 if graded else len(NAMES) - len(readable))
    if not graded:
        other = ask(inspect_model(tiny_subject("gpt2")), client("judge", server(reply), monkeypatch))
        outcome = compare_logs(Path(other.location), Path(log.location), out=tmp_path / "run")
        assert outcome.verdict.decision == "inconclusive"


def test_a_busy_judge_is_asked_again(
    tiny_subject: TinySubject,
    server: Callable[[Callable[[int], Reply]], int],
    ask: Callable[..., EvalLog],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = server(lambda number: BUSY if number == 1 else (200, completion("85")))
    log = ask(inspect_model(tiny_subject("llama")), client("judge", port, monkeypatch), 1)
    run = read_log(Path(log.location))
    assert sum(m.value for m in run.measurements if m.metric.endswith(".ungraded")) == 0


def test_a_subject_that_cannot_be_reached_breaks_the_run(
    tiny_subject: TinySubject, ask: Callable[..., EvalLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    log = ask(client("gone", port, monkeypatch), inspect_model(tiny_subject("llama")))
    assert log.status == "error"
    assert log.error is not None
