"""What `ctxembed compare` is worth, measured on the sets that ship: its probabilities, and what --why finds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from .output import emit

if TYPE_CHECKING:
    from ctxembed.types import UsageEncoder


def print_reliability(encoders: Sequence[UsageEncoder], *, layer: int | None, output_format: str) -> None:
    """Measure the probabilities of each encoder on the test half, and print the curve; static vectors have no layer."""
    from ctxembed.evaluation.calibrating import measure_reliability

    has_layers = [layer if hasattr(encoder, "num_layers") else None for encoder in encoders]
    measured = [measure_reliability(each, layer=number) for each, number in zip(encoders, has_layers, strict=True)]
    if output_format == "json":
        _print_json([asdict(each) for each in measured])
        return
    if output_format == "table":
        names = ("system", "pairs", "accuracy", "brier", "expected_calibration_error", "threshold")
        rows = [{name.replace("_", " "): getattr(each, name) for name in names} for each in measured]
        emit(rows, output_format, title=f"fitted on {measured[0].fitted_on}, measured on {measured[0].measured_on}")
        click.echo()
    emit([{"system": each.system} | asdict(part) for each in measured for part in each.bins], output_format)


def print_cues(encoder: UsageEncoder, *, model: str | None, layer: int | None, output_format: str) -> None:
    """Measure how often --why puts the word that decides the sense first, beside attention, nearness and chance."""
    from ctxembed.embedder import Embedder
    from ctxembed.evaluation.cues import load_cues, measure_cues
    from ctxembed.model.checkpoint import load_checkpoint
    from ctxembed.runtime import model_folder

    checkpoint = load_checkpoint(model_folder(model)) if isinstance(encoder, Embedder) else None
    rates = measure_cues(load_cues(), encoder, layer=layer, checkpoint=checkpoint)
    rows: list[dict[str, Any]] = [{"system": encoder.name} | asdict(rate) for rate in rates]
    if output_format == "json":
        _print_json([row | {"fingerprint": encoder.fingerprint, "layer": layer} for row in rows])
    else:
        emit(rows, output_format)


def _print_json(results: list[dict[str, Any]]) -> None:
    from ctxembed.runtime import environment

    click.echo(json.dumps({"results": results, "environment": environment()}, ensure_ascii=False, indent=2))
