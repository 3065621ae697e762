"""`ctxembed reconstruct`: what a sentence vector remembers of its sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ctxembed.errors import InvalidInputError

from .compare_uses import expand_stdin
from .options import chosen_precision, model_option, report_encoder, runtime_options
from .output import emit, format_option

if TYPE_CHECKING:
    from ctxembed.reconstruction import Reconstructor


@click.command()
@click.argument("sentences", nargs=-1, required=True, metavar="SENTENCE...")
@click.option(
    "--beam",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Beginnings followed at once; 1 takes the most probable token each time.",
)
@model_option
@format_option
@runtime_options
def reconstruct(sentences: tuple[str, ...], beam: int, model: str | None, output_format: str, device: str) -> None:
    """Write each SENTENCE anew from its vector alone: what comes back is what the vector remembers.

    The model needs a decoder; `ctxembed train denoise` trains one. - reads sentences from stdin, one a line.

    \b
    log_probability  natural logarithm of the probability of the rebuilt sentence
    overlap          tokens that both sentences have, in any order: 2 x common / (tokens of both), 0 to 1
    cosine           of the vectors of both sentences, -1 to 1

    \b
    Example:
      ctxembed reconstruct "The ferry left at dawn." "My card got lost."
      ctxembed reconstruct - -m model/ --beam 5 --format jsonl < sentences.txt
    """
    from ctxembed.reconstruction import Reconstructor

    if model is not None and model.startswith("hf:"):
        raise InvalidInputError(f"{model} has no decoder: name a folder made by `ctxembed train denoise`")
    texts = expand_stdin(sentences)
    if not texts:
        raise InvalidInputError("stdin holds no sentence: give one a line")
    if not all(map(str.strip, texts)):
        raise InvalidInputError("a sentence is empty and has no vector: leave it out")
    emit(
        rebuilt_rows(texts, Reconstructor.load(model, device=device, dtype=chosen_precision()), beam=beam),
        output_format,
    )


def rebuilt_rows(texts: list[str], reconstructor: Reconstructor, *, beam: int) -> list[dict[str, Any]]:
    """Return a row for each text: itself, what its vector remembers, and how near the two are."""
    from ctxembed.reconstruction import token_overlap

    encoder = reconstructor.embedder
    vectors = encoder.encode(texts)
    report_encoder(encoder)
    best = [candidates[0] for candidates in reconstructor.reconstruct_vectors(vectors, beam=beam)]
    rebuilt = [one.text for one in best]
    cosines = (vectors * encoder.encode(rebuilt)).sum(axis=1)
    tokens = (encoder.tokenizer.encode_ids(side) for side in (texts, rebuilt))
    overlaps = [token_overlap(first.tolist(), second.tolist()) for first, second in zip(*tokens, strict=True)]
    return [
        {
            "sentence": text,
            "rebuilt": one.text,
            "log_probability": round(one.log_probability, 6),
            "overlap": round(overlap, 6),
            "cosine": round(float(cosine), 6),
        }
        for text, one, overlap, cosine in zip(texts, best, overlaps, cosines, strict=True)
    ]
