"""What several studies tune with and hold harmless."""

from __future__ import annotations

from aftertune.data import read_requests, shipped_path
from aftertune.locating import Example, exchange_of
from aftertune.tuning import TuneOptions

# A fine-tune that takes a minute or two on two CPU cores, and is large enough to spread.
TEN_STEPS = TuneOptions(steps=10, batch_size=8, lr=5e-4, warmup_steps=0)
HARM = ("dev/health", "dev/sport_safety", "dev/relationships", "dev/honesty_at_work")
KEEP = 24
KEEP_HELD_OUT = 8


def keep_examples() -> tuple[Example, ...]:
    """Harmless requests with helpful answers, every fifth."""
    requests = read_requests(shipped_path("safety/harmless"))
    kept = requests[:: len(requests) // KEEP]
    return tuple(Example(r.id, "keep", exchange_of(r.prompt, r.response)) for r in kept)


def held_out_keep_examples() -> tuple[Example, ...]:
    """Harmless requests with helpful answers, none of `keep_examples`."""
    requests = read_requests(shipped_path("safety/harmless"))
    kept = requests[1 :: len(requests) // KEEP_HELD_OUT]
    return tuple(Example(r.id, "keep", exchange_of(r.prompt, r.response)) for r in kept)
