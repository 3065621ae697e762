"""What a run leaves in its folder: the state it goes on from, and a line of metrics for every step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ctxembed.errors import ArtifactError, InvalidInputError
from ctxembed.runtime import atomic_path
from ctxembed.training.progress import Progress

STATE_FILE, METRICS_FILE = "state.safetensors", "metrics.jsonl"
FREE_SETTINGS = ("eval_every", "save_every")
"""What a resumed run may have otherwise: it changes nothing that is learned."""


def write_state(folder: Path, tensors: Mapping[str, Tensor], progress: Progress, settings: Mapping[str, Any]) -> None:
    """Write all that is needed to go on, in one file that appears whole or not at all."""
    from safetensors.torch import save_file

    metadata = {"progress": json.dumps(vars(progress)), "settings": json.dumps(settings)}
    with atomic_path(folder / STATE_FILE) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, str(temporary), metadata)


def read_state(folder: Path, settings: Mapping[str, Any]) -> tuple[dict[str, Tensor], Progress] | None:
    """Read what ``write_state`` wrote; None if nothing was saved yet.

    Raises:
        InvalidInputError: If the run was started with other settings.
        ArtifactError: If its state cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    file = folder / STATE_FILE
    if not file.exists():
        return None
    try:
        with safe_open(str(file), framework="pt") as state:
            metadata = state.metadata()
            tensors = {name: state.get_tensor(name) for name in state.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{file} cannot be read ({error}): delete {folder} and start anew") from error
    _refuse_other_settings(json.loads(metadata["settings"]), settings)
    return tensors, Progress(**json.loads(metadata["progress"]))


def append_metrics(file: Path, metrics: Mapping[str, float], progress: Progress) -> None:
    """Add a line to the loss curve."""
    line: dict[str, float] = {"step": progress.step}
    line |= {name: float(f"{value:.6g}") for name, value in metrics.items()}
    line |= {"tokens": progress.tokens, "seconds": round(progress.seconds, 3)}
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


def forget_later_metrics(file: Path, step: int) -> None:
    """Drop the lines that a killed run wrote after its last checkpoint, at ``step``: those steps are done again."""
    if not file.exists():
        return
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    with atomic_path(file) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")


def _refuse_other_settings(before: Mapping[str, Any], now: Mapping[str, Any], *, where: str = "") -> None:
    """Name the first setting that differs, alone however deep it lies."""
    for name in sorted((before.keys() | now.keys()) - set(FREE_SETTINGS)):
        old, new = (
            {str(number): part for number, part in enumerate(value, start=1)} if isinstance(value, list) else value
            for value in (before.get(name), now.get(name))
        )
        if isinstance(old, dict) and isinstance(new, dict):
            _refuse_other_settings(old, new, where=f"{where}{name}.")
        elif old != new:
            raise InvalidInputError(
                f"the run was started with {where}{name} = {old!r}, now it is {new!r}: "
                "resume with the same settings, or start another run elsewhere"
            )
