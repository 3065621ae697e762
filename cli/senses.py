"""`ctxembed senses`: the uses of a word in groups, each with its share, typical uses and labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ctxembed.errors import InvalidInputError
from ctxembed.text import word_form
from ctxembed.types import Usage

from .options import (
    READING,
    load_any,
    model_option,
    open_corpus,
    reading_options,
    refuse_idle,
    report_encoder,
    runtime_options,
    seed_option,
)
from .output import emit, format_option, say
from .progress import document_bar
from .words import html_option, inflections_option, plot_option, say_written, split_words, word_table

if TYPE_CHECKING:
    from ctxembed.corpus import ReadOptions
    from ctxembed.meaning.clusters import Method
    from ctxembed.meaning.occurrences import FoundUses, Occurrence
    from ctxembed.meaning.senses import Sense, WordSenses
    from ctxembed.types import Encoder, Vectors

USES_FOR_SUBSTITUTES = 8


@click.command()
@click.argument("source", metavar="INPUT")
@click.argument("words", nargs=-1, required=True, metavar="WORD...")
@click.option("-k", "--k", "k", type=click.IntRange(min=1), help="How many senses; found by how the uses fall apart.")
@click.option("--method", type=click.Choice(["k-means", "agglomerative", "hdbscan"]), default="k-means",
              show_default=True, help="How the uses are grouped.")  # fmt: skip
@click.option("--max-uses", type=click.IntRange(min=2), default=5000, show_default=True,
              help="Uses of a word that are looked at, a sample by --seed of more.")  # fmt: skip
@click.option(
    "--examples", type=click.IntRange(min=0), default=3, show_default=True, help="Typical uses of each sense."
)
@click.option("--inventory", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
              help="JSON lines with lemma, gloss, examples, as WordNet's: senses get their nearest gloss.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FOLDER",
              help="Keep the senses here under lasting names, for search, neighbours and shift.")  # fmt: skip
@click.option("--assign", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Write every use with its sense as JSON lines.")  # fmt: skip
@html_option
@plot_option
@click.option("--word-only", is_flag=True, help="Group by the word's vectors alone, not by its sentence's beside them.")
@click.option("--layer", type=int, help="Layer to read; the model's choice by default.")
@inflections_option
@seed_option
@model_option
@format_option
@reading_options
@runtime_options
def senses(
    source: str,
    words: tuple[str, ...],
    k: int | None,
    method: Method,
    max_uses: int,
    examples: int,
    inventory: Path | None,
    output: Path | None,
    assign: Path | None,
    html: Path | None,
    plot: Path | None,
    word_only: bool,
    layer: int | None,
    inflections: bool,
    seed: int,
    model: str | None,
    output_format: str,
    reading: ReadOptions,
    device: str,
) -> None:
    """Group the uses of words in a corpus or an index of words into senses.

    Uses are split where a gap parts them, judged on uses that the split was not learnt from; without a gap, where they
    are less alike than the uses of one sense mostly are, on the model's own scale (from the benchmark that ships).
    Each sense comes with its share of the uses, the uses nearest its centre, words beside it
    that distinguish it, and what a masked-word model would write in its place. Rows with text, word, start and end are
    uses as given.

    \b
    Example:
      ctxembed senses corpus.txt bank
      ctxembed senses widx/ bank --format json
      ctxembed senses corpus.txt bank plant -o senses/ --html senses.html
    """
    from ctxembed.evaluation.calibrating import one_sense_cosine
    from ctxembed.meaning.sense_folder import SenseFolder
    from ctxembed.meaning.senses import find_senses

    wanted = split_words(",".join(words))
    encoder = load_any(model, device=device)
    layer = layer_of(source, layer)
    if output is not None:
        SenseFolder.begin(output, encoder=encoder, layer=layer)  # refuses a folder before anything is computed for it
    alike = None if k is not None or method == "hdbscan" else one_sense_cosine(encoder, layer=layer)
    results = []
    for word, uses, vectors in word_uses(
        source, wanted, encoder=encoder, reading=reading, inflections=inflections, most=max_uses, seed=seed, layer=layer
    ):
        contexts = None if word_only else encoder.encode([each.usage.text for each in uses])
        result = find_senses(
            word, uses, vectors, contexts=contexts, k=k, method=method, alike=alike, seed=seed, num_examples=examples
        )
        results.append(labelled(result, encoder, inventory=inventory, layer=layer))
    if output is not None:
        with SenseFolder.changing(output, encoder=encoder, layer=layer) as kept:
            results = [kept.add(result) for result in results]
        say(f"{output}: {sum(len(r.senses) for r in results)} senses kept, such as {results[0].senses[0].id}")
    if assign is not None:
        write_assignments(assign, results)
    for result in results:
        report_word(result)
    print_senses(results, output_format)
    report_encoder(encoder)
    if html is not None:
        from ctxembed.report.meaning import senses_page
        from ctxembed.report.page import write_page

        write_page(html, senses_page(results, k=k, method=method, seed=seed))
    if plot is not None:
        from ctxembed.report.meaning_figures import sense_figure

        sense_figure(results, plot, seed=seed)
    say_written(html, plot)


def layer_of(source: str, layer: int | None) -> Any:
    """Return where the vectors of the uses come from: --layer, or of an index what it was built with."""
    from ctxembed.meaning.word_index import WordIndex

    if not is_index(source):
        return layer
    refuse_idle(("layer", *READING), "for an index, which was read and encoded when it was built")
    with WordIndex.open(source) as index:
        return index.layer


def is_index(source: str) -> bool:
    """Tell whether uses are taken from an index, not from text."""
    return (Path(source) / "manifest.json").exists()


def word_uses(
    source: str,
    words: Sequence[str],
    *,
    encoder: Encoder,
    reading: ReadOptions,
    inflections: bool,
    most: int,
    seed: int,
    layer: int | None,
) -> list[tuple[str, list[Occurrence], Vectors]]:
    """Find and encode the uses of words in a corpus; those without a vector are left out and counted.

    Raises:
        InvalidInputError: If a word does not occur, or no use of it has a vector.
    """
    from ctxembed.meaning.occurrences import find_uses, given_uses, holds_given_uses, known_uses

    if is_index(source):
        return indexed_uses(Path(source), words, encoder=encoder, inflections=inflections, most=most, seed=seed)
    corpus, table = open_corpus([source], reading), word_table(list(words), inflections)
    if holds_given_uses(corpus):
        found: FoundUses = given_uses(corpus, table, group=lambda _: "", most=most, seed=seed)
    else:
        with document_bar("reading") as advance:
            found = find_uses(corpus, table, group=lambda _: "", most=most, seed=seed, on_progress=advance)
    results = []
    for word in words:
        side = found.get(word, {}).get("")
        if side is None:
            raise InvalidInputError(
                f"the word {word!r} does not occur in {source}: words are matched as they are written, in any case; "
                "--inflections counts other forms too"
            )
        vectors = encoder.encode_usages([each.usage for each in side.occurrences], layer=layer)
        uses, vectors = known_uses(side.occurrences, vectors)
        num_zero = len(side.occurrences) - len(uses)
        report_uses(word, len(uses), num_zero=num_zero, total=side.count, model=encoder.name, seed=seed)
        results.append((word, uses, vectors))
    return results


def indexed_uses(
    source: Path, words: Sequence[str], *, encoder: Encoder, inflections: bool, most: int, seed: int
) -> list[tuple[str, list[Occurrence], Vectors]]:
    """Take the uses of words from an index of words; those without a vector are left out and counted.

    Raises:
        InvalidInputError: If a word is not in the index, or no use of it has a vector.
    """
    from ctxembed.meaning.word_index import WordIndex

    results = []
    with WordIndex.open(source, encoder=encoder) as index:
        for word in words:
            uses, vectors, total, num_zero = index.uses(word, inflections=inflections, most=most, seed=seed)
            report_uses(word, len(uses), num_zero=num_zero, total=total, model=encoder.name, seed=seed)
            results.append((word, uses, vectors))
    return results


def report_uses(word: str, number: int, *, num_zero: int, total: int, model: str, seed: int) -> None:
    """Say which uses of a word stand for it: how many have no vector, and how many were not looked at.

    Raises:
        InvalidInputError: If no use has a vector.
    """
    if not number:
        raise InvalidInputError(f"{model} knows no use of {word!r}: choose another word or model")
    looked_at = number + num_zero
    if total > looked_at:
        say(f"{word}: a sample of {looked_at:,} of {total:,} uses (seed {seed}) stands for all")
    if num_zero:
        say(f"{word}: {num_zero:,} uses have no vector and are left out")


def labelled(result: WordSenses, encoder: Encoder, *, inventory: Path | None, layer: int | None) -> WordSenses:
    """Add what a masked-word model would write, and glosses of an inventory; nothing where there is none."""
    from ctxembed.embedder import Embedder

    if isinstance(encoder, Embedder):
        from ctxembed.meaning.clusters import without_forms
        from ctxembed.meaning.senses import typical_uses
        from ctxembed.substitutes import substitutes

        named, uses = [], result.occurrences
        vectors = without_forms(result.vectors, [word_form(each.usage.word) for each in uses])
        for n, sense in enumerate(result.senses):
            typical = typical_uses(uses, vectors, result.clusters, n, number=USES_FOR_SUBSTITUTES)
            named.append(replace(sense, substitutes=tuple(substitutes(encoder, [each.usage for each in typical]))))
        result = replace(result, senses=tuple(named))
    return result if inventory is None else with_inventory(result, encoder, inventory, layer=layer)


def with_inventory(result: WordSenses, encoder: Encoder, inventory: Path, *, layer: int | None) -> WordSenses:
    """Label senses by the glosses of an inventory; a gloss stands for the word before it and in its examples."""
    import numpy as np

    from ctxembed.corpus import Corpus, ReadOptions
    from ctxembed.meaning.senses import read_inventory, with_glosses
    from ctxembed.text import find_usage, word_forms

    rows = [
        {**document.metadata, "gloss": document.text, "examples": _listed(document.metadata.get("examples"))}
        for document in Corpus(inventory, options=ReadOptions(text_column="gloss", id_column=None))
        if document.metadata.get("lemma")
    ]
    entries = read_inventory(rows, result.word)
    if not entries:
        say(f"{inventory} has no gloss of {result.word!r}")
        return result
    vectors = []
    for gloss, examples in entries:
        usages = [Usage(f"{result.word}: {gloss}", 0, len(result.word))]
        usages += [find_usage(text, result.word) for text in examples if result.word in word_forms(text)]
        mean = encoder.encode_usages(usages, layer=layer).mean(axis=0)
        vectors.append(mean / max(float(np.linalg.norm(mean)), 1e-12))
    return with_glosses(result, [gloss for gloss, _ in entries], np.stack(vectors))


def print_senses(results: Sequence[WordSenses], output_format: str) -> None:
    """Print a row for each sense; a table has glosses if any word has one."""
    if output_format != "table":
        rows = [sense_row(result, n, output_format) for result in results for n in range(len(result.senses))]
    else:
        senses = [sense for result in results for sense in result.senses]
        with_gloss = any(sense.gloss for sense in senses)
        rows = [short_row(sense, with_gloss=with_gloss) for sense in senses]
    emit(rows, output_format)


def short_row(sense: Sense, *, with_gloss: bool) -> dict[str, Any]:
    """Return the columns of a sense that fit a terminal."""
    row: dict[str, Any] = {"id": sense.id, "share": round(sense.share, 6), "uses": sense.uses}
    row |= {"beside it": ", ".join(sense.words), "in its place": ", ".join(sense.substitutes)}
    row |= {"gloss": sense.gloss} if with_gloss else {}
    return row | {"typical use": marked(sense.typical[0].usage) if sense.typical else ""}


def sense_row(result: WordSenses, number: int, output_format: str) -> dict[str, Any]:
    """Return a sense as JSON and CSV have it; the numbers of its word stand in each row."""
    sense = result.senses[number]
    row: dict[str, Any] = {"id": sense.id, "share": round(sense.share, 6), "uses": sense.uses}
    unclear = int((result.clusters.unclear & (result.clusters.labels == number)).sum())
    row |= {"word": result.word, "unclear": unclear}
    listed = output_format in ("json", "jsonl")
    row["words"] = list(sense.words) if listed else ", ".join(sense.words)
    row["substitutes"] = list(sense.substitutes) if listed else ", ".join(sense.substitutes)
    row |= {"gloss": sense.gloss, "gloss_score": None if sense.gloss_score is None else round(sense.gloss_score, 6)}
    row |= {"silhouette": _rounded(result.silhouette), "stability": _rounded(result.stability)}
    row["word_uses"] = len(result.occurrences)
    if listed:
        row["typical"] = [use_record(each) for each in sense.typical]
    return row


def use_record(each: Occurrence) -> dict[str, Any]:
    """Return a use as JSON can hold it."""
    usage = each.usage
    place = {"id": each.id, "text": usage.text, "word": usage.word, "start": usage.start, "end": usage.end}
    return place | {"metadata": dict(each.metadata)}


def write_assignments(path: Path, results: Sequence[WordSenses]) -> None:
    """Write every use with its sense, one a line."""
    from ctxembed.runtime import atomic_path

    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for result in results:
            for each, name, unclear in zip(
                result.occurrences, result.ids(), result.clusters.unclear.tolist(), strict=True
            ):
                stream.write(
                    json.dumps(use_record(each) | {"sense": name, "unclear": unclear}, ensure_ascii=False) + "\n"
                )


def report_word(result: WordSenses) -> None:
    """Say how clear the senses of a word are."""
    spread = "" if result.silhouette is None else f", silhouette {result.silhouette:.2f}"
    steady = "" if result.stability is None else f", stability {result.stability:.2f}"
    number = f"{len(result.senses)} senses" if len(result.senses) != 1 else "one sense"
    say(f"{result.word}: {number} in {len(result.occurrences):,} uses{spread}{steady}, {result.unclear:.0%} unclear")


def marked(usage: Usage) -> str:
    """Write a use with its word in brackets, some words around it."""
    left, right = usage.text[: usage.start], usage.text[usage.end :]
    left = f"…{left[-50:]}" if len(left) > 50 else left
    right = f"{right[:50]}…" if len(right) > 50 else right
    return f"{left}[{usage.word}]{right}".replace("\n", " ")


def _listed(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) and value.startswith("[") else value


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
