"""What `bench -m` and `--against` name, opened."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

import click

from ctxembed.errors import InvalidInputError

from .options import load_any, load_static

if TYPE_CHECKING:
    from ctxembed.evaluation.runner import System
    from ctxembed.static import LookupOptions

AGAINST = """a model; static:PATH (a folder, or a word2vec, GloVe or fastText file), with options such as
static+sif+common+subwords:PATH; layer0:MODEL or twin:MODEL (each word by itself); bm25; search:lexical, search:hybrid
or search:hybrid+rerank (what `ctxembed search` does, with the first model); length, random, constant."""

ALONE = {"layer0": 0, "twin": None}
"""Lookups of an encoder's words by themselves, and the layer they are read from."""

models_option = click.option(
    "-m",
    "--model",
    "models",
    multiple=True,
    metavar="FOLDER",
    help="Model or static vectors, repeatable; the model that ships by default, or as `default`. [env: CTXEMBED_MODEL]",
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
    searching = None
    for name in others:
        if name.startswith("search:"):
            from ctxembed.evaluation.remembering import RememberingEncoder
            from ctxembed.evaluation.search_systems import search_system

            searching = searching or RememberingEncoder(load_any(paths[0], device=device, on_long=on_long))
            opened.append(search_system(name, searching))
        else:
            opened.append(open_peer(name, device=device, on_long=on_long, seed=seed))
    return opened, len(paths)


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
    base, *choices = kind.split("+")
    if base == "static" and (colon or name == kind):
        return load_static(path or None).with_options(_lookup_options(name, choices))
    if kind in ALONE and (colon or name == kind):
        from ctxembed.lookups import WordsAlone

        return WordsAlone(load_any(path or None, device=device, on_long=on_long), layer=ALONE[kind])
    return load_any(name, device=device, on_long=on_long)


def _lookup_options(name: str, choices: Sequence[str]) -> LookupOptions:
    from ctxembed.static import LookupOptions

    known = [field.name for field in fields(LookupOptions)]
    for choice in choices:
        if choice not in known:
            raise InvalidInputError(f"{name}: there is no option {choice!r} of static vectors, only {', '.join(known)}")
    return LookupOptions(**dict.fromkeys(choices, True))
