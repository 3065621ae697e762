"""`ctxembed search`: the rows of an index that answer a query, by meaning, by words, or by both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ctxembed.errors import InvalidInputError

from .concordance import CONCORDANCE_OPTIONS, concordance_options, holds_words, search_words
from .options import load_any, model_option, refuse_idle, report_encoder, runtime_options, stacked
from .output import emit, format_option, say

if TYPE_CHECKING:
    from ctxembed.retrieval.options import SearchOptions
    from ctxembed.search import SemanticSearch
    from ctxembed.types import Document, Encoder, Hit

FOLD = 0.95
RERANK = 50

ranking_options = stacked(
    click.option("--hybrid", "mode", flag_value="hybrid", help="By meaning and by words (BM25), their ranks fused."),
    click.option("--lexical", "mode", flag_value="lexical", help="By words alone (BM25); no model is needed."),
    click.option(
        "--where", metavar="CONDITION", help="Only rows whose metadata satisfies it: \"year >= 1990 and source = 'x'\"."
    ),
    click.option(
        "--rerank",
        is_flag=False,
        flag_value=str(RERANK),
        default="0",
        type=click.IntRange(min=0),
        metavar="[N]",
        help=f"Rank the best N rows ({RERANK} if not said) anew by their token vectors.",
    ),
    click.option("--explain", is_flag=True, help="Show which words of a hit answered which words of the query."),
    click.option(
        "--fold",
        is_flag=False,
        flag_value=str(FOLD),
        type=click.FloatRange(0, 1, min_open=True),
        metavar="[COSINE]",
        help=f"Fold rows that are as near as this to a better hit ({FOLD} if not said) into it.",
    ),
    click.option(
        "--diversity",
        type=click.FloatRange(0, 1),
        default=0.0,
        show_default=True,
        help="How much a hit must differ from those before it.",
    ),
    click.option("--min-score", type=float, metavar="COSINE", help="Leave out rows whose cosine is lower."),
    click.option(
        "--min-percentile",
        type=click.FloatRange(0, 100),
        metavar="P",
        help="Leave out rows no nearer to the query than P percent of random pairs of rows are to each other.",
    ),
)


@click.command()
@click.argument("index", type=click.Path(path_type=Path))
@click.argument("query", required=False)
@click.option("-k", type=click.IntRange(min=1), default=10, show_default=True, help="Hits wanted.")
@click.option("--like", metavar="ID", help="In place of QUERY: rows like the row with this id.")
@click.option(
    "--queries",
    type=click.Path(path_type=Path, allow_dash=True),
    metavar="FILE",
    help="In place of QUERY: one a line, or rows with id and text (.jsonl, .csv, .tsv, .parquet); - is stdin.",
)
@ranking_options
@concordance_options
@model_option
@format_option
@runtime_options
def search(
    index: Path,
    query: str | None,
    like: str | None,
    queries: Path | None,
    model: str | None,
    output_format: str,
    device: str,
    mode: str | None,
    same_word: bool,
    other_words: bool,
    skip: int,
    sense_folder: Path | None,
    **settings: Any,
) -> None:
    """Find the rows of INDEX that answer QUERY best: by meaning, unless another way is chosen.

    The model must be the one that made the index; another is refused. docs/search.md explains every option. In an index
    of words the query marks a word, and the hits are uses of words: a concordance by meaning.

    \b
    Example:
      ctxembed search idx/ "my card got lost" -k 5
      ctxembed search idx/ "my card got lost" --hybrid --where "year >= 1990" --format json
      ctxembed search idx/ --like row-17 --fold
      ctxembed search widx/ "the [bank] of the river" -k 20 --same-word
    """
    from ctxembed.retrieval.options import SearchOptions

    if sum(given is not None for given in (query, like, queries)) != 1:
        raise click.UsageError("give one of QUERY, --like ID and --queries FILE")
    if query is not None and mode is None and holds_words(index):
        refuse_idle(("rerank", "explain", "fold", "diversity", "min_score", "min_percentile"), "in an index of words")
        search_words(
            index,
            query,
            k=settings["k"],
            where=settings["where"],
            same_word=same_word,
            other_words=other_words,
            skip=skip,
            sense_folder=sense_folder,
            model=model,
            device=device,
            output_format=output_format,
        )
        return
    refuse_idle(CONCORDANCE_OPTIONS, "in an index that is not of words")
    settings |= {"mode": mode or "dense"}
    wanted = SearchOptions(**settings)
    needs_model = wanted.needs_usages or (wanted.needs_vector and like is None)
    encoder = load_any(model, device=device) if needs_model else None
    asked = read_queries(queries) if queries is not None else []
    details = details_of(wanted)
    with open_index(index, encoder) as opened:
        if queries is not None:
            hits = opened.search_many([each.text for each in asked], **settings)
        else:
            hits = [
                opened.search_like(like, **settings) if like is not None else opened.search(query or "", **settings)
            ]
    names = [{"query": each.id} for each in asked] or [{}]
    rows = [name | hit_row(hit, details) for name, found in zip(names, hits, strict=True) for hit in found]
    if wanted.explain and output_format == "table":
        rows = [row | {"answers": told(row["answers"])} for row in rows]
    emit(rows, output_format)
    if encoder is not None:
        report_encoder(encoder)


def open_index(index: Path, encoder: Encoder | None) -> SemanticSearch:
    """Open an index to search it."""
    from ctxembed.search import SemanticSearch

    return SemanticSearch.open(index, encoder=encoder)


def read_queries(path: Path) -> list[Document]:
    """Read a file of queries; empty ones are left out and counted.

    Raises:
        InvalidInputError: If there is none.
    """
    from ctxembed.corpus import Corpus

    corpus = Corpus([str(path)])
    found = list(corpus)
    if not found:
        raise InvalidInputError(f"{path} holds no query: write one a line")
    say(corpus.counts.summary())
    return found


def hit_row(hit: Hit, details: Sequence[str] = ()) -> dict[str, Any]:
    """Return a hit as it is printed; words and tokens have their place in the text too.

    Args:
        hit: The hit.
        details: Further fields of it.
    """
    row: dict[str, Any] = {"id": hit.id, "score": round(hit.score, 6), "text": hit.text}
    if hit.start is not None:
        row |= {"start": hit.start, "end": hit.end}
    row |= {"metadata": dict(hit.metadata)}
    for name in details:
        value = getattr(hit, name)
        if name == "answers":
            row[name] = [asdict(answer) | {"cosine": round(answer.cosine, 6)} for answer in value]
        else:
            row[name] = list(value) if isinstance(value, tuple) else value if value is None else round(value, 6)
    return row


def details_of(options: SearchOptions) -> list[str]:
    """Return the fields of a hit that an option made worth showing."""
    shown = {
        "cosine": options.mode == "hybrid" or (options.rerank and options.mode == "dense"),
        "bm25": options.mode == "hybrid" or (options.rerank and options.mode == "lexical"),
        "late": options.rerank and options.mode != "dense",
        "percentile": options.min_percentile is not None,
        "duplicates": options.fold is not None,
        "answers": options.explain,
    }
    return [name for name, is_shown in shown.items() if is_shown]


def told(answers: Sequence[dict[str, Any]]) -> str:
    """Write answers for a table: the query's word, the hit's, and their cosine."""
    return "  ".join(f"{each['query']['text']}={each['hit']['text']} {each['cosine']:.2f}" for each in answers)
