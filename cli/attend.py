"""`ctxembed attend`: the Transformer from inside, on the worked example or on a sentence of the user's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ctxembed.errors import InvalidInputError

from .compare_uses import expand_stdin
from .options import model_option, refuse_idle, seed_option
from .output import emit, format_option, say

if TYPE_CHECKING:
    from ctxembed.model.checkpoint import Checkpoint

EXAMPLE = "The dog bit the man."
OF_SENTENCES = ("layer", "head", "word", "model")


@click.command()
@click.argument("sentences", nargs=-1, metavar="[SENTENCE...]")
@click.option("--worked", is_flag=True, help="The worked example THE CAT SAT, every matrix of it; needs no SENTENCE.")
@click.option("--positions", is_flag=True, help="What says where a token stands, and the sentence without it.")
@click.option("--decoder", is_flag=True, help="One step of the denoiser that ships, or of one from `train denoise`.")
@click.option("--step", type=int, default=4, show_default=True, help="The token that --decoder is about to write.")
@click.option("--layer", type=int, default=-1, show_default=True, help="Encoder layer to show, from 1; -1 is the last.")
@click.option("--head", type=click.IntRange(min=1), help="Head to show, from 1; all side by side by default.")
@click.option("--word", help="The word that asks, where it is not marked with [brackets].")
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write all steps as one offline page.",
)
@model_option
@format_option
@seed_option
def attend(
    sentences: tuple[str, ...],
    worked: bool,
    positions: bool,
    decoder: bool,
    step: int,
    layer: int,
    head: int | None,
    word: str | None,
    html: Path | None,
    model: str | None,
    output_format: str,
    seed: int,
) -> None:
    """Look inside the network: queries, keys, values, scores and weights, for each head of each layer.

    With a word marked, or named by --word, it is that word which asks, and how it leaves its static vector is shown
    layer by layer; in several SENTENCEs it is set side by side. - reads sentences from stdin, one a line. Attention
    between subwords is made attention between words: what goes to a word's tokens is added up, what comes from them
    averaged.

    \b
    rollout    all layers together, half of each the residual path (Abnar and Zuidema 2020)
    entropy    how widely a head looks, in nats: 0 at one token, log T at all alike

    Weights say where a head reads from, not what the reading changed: `ctxembed compare --why` takes words away.

    \b
    Example:
      ctxembed attend --worked
      ctxembed attend "My name is Vicky and I play cricket" --word play --layer 2
      ctxembed attend "the [bank] of the river" "the [bank] lent money" --html bank.html
      ctxembed attend "The dog bit the man." --positions
      ctxembed attend "The ferry left at dawn." --decoder
    """
    if worked + positions + decoder > 1:
        raise click.UsageError("--worked, --positions and --decoder are three views: choose one")
    if not decoder:
        refuse_idle(("step",), "without --decoder")
    if worked:
        if sentences:
            raise click.UsageError("--worked has words of its own: leave SENTENCE out")
        refuse_idle(OF_SENTENCES, "with --worked")
        show_worked(html, output_format, seed=seed)
        return
    texts = expand_stdin(sentences) or ([EXAMPLE] if positions else [])
    if not texts:
        raise click.UsageError("give a SENTENCE, or --worked")
    if positions or decoder:
        name = "positions" if positions else "decoder"
        refuse_idle(OF_SENTENCES[:-1], f"with --{name}")
        if len(texts) > 1:
            raise click.UsageError(f"--{name} shows one sentence at a time: give one")
    if positions:
        show_positions(texts[0], load_model(model), html, output_format, seed=seed)
        return
    refuse_idle(("seed",), "without --worked or --positions")
    if decoder:
        show_decoder(texts[0], load_model(model, kind="denoiser"), html, output_format, step=step)
        return
    show_sentences(texts, load_model(model), word=word, layer=layer, head=head, html=html, output_format=output_format)


def show_worked(html: Path | None, output_format: str, *, seed: int) -> None:
    """Show the worked example."""
    from ctxembed.inspection.worked import scaling_experiment, worked_example

    from .attend_worked import print_worked, worked_record

    example, scaling = worked_example(seed=seed), scaling_experiment(seed=seed)
    if html is not None:
        from ctxembed.report.lesson import write_worked_page

        write_worked_page(html, example, scaling)
        say(f"written: {html}")
    if output_format == "table":
        print_worked(example, scaling)
    elif output_format == "json":
        click.echo(json.dumps(worked_record(example, scaling), ensure_ascii=False, indent=2))
    else:
        words = example.words
        emit(
            [
                {"query": one, "key": other, "score": score, "scaled": scaled, "weight": round(weight, 6)}
                for one, *row in zip(words, *(part[0].tolist() for part in _three(example.by_hand)), strict=True)
                for other, score, scaled, weight in zip(words, *row, strict=True)
            ],
            output_format,
        )


def _three(steps: Any) -> tuple[Any, Any, Any]:
    return steps.scores, steps.scaled, steps.weights


def show_positions(text: str, model: Checkpoint, html: Path | None, output_format: str, *, seed: int) -> None:
    """Show what says where a token stands, and one sentence without it."""
    from ctxembed.inspection.positions import position_report

    from .attend_parts import positions_record, print_positions, shuffled_rows

    report = position_report(model, text, seed=seed)
    if html is not None:
        from ctxembed.report.positions import write_positions_page

        write_positions_page(html, report)
        say(f"written: {html}")
    if output_format == "table":
        print_positions(report)
    elif output_format == "json":
        click.echo(json.dumps(positions_record(report), ensure_ascii=False, indent=2))
    else:
        emit(shuffled_rows(report), output_format)


def show_decoder(text: str, model: Checkpoint, html: Path | None, output_format: str, *, step: int) -> None:
    """Show one step of a decoder."""
    from ctxembed.inspection.decoding import decoder_step, size_rows

    from .attend_parts import decoder_record, print_decoder

    shown = decoder_step(model, text, step=step)
    if html is not None:
        from ctxembed.report.decoding import write_decoder_page

        write_decoder_page(html, shown)
        say(f"written: {html}")
    if output_format == "table":
        print_decoder(shown)
    elif output_format == "json":
        click.echo(json.dumps(decoder_record(shown), ensure_ascii=False, indent=2))
    else:
        emit(size_rows(shown), output_format)


def show_sentences(
    texts: list[str],
    model: Checkpoint,
    *,
    word: str | None,
    layer: int,
    head: int | None,
    html: Path | None,
    output_format: str,
) -> None:
    """Show sentences in a model, with one word of each if it is marked or named."""
    from .attend_sentences import View, pair_rows, print_views, views_record

    views = [View.of(text, model, word=word, layer=layer, head=head) for text in texts]
    if html is not None:
        from ctxembed.inspection.positions import position_report
        from ctxembed.report.lesson import write_lesson_page

        positions = position_report(model, views[0].trace.text)
        write_lesson_page(html, [(view.trace, view.unit) for view in views], positions=positions)
        say(f"written: {html}")
    if output_format == "table":
        print_views(views)
    elif output_format == "json":
        click.echo(json.dumps(views_record(views), ensure_ascii=False, indent=2))
    else:
        emit(pair_rows(views), output_format)
    say(f"computed by {model.name} on cpu in float32")


def load_model(model: str | None, *, kind: str = "encoder") -> Checkpoint:
    """Load the model folder that --model names, or the one of a kind that ships.

    Raises:
        InvalidInputError: For what has no attention that could be opened.
    """
    from ctxembed.model.checkpoint import load_checkpoint
    from ctxembed.runtime import model_folder

    if model is not None and model.startswith("hf:"):
        raise InvalidInputError(f"{model} runs in another library: make it a model of ctxembed with `ctxembed import`")
    if model is not None and (Path(model) / "words.txt").exists():
        raise InvalidInputError(f"{model} holds static vectors: a lookup attends to nothing, name a trained model")
    return load_checkpoint(model_folder(model, kind))
