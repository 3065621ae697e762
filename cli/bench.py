"""`ctxembed bench`: the group, and how fast training and embedding are; quality.py has how good the vectors are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ctxembed.config import PRESETS

from .options import (
    READING,
    hardware_options,
    inputs_argument,
    open_corpus,
    reading_options,
    refuse_idle,
    runtime_options,
    seed_option,
)
from .output import emit, format_option, say
from .quality import COMMANDS as QUALITY
from .quality import output_option
from .scaling import scaling
from .systems import models_option

if TYPE_CHECKING:
    from ctxembed.corpus import ReadOptions
    from ctxembed.evaluation.speed import EncodingSpeed
    from ctxembed.evaluation.training_speed import Peer
    from ctxembed.evaluation.workloads import Workload

SPEED_PEERS = (
    "ctxembed-float32",
    "ctxembed-compiled",
    "sentence-transformers",
    "sentence-transformers-bf16",
    "onnxruntime",
    "onnxruntime-int8",
    "openvino",
)

UTILISATION = ("tokenization_share", "gigaflops", "machine_gigaflops")
"""Figures of our own engine, which a table leaves to stderr."""


@click.group()
def bench() -> None:
    """Measure how good models are, on the sets that ship or on your own.

    \b
    Example:   ctxembed bench words -m my-model --against static:my-static-vectors
    """


for _command in (*QUALITY, scaling):
    bench.add_command(_command)


@bench.command()
@inputs_argument
@click.option(
    "--against",
    "peers",
    type=click.Choice(["transformers-eager", "transformers-sdpa", "ctxembed-all-tokens"]),
    multiple=True,
    help="transformers' Trainer with BertForMaskedLM and this attention, or our own with no token dropped; repeatable.",
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
@hardware_options
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

    Everybody trains a new model of one size on full rows of INPUT, with the shipped model's tokenizer, in turns, in
    bfloat16 where training uses it and in float32 elsewhere.

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


@bench.command()
@click.argument("inputs", nargs=-1, metavar="[INPUT...]")
@models_option
@click.option(
    "--against",
    "peers",
    type=click.Choice(SPEED_PEERS),
    multiple=True,
    help="Another library with the weights of the first model, our engine in float32, or the plain encoder through "
    "torch.compile; repeatable.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Hugging Face folder of the first model, for other libraries; by default one is written from its weights.",
)
@click.option(
    "--workload",
    "workloads",
    type=click.Choice(["mixed", "titles", "documents", "query", "texts"]),
    multiple=True,
    help="Kind of texts (see above), repeatable; mixed and query by default.",
)
@click.option("--rows", type=int, default=1000, show_default=True, help="Texts; documents are a hundredth of it.")
@click.option("--repeats", type=int, default=3, show_default=True, help="Timed rounds; all have a turn in each.")
@output_option
@format_option
@reading_options
@seed_option
@runtime_options
def speed(
    inputs: tuple[str, ...],
    models: tuple[str, ...],
    peers: tuple[str, ...],
    weights: Path | None,
    workloads: tuple[Workload, ...],
    output: Path | None,
    output_format: str,
    reading: ReadOptions,
    device: str,
    **trial: Any,
) -> None:
    """How fast does text become sentence vectors? Beside other libraries with the same weights, in turns.

    Texts are cut out of INPUT, or of the sample corpus that ships: mixed (5 to 200 words), titles (10), documents
    (2,000) and query (10, one at a time); texts are those of INPUT as they are. Of several models (no static
    vectors), others are compared with the first. A system that is missing says how to install it. A thousand rows and
    three others take a few minutes on two cores.

    \b
    Example:   ctxembed bench speed -m model/ --against sentence-transformers --against onnxruntime-int8
    """
    from ctxembed.corpus import texts
    from ctxembed.evaluation.peers import open_peers
    from ctxembed.evaluation.speed import OTHER_WAYS, SpeedTrial, compare_speed, own_models, speed_rows, write_speed
    from ctxembed.model.checkpoint import load_checkpoint
    from ctxembed.runtime import data_directory, model_folder

    refuse_idle(("device",), "here: speed is timed on the CPU")
    if not inputs:
        refuse_idle(READING, "without INPUT")
        if "texts" in workloads:
            raise click.UsageError("--workload texts needs INPUT: name a file, or choose another workload")
    settings = SpeedTrial(workloads=workloads or ("mixed", "query"), **trial)
    others = [name for name in dict.fromkeys(peers) if name not in OTHER_WAYS]
    if not others:
        refuse_idle(("weights",), "without another library: name one with --against")
    sources = inputs or (str(data_directory() / "corpora" / "sample.txt"),)
    sentences = list(texts(open_corpus(sources, reading)))
    chosen = models or (os.environ.get("CTXEMBED_MODEL"),)
    own = own_models([load_checkpoint(model_folder(name or None)) for name in chosen])
    results = []
    with open_peers(others, own[0].checkpoint, weights) as opened:
        for each in compare_speed(own, opened, sentences, trial=settings, ways=peers, tell=say):
            results.append(each)
            _say_utilisation(each)
    if output is not None:
        names = [Path(name).name for name in inputs]
        write_speed(output, results, models=own, trial=settings, inputs=names)
    rows = speed_rows(results)
    if output_format != "table":
        emit(rows, output_format)
        return
    for workload in settings.workloads:
        part = [row for row in rows if row["workload"] == workload]
        idle = {
            "workload",
            "texts",
            *UTILISATION,
            *(name for name in part[0] if all(row[name] is None for row in part)),
        }
        idle |= {"lowest", "highest", "tokens_per_second"} if workload == "query" else set()
        idle |= {"model"} if len({row["model"] for row in part}) == 1 else set()
        emit([{name: row[name] for name in row if name not in idle} for row in part], "table", title=workload)


def _say_utilisation(each: EncodingSpeed) -> None:
    used = each.utilisation
    if used is not None:
        largest = ", ".join(f"{name} {share:.0%}" for name, share in used.profile[:5])
        say(
            f"{each.workload}, {each.system} ({each.model}): {used.tokenization_share:.1%} of the time is "
            f"tokenization; {used.gigaflops:,.0f} GFLOP/s of the {used.machine_gigaflops:,.0f} that matrix products "
            f"reach here; the rest: {largest}"
        )
