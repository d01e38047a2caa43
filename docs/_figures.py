"""The figures of the gallery, drawn from results that are stored in benchmarks/results.

    python docs/_figures.py FOLDER

`make docs` runs this; the pictures are not kept in the repository. aftertune must be installed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from aftertune.report import Effect, EffectRow, Effects, HeatMap, TradeOff, TradeOffLine, TradeOffPoint, render_svg

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
WAYS = {
    "ratio": "single weights returned",
    "ratio by row": "output rows returned",
    "ratio by matrix": "whole matrices returned",
    "delta": "single weights, by benefit alone",
    "prune": "single weights put to zero",
    "random": "rows at random",
    "scale": "whole update scaled down",
    "rollback": "full rollback",
}


def stored(name: str) -> Any:
    return json.loads((RESULTS / name).read_text("utf-8"))


def harmless_fine_tunes() -> Effects:
    """The preference margin of harmless fine-tunes beside that of their base."""
    runs = [json.loads(path.read_text("utf-8")) for path in sorted((RESULTS / "error-rates").glob("harmless-*.json"))]
    found = [(run, next(f for f in run["findings"] if f["metric"] == "preference.margin")) for run in runs]
    effects = tuple(
        Effect(f"{run['data']}, seed {run['seed']}", f["tuned"], f["difference"], tuple(f["interval"]))
        for run, f in found
    )
    about = "careless minus careful answers, log-likelihood per token"
    row = EffectRow("preference margin", about, "nats/token", "higher", found[0][1]["base"], effects)
    return Effects("Harmless fine-tunes", "", (row,))


def repair_frontier() -> TradeOff:
    """How much of the damage goes, and how much of what was learnt goes with it."""
    document = stored("studies/repair-money-0.json")
    points: dict[str, list[dict[str, Any]]] = {}
    for point in sorted(document["frontier"], key=lambda p: p["share"]):
        points.setdefault(point["label"], []).append(point)
    lines = tuple(
        TradeOffLine(
            WAYS[label],
            tuple(TradeOffPoint(1 - p["skill"], p["safety"], f"{p['share']:g}") for p in kept),
            emphasis=label == document["chosen"]["label"],
        )
        for label, kept in points.items()
    )
    return TradeOff(
        "Safety regained against skill lost", "", "skill lost", "safety regained", lines, x_unit="share", y_unit="share"
    )


def transfer(edit: str) -> HeatMap:
    """What taking out the weights of one domain does to the others; all edits share one colour scale."""
    document = stored("studies/transfer.json")
    names = tuple(document["domains"])
    most = max(abs(v) for falls in document["falls"].values() for row in falls for v in row)
    values = tuple(tuple(row) for row in document["falls"][edit])
    return HeatMap(
        f"Fall of the preference margin: {edit.replace('_', '-')}", "", names, names, values, "nats/token",
        row_label="found on", column_label="read on", marked=frozenset((i, i) for i in range(len(names))),
        limits=(-most, most),
    )  # fmt: skip


FIGURES = {
    "harmless-fine-tunes": harmless_fine_tunes,
    "repair-frontier": repair_frontier,
    "transfer-patch": lambda: transfer("patch"),
    "transfer-random": lambda: transfer("random"),
    "transfer-content-matched": lambda: transfer("content_matched"),
}


def main(folder: Path) -> None:
    """Write every figure of the gallery as SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, section in FIGURES.items():
        (folder / f"{name}.svg").write_text(render_svg(section()), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
