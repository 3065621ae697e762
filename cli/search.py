"""`ctxembed search`: the rows of an index that are nearest in meaning to a query."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import load_any, model_option, report_encoder, runtime_options
from .output import emit, format_option

if TYPE_CHECKING:
    from ctxembed.types import Hit


@click.command()
@click.argument("index", type=click.Path(path_type=Path))
@click.argument("query")
@click.option("-k", type=click.IntRange(min=1), default=10, show_default=True, help="Hits wanted.")
@model_option
@format_option
@runtime_options
def search(index: Path, query: str, k: int, model: str | None, output_format: str, device: str) -> None:
    """Find the rows of INDEX nearest in meaning to QUERY.

    The model must be the one that made the index; another is refused.

    \b
    Example:
      ctxembed search idx/ "my card got lost" -k 5
      ctxembed search idx/ "my card got lost" -k 5 --format json
    """
    from ctxembed.search import SemanticSearch

    encoder = load_any(model, device=device)
    with SemanticSearch.open(index, encoder=encoder) as opened:
        hits = opened.search(query, k=k)
    emit([hit_row(hit) for hit in hits], output_format)
    report_encoder(encoder)


def hit_row(hit: Hit) -> dict[str, Any]:
    """Return a hit as it is printed; words and tokens have their place in the text too."""
    row: dict[str, Any] = {"id": hit.id, "score": round(hit.score, 6), "text": hit.text}
    if hit.start is not None:
        row |= {"start": hit.start, "end": hit.end}
    return row | {"metadata": dict(hit.metadata)}
