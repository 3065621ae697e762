"""One step of the denoising decoder as a page: where each layer looks, what its parts add, and what comes next."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from ctxembed.inspection.decoding import DecoderLayerSteps, DecoderStep, size_rows
from ctxembed.report.charts import bars, heatmap
from ctxembed.report.page import details, paragraph, render_page, section, table, write_page


def write_decoder_page(path: Path, step: DecoderStep) -> None:
    """Write the page of one step.

    Raises:
        DiskFullError: If there is no room.
    """
    write_page(path, render_page(f"One step of the decoder: {step.text}", decoder_sections(step)))


def decoder_sections(step: DecoderStep) -> list[Markup]:
    """Return the sections about one step, from the sentence's vector to the next token."""
    return [
        section(
            "What it has",
            paragraph(f"The encoder turned the sentence into one vector: {step.text}"),
            paragraph(f"Written so far: {' '.join(step.tokens)}"),
        ),
        *(_layer(step, number, layer) for number, layer in enumerate(step.layers, start=1)),
        section(
            "What each part adds",
            table(size_rows(step), caption="length of the vector that is added at the last place"),
            paragraph(
                "The memory is one vector, so every encoder-decoder weight is one: what counts is the value it hands "
                "over."
            ),
        ),
        section(
            "What comes next",
            paragraph("The last vector meets the embedding of every token; a softmax makes probabilities of it."),
            bars(dict(step.likeliest), caption="The most probable next tokens."),
        ),
    ]


def _layer(step: DecoderStep, number: int, layer: DecoderLayerSteps) -> Markup:
    back, across = layer.look_back.weights, layer.look_across.weights
    heads = range(len(back))
    rows = [
        {"looks at": token} | {f"head {head + 1}": float(back[head, -1, place]) for head in heads}
        for place, token in enumerate(step.tokens)
    ]
    rows.append(
        {"looks at": "the sentence's vector (encoder-decoder)"}
        | {f"head {head + 1}": float(across[head, -1, 0]) for head in heads}
    )
    return section(
        f"Layer {number}",
        heatmap(
            back.mean(axis=0),
            rows=step.tokens,
            columns=step.tokens,
            caption="Masked self-attention, mean over heads: a row looks at itself and what is before.",
        ),
        table(rows, caption=f"weights by head at {step.tokens[-1]}, which is about to be followed"),
        details(
            "every head",
            *(
                heatmap(back[head], rows=step.tokens, columns=step.tokens, caption=f"Head {head + 1}.")
                for head in heads
            ),
        ),
    )
