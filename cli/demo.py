"""`ctxembed demo`: the whole job on the corpus and the models that ship."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import click

from ctxembed.runtime import data_directory
from ctxembed.text import parse_usage

from .compare import SAMPLE_CORPUS, load_background
from .compare_output import print_findings
from .options import load_embedder, load_static, report_encoder, runtime_options
from .output import print_table, say
from .progress import document_bar
from .search import hit_row

QUESTIONS = ("how do plants make food", "a crowd wants its savings back", "he was sent to prison for theft")
USES = (
    "We spread a blanket on the grassy [bank] and watched the swans go by.",
    "Willows leaned over the muddy [bank] where the boys were fishing.",
    "The [bank] raised its interest rates for new savers.",
    "She asked the [bank] for a loan to buy the shop.",
)


@click.command()
@runtime_options
def demo(device: str) -> None:
    """Embed, index, search and compare, on the corpus and models that ship; takes a few seconds.

    \b
    Example:
      ctxembed demo
    """
    from ctxembed.corpus import Corpus
    from ctxembed.meaning.compare import Findings, compare_usages
    from ctxembed.search import SemanticSearch

    started = time.perf_counter()
    encoder, static = load_embedder(None, device=device), load_static(None)
    corpus = Corpus(data_directory() / "corpora/sample.jsonl")
    with tempfile.TemporaryDirectory(prefix="ctxembed-demo-") as folder:
        heading("1. Embed and index the sample corpus", "ctxembed index build YOUR.txt -o idx/")
        begun = time.perf_counter()
        with document_bar("indexing") as advance:
            search = SemanticSearch.build(corpus, encoder=encoder, path=Path(folder) / "idx", on_progress=advance)
        say(f"{len(search):,} sentences, {encoder.dimension} wide, in {time.perf_counter() - begun:.1f} s")
        heading("2. Search it by meaning", 'ctxembed search idx/ "your question"')
        with search:
            for question in QUESTIONS:
                click.echo(f"\n? {question}")
                rows = [hit_row(hit) for hit in search.search(question, k=3)]
                print_table(
                    [{"score": row["score"], "text": row["text"], "field": row["metadata"]["field"]} for row in rows]
                )
    heading(
        "3. One word in four contexts, beside its static lookup",
        'ctxembed compare "the [bank] of the river" "the [bank] lent money"',
    )
    background = load_background(encoder)
    usages = [parse_usage(use) for use in USES]
    result = compare_usages(usages, encoder=encoder, static=static, background=background)
    print_findings(Findings(comparison=result, model=encoder.name, static_model=static.name, background=SAMPLE_CORPUS))
    click.echo(
        "\nThe static lookup gives every use of a word the same vector; in context, riverside and money uses part."
        "\n\nNow with your own files:"
        "\n  ctxembed embed YOUR.txt -o vecs/                 vectors as .npy files (add --unit word for every word)"
        '\n  ctxembed index build YOUR.txt -o idx/            then  ctxembed search idx/ "your question"'
        "\n  ctxembed train mlm YOUR.txt -o model/            a model of your own; use it with -m model/"
        "\n  ctxembed --help                                  everything else"
    )
    report_encoder(encoder)
    say(f"\ndone in {time.perf_counter() - started:.1f} s")


def heading(title: str, command: str) -> None:
    """Print what a step does and which command does it."""
    click.echo(f"\n== {title}\n   {command}")
