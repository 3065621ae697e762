"""What `bench scaling` measured, as one picture."""

from __future__ import annotations

from pathlib import Path

from ctxembed.evaluation.scaling import ScalingResult
from ctxembed.runtime import atomic_path

PANELS = (
    ("length", "training tokens a second", "tokens of a row"),
    ("length", "sequential steps", "tokens of a row"),
    ("batch", "training tokens a second", "rows of a batch"),
    ("learning", "held-out loss by time", "seconds"),
    ("learning", "held-out loss by tokens", "tokens"),
    ("growth", "lowest held-out loss", "times the data"),
    ("inference", "reading, ms a sentence", "tokens of a row"),
    ("inference", "writing, ms a sentence", "tokens of a row"),
    ("memory", "reading one row, MiB", "tokens of a row"),
)
"""Part, figure and what it is drawn against."""


def draw_scaling(path: Path, result: ScalingResult) -> None:
    """Draw every part, both systems in each, as PNG."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 9), layout="constrained")
    for axis, (part, name, label) in zip(figure.subplots(3, 3).flat, PANELS, strict=True):
        for number, (system, pairs) in enumerate(result.values(part, name).items()):
            axis.plot([x for x, _ in pairs], [y for _, y in pairs], "os"[number] + "-", markersize=4, label=system)
        if part != "learning":
            axis.set_xscale("log", base=2)
        if part in ("inference", "memory") or "steps" in name:
            axis.set_yscale("log")
        axis.set(title=f"{part}: {name}", xlabel=label)
        axis.legend(frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})
