"""What `ctxembed attend --positions` and `ctxembed attend --decoder` print."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .attend_worked import steps_record
from .matrices import echo_matrix, lists
from .output import print_table

if TYPE_CHECKING:
    from ctxembed.inspection.decoding import DecoderStep
    from ctxembed.inspection.positions import PositionReport

HOW = {
    "sinusoidal": "adds sines and cosines to the token vectors (Vaswani et al. 2017)",
    "learned": "adds a row of a learned table to the token vectors",
    "rotary": "turns queries and keys by the angle of their place (Su et al. 2021)",
}


def print_positions(report: PositionReport) -> None:
    """Print the tables of positions, how alike places are by distance, and the sentence without its order."""
    tables, places = report.tables, [f"place {n}" for n in range(len(report.tables.sinusoidal))]
    click.echo(f"{report.model} {HOW[report.kind]}.")
    echo_matrix("sinusoidal: what is added at each place", tables.sinusoidal, places)
    if tables.learned is not None:
        echo_matrix("learned: what is added at each place", tables.learned, places)
    else:
        click.echo(f"\nlearned: {report.model} has no such table")
    echo_matrix("rotary: the angle (radians) that each pair of columns is turned by", tables.rotary, places)
    click.echo("\nhow alike two places are, by their distance (cosine)")
    print_table(distance_rows(report))
    click.echo("\nthe same tokens in another order: cosine of each token's last vector in both orders")
    print_table(shuffled_rows(report))
    click.echo(
        f"\nWithout positions no number differs by more than {report.shuffled.largest_difference:.1e}: attention sees "
        "a set of tokens, and the order of the words is lost."
    )


def distance_rows(report: PositionReport) -> list[dict[str, Any]]:
    """Return a row for each distance of two places."""
    kinds = report.tables.by_distance
    count = min(map(len, kinds.values()))
    shown = [distance for distance in (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 31) if distance < count]
    return [{"distance": n} | {kind: round(float(values[n]), 6) for kind, values in kinds.items()} for n in shown]


def shuffled_rows(report: PositionReport) -> list[dict[str, Any]]:
    """Return a row for each token of the sentence."""
    one = report.shuffled
    return [
        {
            "place": place,
            "token": token,
            "shuffled to": one.order.index(place),
            "with positions": round(float(one.with_positions[place]), 6),
            "without": round(float(one.without_positions[place]), 6),
        }
        for place, token in enumerate(one.tokens)
    ]


def positions_record(report: PositionReport) -> dict[str, Any]:
    """Return everything about positions as JSON can hold it."""
    tables = report.tables
    return {
        "model": report.model,
        "positions": report.kind,
        "sinusoidal": lists(tables.sinusoidal),
        "learned": None if tables.learned is None else lists(tables.learned),
        "rotary": lists(tables.rotary),
        "by_distance": {kind: lists(values) for kind, values in tables.by_distance.items()},
        "tokens": shuffled_rows(report),
        "largest_difference": report.shuffled.largest_difference,
    }


def print_decoder(step: DecoderStep) -> None:
    """Print one step of the decoder, layer by layer."""
    from ctxembed.inspection.decoding import size_rows

    click.echo(f"The sentence, encoded to one vector: {step.text}\nwritten so far: {' '.join(step.tokens)}")
    for number, layer in enumerate(step.layers, start=1):
        weights = layer.look_back.weights
        echo_matrix(
            f"layer {number}, masked self-attention (mean over heads): a row looks at itself and what is before",
            weights.mean(axis=0),
            step.tokens,
            step.tokens,
            digits=2,
        )
        click.echo(f"\nlayer {number}, at {step.tokens[-1]}, which is about to be followed: weights by head")
        heads = {f"head {head + 1}": weights[head, -1] for head in range(len(weights))}
        across = layer.look_across.weights[:, -1]
        rows: list[dict[str, Any]] = [
            {"looks at": token, **{name: float(row[place]) for name, row in heads.items()}}
            for place, token in enumerate(step.tokens)
        ]
        memory = dict(zip(heads, map(float, across[:, 0]), strict=True))
        rows.append({"looks at": "the sentence's vector (encoder-decoder)", **memory})
        print_table(rows)
    click.echo("\nhow much each part adds (length of the vector)")
    print_table(size_rows(step))
    click.echo(
        "\nThe memory is one vector, so every encoder-decoder weight is one: what counts is the value it hands over."
    )
    click.echo("\nwhat comes next")
    print_table([{"token": token, "probability": chance} for token, chance in step.likeliest])


def decoder_record(step: DecoderStep) -> dict[str, Any]:
    """Return one step of the decoder as JSON can hold it."""
    from ctxembed.inspection.decoding import size_rows

    return {
        "text": step.text,
        "tokens": list(step.tokens),
        "layers": [
            {
                "self_attention": steps_record(layer.look_back),
                "memory_attention": steps_record(layer.look_across),
                **sizes,
            }
            for layer, sizes in zip(step.layers, size_rows(step), strict=True)
        ],
        "next": [{"token": token, "probability": round(chance, 6)} for token, chance in step.likeliest],
    }
