"""What `bench -m` and `--against` name, opened."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from .options import load_any, load_static

if TYPE_CHECKING:
    from ctxembed.evaluation.runner import System

AGAINST = """FOLDER (a model, or static vectors), hf:FOLDER, static:PATH (a folder, or word2vec, GloVe and fastText
files), bm25 (retrieval), length, random, constant."""

models_option = click.option(
    "-m",
    "--model",
    "models",
    multiple=True,
    metavar="FOLDER",
    help="Model or static vectors, repeatable; the model that ships by default. [env: CTXEMBED_MODEL]",
)
against_option = click.option(
    "--against",
    "peers",
    multiple=True,
    metavar="SYSTEM",
    help="What to set beside, repeatable; without -m the static vectors that ship: " + " ".join(AGAINST.split()),
)


def open_systems(
    models: Sequence[str], against: Sequence[str], *, device: str, on_long: str, seed: int
) -> tuple[list[System], int]:
    """Open the systems of a benchmark.

    Args:
        models: What -m names; none is the model that ships, or that of the environment.
        against: What --against names; with neither, the static vectors that ship stand beside.
        device: For the encoders.
        on_long: For the encoders.
        seed: For the random baseline.

    Returns:
        The systems, models first, and how many of them are models.
    """
    preset = os.environ.get("CTXEMBED_MODEL") or None
    paths: Sequence[str | None] = models or (preset,)
    others = against or (() if models or preset else ("static",))
    opened: list[System] = [load_any(path, device=device, on_long=on_long) for path in paths]
    return opened + [open_peer(name, device=device, on_long=on_long, seed=seed) for name in others], len(opened)


def open_peer(name: str, *, device: str, on_long: str, seed: int) -> System:
    """Open what one --against names.

    Raises:
        InvalidInputError: If it names nothing.
    """
    from ctxembed.evaluation.baselines import BASELINES, BaselineEncoder, BM25Baseline

    if name == "bm25":
        return BM25Baseline()
    if name in BASELINES:
        return BaselineEncoder(name, seed=seed)
    kind, colon, path = name.partition(":")
    if kind == "static" and (colon or name == "static"):
        return load_static(path or None)
    return load_any(name, device=device, on_long=on_long)
