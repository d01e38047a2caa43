"""Progress of sampled answers: Inspect tells a hook, the hook tells whoever shows progress."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from inspect_ai.hooks import Hooks, SampleEnd, TaskEnd, TaskStart, hooks

from aftertune.runs import Progress, Step


class _Shown:
    """What is shown at the moment: one step function a task under way."""

    progress: Progress | None = None

    def __init__(self) -> None:
        self.steps: dict[str, Step] = {}
        self.open = contextlib.ExitStack()


_shown = _Shown()


@contextlib.contextmanager
def answers_shown(progress: Progress) -> Iterator[None]:
    """While inside, finished answers of every task are counted by ``progress``."""
    _shown.progress = progress
    try:
        with _shown.open:
            yield
    finally:
        _shown.progress = None
        _shown.steps.clear()
        _shown.open = contextlib.ExitStack()


@hooks(name="aftertune_progress", description="Counts finished answers for aftertune audit.")
class CountAnswers(Hooks):
    """Counts finished answers where `answers_shown` is in force."""

    def enabled(self) -> bool:
        """Only inside `answers_shown`."""
        return _shown.progress is not None

    async def on_task_start(self, data: TaskStart) -> None:
        """Begin to count a task's answers."""
        asked = len(data.spec.dataset.sample_ids or ()) or data.spec.dataset.samples or 0
        total = asked * (data.spec.config.epochs or 1)
        if _shown.progress is not None and total:
            name = data.spec.task.rpartition("/")[2]
            _shown.steps[data.eval_id] = _shown.open.enter_context(_shown.progress.task(name, total))

    async def on_sample_end(self, data: SampleEnd) -> None:
        """One more."""
        if data.eval_id in _shown.steps:
            _shown.steps[data.eval_id](1)

    async def on_task_end(self, data: TaskEnd) -> None:
        """Show that the task is done."""
        _shown.steps.pop(data.eval_id, None)
        if not _shown.steps:
            _shown.open.close()
