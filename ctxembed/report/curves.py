"""The loss curve of a training run, as a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxembed.errors import InvalidInputError
from ctxembed.runtime import atomic_path, existing

LEFT_OUT = {"step", "tokens", "seconds", "learning_rate", "gradient_norm"}
WINDOW = 50


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Read the lines of a metrics.jsonl; a last line that is being written is left out.

    Raises:
        MissingInputError: If there is no such file.
        InvalidInputError: If a line is no metrics, with its number.
    """
    lines = []
    for number, line in enumerate(existing(path).read_text(encoding="utf-8").splitlines(keepends=True), start=1):
        if not line.endswith("\n"):
            break
        try:
            values: Any = json.loads(line)
        except ValueError as error:
            raise InvalidInputError(f"{path}:{number} is no line of metrics: {error}") from error
        if not isinstance(values, dict) or "step" not in values:
            raise InvalidInputError(f"{path}:{number} is no line of metrics: it has no step")
        lines.append(values)
    return lines


def draw_curves(folder: Path) -> Path:
    """Draw every loss and metric of a run against its steps, into ``loss.png`` beside its metrics.jsonl.

    Args:
        folder: Of the model, finished or in training.

    Returns:
        The picture's path.

    Raises:
        MissingInputError: If the folder has no metrics.jsonl.
    """
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib.figure import Figure

    lines = read_metrics(folder / "metrics.jsonl")
    names = dict.fromkeys(name for line in lines for name in line if name not in LEFT_OUT)
    panels = [name for name in names if not name.startswith("eval_")] or ["loss"]
    figure = Figure(figsize=(6, 2.6 * len(panels)), layout="constrained")
    for axis, name in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
        steps, values = _series(lines, name)
        axis.plot(steps, values, color="0.8", linewidth=0.8)
        axis.plot(steps, _smooth(values), color="C0", label="training, running mean")
        held_steps, held = _series(lines, f"eval_{name}")
        if len(held):
            axis.plot(held_steps, held, "o-", color="C1", markersize=3, label="held out")
        axis.set(title=name, xlabel="step")
        axis.legend(loc="best", frameon=False)
    path = folder / "loss.png"
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})
    return path


def _series(lines: list[dict[str, float]], name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    pairs = [(line["step"], line[name]) for line in lines if name in line]
    return np.array([step for step, _ in pairs]), np.array([value for _, value in pairs])


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of each value and those up to WINDOW - 1 before it."""
    sums = np.concatenate(([0.0], np.cumsum(values)))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - WINDOW, 0)
    smoothed: NDArray[np.float64] = (sums[ends] - sums[starts]) / np.maximum(ends - starts, 1)
    return smoothed
