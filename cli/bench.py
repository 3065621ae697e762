"""`ctxembed bench`: measure models on word senses, sentence likeness and retrieval."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ctxembed.config import PRESETS

from .options import (
    inputs_argument,
    load_any,
    long_option,
    open_corpus,
    reading_options,
    refuse_idle,
    report_long,
    runtime_options,
    seed_option,
    stacked,
)
from .output import emit, format_option, say

if TYPE_CHECKING:
    from ctxembed.corpus import ReadOptions
    from ctxembed.evaluation.datasets import Kind, Suite
    from ctxembed.evaluation.runner import SystemResult
    from ctxembed.evaluation.training_speed import Peer

output_option = click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Also write the results as JSON, with versions, seed, fingerprints and hashes of the data.",
)
bench_options = stacked(
    click.option("--data", type=click.Path(path_type=Path), metavar="DIR", help="Folder of data sets (see above)."),
    click.option(
        "-m",
        "--model",
        "models",
        multiple=True,
        metavar="FOLDER",
        help="Model or static vectors, repeatable; the model that ships by default. [env: CTXEMBED_MODEL]",
    ),
    output_option,
    format_option,
    seed_option,
    long_option,
    runtime_options,
)


@click.group()
def bench() -> None:
    """Measure how good models are, on the sets that ship or on your own.

    \b
    Example:   ctxembed bench words -m my-model -m my-static-vectors
    """


@bench.command()
@click.option(
    "--layer", "layers", type=int, multiple=True, help="Layer to score, repeatable; by default the model's own choice."
)
@bench_options
def words(layers: tuple[int, ...], **options: Any) -> None:
    """Does a word mean the same in two sentences? Accuracy of a threshold on the cosine.

    Rows of .jsonl or .jsonl.gz files: word, sentence1, start1, end1, sentence2, start2, end2 (character offsets) and
    label (1: same meaning). The files train, dev and test of a folder are one task: test is scored, or else dev, with
    the threshold tuned on train (or on dev, or on the words of one half); a file of another name is a task of its own.

    \b
    Example:   ctxembed bench words --data wic/ --layer 4 --layer 6
    """
    _run("words", layers=layers or (None,), **options)


@bench.command()
@bench_options
def sentences(**options: Any) -> None:
    """Are two sentences alike? Spearman's rank correlation of cosine and human score.

    Rows of .jsonl or .jsonl.gz files: sentence1, sentence2 and score. Of the files train, dev and test of a folder,
    test is scored, or else dev; a file of another name is a task of its own. No such set ships: --data is needed.

    \b
    Example:   ctxembed bench sentences --data stsb/
    """
    _run("sentences", **options)


@bench.command()
@bench_options
def retrieval(**options: Any) -> None:
    """Do the right documents come first? nDCG@10 and recall@100 of the ranking by cosine.

    A data set is a folder of corpus.jsonl (id, text, optionally title), queries.jsonl (id, text), both also .gz, and
    qrels.tsv with the header line query-id, corpus-id, score (0 is not relevant), parted by tabs.

    \b
    Example:   ctxembed bench retrieval --data cranfield/ -m my-model --format csv
    """
    _run("retrieval", **options)


@bench.command()
@inputs_argument
@click.option(
    "--against",
    "peers",
    type=click.Choice(["transformers-eager", "transformers-sdpa"]),
    multiple=True,
    help="transformers' Trainer with BertForMaskedLM and this attention, repeatable.",
)
@click.option(
    "--preset", type=click.Choice(list(PRESETS)), default="small", show_default=True, help="Size of the model."
)
@click.option(
    "--row-tokens", type=int, multiple=True, default=(128,), show_default=True, help="Row length, repeatable."
)
@click.option("--steps", type=int, default=100, show_default=True, help="Optimiser steps of a run.")
@click.option("--repeats", type=int, default=3, show_default=True, help="Runs of each, in turns.")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Also write JSON."
)
@format_option
@reading_options
@seed_option
@runtime_options
def training(
    inputs: tuple[str, ...],
    peers: tuple[Peer, ...],
    row_tokens: tuple[int, ...],
    output: Path | None,
    output_format: str,
    reading: ReadOptions,
    device: str,
    **trial: Any,
) -> None:
    """How fast is masked-language training? Tokens a second, and the loss after equal tokens.

    Everybody trains a new model of one size on full rows of INPUT, with the shipped model's tokenizer, in turns.

    \b
    Example:   ctxembed bench training corpus.txt --against transformers-sdpa --steps 50
    """
    from dataclasses import asdict

    from ctxembed.evaluation.training_speed import TrainingTrial, compare_training, full_rows
    from ctxembed.runtime import default_model, environment, write_json
    from ctxembed.tokenizer import SubwordTokenizer
    from ctxembed.training.batches import chunk_texts

    refuse_idle(("device",), "here: training is timed on the CPU")
    settings = TrainingTrial(**trial)
    tokenizer = SubwordTokenizer.load(default_model("encoder"))
    texts = (document.text for document in open_corpus(inputs, reading))
    store = chunk_texts(texts, tokenizer, max_length=128)
    rows = []
    for width in row_tokens:
        full = full_rows(store, tokenizer, width=width)
        rows += [asdict(each) for each in compare_training(full, tokenizer, trial=settings, peers=peers, tell=say)]
    for row in rows:
        own = next(each for each in rows if each["row_tokens"] == row["row_tokens"])
        row["times_slower"] = own["tokens_per_second"] / row["tokens_per_second"]
    if output is not None:
        record = {"trial": asdict(settings), "inputs": [Path(name).name for name in inputs], "results": rows}
        write_json(output, {**record, "environment": environment()})
    emit([{name: value for name, value in row.items() if name != "profile"} for row in rows], output_format)


def _run(
    kind: Kind,
    *,
    data: Path | None,
    models: tuple[str, ...],
    output: Path | None,
    seed: int,
    device: str,
    on_long: str,
    output_format: str,
    layers: tuple[int | None, ...] = (None,),
) -> None:
    from ctxembed.evaluation.datasets import load_suite
    from ctxembed.evaluation.runner import result_rows, run_suite, write_results

    suite = load_suite(kind, data, seed=seed)
    _say_left_out(suite)
    paths = models or (os.environ.get("CTXEMBED_MODEL") or None,)
    encoders = [load_any(path, device=device, on_long=on_long) for path in paths]
    results = run_suite(suite, encoders, layers=layers)
    _say_uncovered(results)
    for encoder in encoders:
        report_long(encoder)
    if output is not None:
        write_results(output, results, suite=suite, seed=seed)
    rows = result_rows(results)
    if output_format == "table":
        # Systems stand together under each figure, and what this kind of task does not have takes no room.
        figures = list(dict.fromkeys((row["task"], row["metric"]) for row in rows))
        rows.sort(key=lambda row: figures.index((row["task"], row["metric"])))
        used = [name for name in rows[0] if any(row[name] is not None for row in rows)]
        rows = [{name: row[name] for name in used} for row in rows]
    emit(rows, output_format)


def _say_left_out(suite: Suite) -> None:
    from ctxembed.evaluation.datasets import RetrievalSet

    if suite.skipped:
        names = sorted(suite.skipped)
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        say(f"{len(names)} files or folders hold nothing for {suite.kind}: {', '.join(names[:3])}{more}")
    for data in suite.sets:
        if isinstance(data, RetrievalSet) and (unjudged := len(data.queries) - len(data.judged_queries)):
            say(f"{data.name}: {unjudged} of {len(data.queries)} queries have no relevant document and are not scored")


def _say_uncovered(results: list[SystemResult]) -> None:
    for each in results:
        if each.result.coverage < 1:
            say(
                f"{each.system}: {1 - each.result.coverage:.1%} of the pairs of {each.result.task} have no vector on "
                f"at least one side and count with similarity 0 in {each.result.metric}"
            )
