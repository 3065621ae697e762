"""`ctxembed bench scaling`: why Transformer, measured beside the recurrent models that came before."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import READING, open_corpus, reading_options, refuse_idle, seed_option, threads_option
from .output import emit, format_option, print_table, say

if TYPE_CHECKING:
    from ctxembed.corpus import ReadOptions
    from ctxembed.evaluation.scaling import ScalingResult, ScalingTrial

FULL: dict[str, Any] = {
    "width": 128,
    "growth_rows": None,
    "lengths": (16, 32, 64, 128, 256, 512),
    "writing": (16, 64, 128),
    "memory": (256, 1024, 4096, 8192),
}
FULL_BUDGET = 1800.0


@click.command()
@click.argument("inputs", nargs=-1, metavar="[INPUT...]")
@click.option("--budget", type=click.FloatRange(min=1), help="Seconds for all parts; 270, or 1800 with --full.")
@click.option("--full", is_flag=True, help="More lengths and half an hour: for figures that are kept.")
@click.option("--width", type=click.IntRange(min=32), help="Width of both models; 64, or 128 with --full.")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Also write JSON."
)
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Also draw all parts, as PNG."
)
@threads_option
@format_option
@reading_options
@seed_option
def scaling(
    inputs: tuple[str, ...],
    budget: float | None,
    full: bool,
    width: int | None,
    output: Path | None,
    plot: Path | None,
    threads: int | None,
    output_format: str,
    reading: ReadOptions,
    seed: int,
) -> None:
    """Why Transformer? Beside a recurrent encoder-decoder with attention (Bahdanau et al. 2015) of the same size.

    Both learn to restore deleted words in the sentences of INPUT, or of the sample corpus that ships, in turns on the
    CPU in float32. About five minutes by default; each part gets its share of the clock.

    \b
    length     training tokens a second, and steps that must wait for each other, against sentence length
    batch      training tokens a second against batch size
    learning   held-out loss (nats a token) after equal time, and after equal tokens
    growth     lowest held-out loss with 1, 2, 4 and 8 times the data, in equal time
    inference  reading one sentence, and writing one (the Transformer's decoder here keeps no cache)
    memory     reading one long row; what a training step keeps for its gradient

    \b
    Example:   ctxembed bench scaling corpus.txt --full -o scaling.json --plot scaling.png
    """
    import torch

    from ctxembed.corpus import texts
    from ctxembed.evaluation.scaling import ScalingTrial, run_scaling
    from ctxembed.runtime import data_directory, environment, write_json

    if threads is not None:
        torch.set_num_threads(threads)
    if not inputs:
        refuse_idle(READING, "without INPUT")
    sources = inputs or (str(data_directory() / "corpora" / "sample.txt"),)
    settings = {**(FULL if full else {}), "seed": seed}
    if width is not None:
        settings["width"] = width
    if budget is not None or full:
        settings["budget"] = budget or FULL_BUDGET
    trial = ScalingTrial(**settings)
    result = run_scaling(list(texts(open_corpus(sources, reading))), trial=trial, tell=say)
    if plot is not None:
        from ctxembed.report.scaling import draw_scaling

        draw_scaling(plot, result)
        say(f"written: {plot}")
    if output is not None:
        names = [Path(name).name for name in inputs] or ["sample.txt"]
        record = {"trial": asdict(trial), "inputs": names, "threads": torch.get_num_threads(), **asdict(result)}
        write_json(output, {**record, "environment": environment()})
    if output_format == "table":
        print_scaling(result, trial)
    else:
        emit([asdict(each) | {"parameters": result.parameters[each.system]} for each in result.figures], output_format)


def print_scaling(result: ScalingResult, trial: ScalingTrial) -> None:
    """Print a table for each part, both systems side by side, and which is ahead."""
    counts = ", ".join(f"{name} {count:,}" for name, count in result.parameters.items())
    say(f"parameters: {counts}; {result.rows:,} training rows of {trial.row_tokens} tokens")
    for part, name in dict.fromkeys((each.part, each.name) for each in result.figures):
        if name.startswith("held-out loss by"):
            continue  # curves are for the plot and for JSON
        rows = compared_rows(result, part, name)
        if rows:
            click.echo()
            print_table(rows, title=f"{part}: {name}")


def compared_rows(result: ScalingResult, part: str, name: str) -> list[dict[str, Any]]:
    """Return a row for each point that both systems have, with how far the better one is ahead."""
    found = result.values(part, name)
    of = next(each.of for each in result.figures if (each.part, each.name) == (part, name))
    more_is_better = "a second" in name
    rows = []
    for (at, ours), (_, theirs) in zip(found["transformer"], found["recurrent"], strict=True):
        best = max(ours, theirs) if more_is_better else min(ours, theirs)
        ahead, low = "transformer" if best == ours else "recurrent", min(ours, theirs)
        factor = max(ours, theirs) / low if low > 0 else None
        rows.append({of: f"{at:g}", "transformer": ours, "recurrent": theirs, "ahead": ahead, "times": factor})
    return rows
