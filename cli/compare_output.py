"""How `ctxembed compare` shows what it found: tables on a terminal, one JSON object, or rows of one kind."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from ctxembed.meaning.compare import letter, marked, pairs, parting_layer, scale_note

from .output import print_table, say

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from rich.table import Table
    from rich.text import Text

    from ctxembed.meaning.compare import Comparison, Findings
    from ctxembed.meaning.occlusion import Influence
    from ctxembed.meaning.sense_folder import NearSense
    from ctxembed.types import Vectors

MOST_IN_MATRIX = 12
"""Uses that a matrix on a terminal has room for."""
MOST_INFLUENCES = 6
"""Context words that the table shows for each use; the other formats have all."""


# Tables


@dataclass(frozen=True)
class Matrix:
    """Numbers of pairs of uses under a title; NaN shows as a dash."""

    title: str
    values: NDArray[Any]


def print_findings(found: Findings) -> None:
    """Print the uses, the matrices side by side, and whatever else was asked for, as tables."""
    result = found.comparison
    print_table([{"use": letter(n), "text": use_text(found, n)} for n in range(len(result.usages))])
    if result.static is not None:
        unknown = [u.word for u, value in zip(result.usages, result.static.diagonal(), strict=True) if value != value]
        if unknown:
            say(f"no static vector for: {', '.join(dict.fromkeys(unknown))}")
    if len(result.usages) <= MOST_IN_MATRIX:
        print_matrices(matrices(found))
    else:
        say(f"{len(result.usages)} uses are too many for matrices here: --html, or --format json or csv, has them")
    if found.calibration is not None:
        click.echo(f"\n{scale_note(found)}")
    if found.why:
        click.echo("\nwithout a word of its context the word's vector moves by (1 - cosine)")
        print_table(influence_rows(found, most=MOST_INFLUENCES))
    if found.swaps:
        click.echo("\nwith another word in its context")
        print_table(swap_rows(found))
    if found.layers:
        click.echo("\nlayer by layer" + (" (0 is the embedding: no context yet)" if found.layers[0].layer == 0 else ""))
        print_table(layer_table(found))
        if (layer := parting_layer(found.layers)) is not None:
            click.echo(f"the senses part most in layer {layer}, on each layer's own scale of probability")
    if found.senses:
        click.echo("\nthe stored sense each use is nearest to")
        print_table(sense_rows(found))
    if any(result.nearest):
        click.echo(f"\nused most like it in {found.background}")
        print_table([{"use": letter(n), "words": joined(near)} for n, near in enumerate(nearest_pairs(result))])
    if any(result.nearest_static):
        click.echo(f"\nnearest by static lookup in {found.static_model}")
        words = dict(zip((usage.word for usage in result.usages), result.nearest_static, strict=True))
        print_table([{"word": word, "words": joined(near)} for word, near in words.items() if near])


def joined(near: Sequence[tuple[str, float]]) -> str:
    """Write words with their similarities."""
    return ", ".join(f"{word} {similarity:.2f}" for word, similarity in near)


def sense_cells(near: NearSense | None) -> dict[str, Any]:
    """Return a stored sense and how near it is; empty for a word without."""
    return {"sense": near.id if near else None, "similarity": round(near.similarity, 6) if near else None}


def sense_rows(found: Findings) -> list[dict[str, Any]]:
    """Return a row for each use: the stored sense that it is nearest to."""
    return [{"use": letter(number)} | sense_cells(each) for number, each in enumerate(found.senses)]


def nearest_pairs(result: Comparison) -> list[list[tuple[str, float]]]:
    """Return word and similarity of the nearest words of each use."""
    return [[(near.word, near.similarity) for near in words] for words in result.nearest]


def matrices(found: Findings) -> list[Matrix]:
    """Return what is known of each pair: cosine in context, probability of the same sense, cosine of the lookup."""
    shown = [Matrix(f"in context: {found.model}", found.comparison.contextual)]
    if found.calibration is not None and len(found.comparison.usages) > 1:
        shown.append(Matrix("same sense: probability", found.calibration.probability(found.comparison.contextual)))
    if found.comparison.static is not None:
        shown.append(Matrix(f"static lookup: {found.static_model}", found.comparison.static))
    return shown


def use_text(found: Findings, number: int) -> Text:
    """Write a use with its word in brackets; where the influences are known, they shade their words on a terminal."""
    from rich.text import Text

    usage = found.comparison.usages[number]
    text = Text(marked(usage))
    influences = found.why[number] if found.why else ()
    top = max((each.move for each in influences), default=0.0)
    for each in influences:
        shift = 2 if each.start >= usage.end else 0
        if top > 0:
            text.stylize(heat(each.move / top), each.start + shift, each.end + shift)
    return text


def heat(strength: float) -> str:
    """Return the style of a cell or word: from white for 0 to blue for 1."""
    part = min(1.0, max(0.0, strength))
    red, green, blue = (round(255 + part * (end - 255)) for end in (0, 114, 178))
    return f"{'white' if part > 0.65 else 'black'} on #{red:02x}{green:02x}{blue:02x}"


def print_matrices(shown: Sequence[Matrix]) -> None:
    """Print matrices beside each other as far as the terminal is wide, shaded where it has colours."""
    from rich.columns import Columns
    from rich.console import Console, Group
    from rich.padding import Padding

    console = Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else 160)
    click.echo()
    blocks = [Group(matrix.title, matrix_table(matrix)) for matrix in shown]
    console.print(Columns([Padding(block, (0, 4, 0, 0)) for block in blocks]))


def matrix_table(matrix: Matrix) -> Table:
    """Return the values as a table with letters for rows and columns."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for number in range(len(matrix.values)):
        table.add_column(letter(number), justify="right", no_wrap=True)
    for number, values in enumerate(matrix.values):
        cells = [Text(f"{value:.2f}", heat(value)) if value == value else Text("-") for value in values]
        table.add_row(letter(number), *cells)
    return table


def influence_rows(found: Findings, *, most: int | None = None) -> list[dict[str, Any]]:
    """Return a row for each use and context word, most influential first; of two uses also the pull to the other."""
    rows = []
    for number, influences in enumerate(found.why):
        for each in influences[:most]:
            row = {"use": letter(number), "without": each.word, "moves": round(each.move, 6)}
            rows.append(row | pulls(found, number, each) | {"start": each.start, "end": each.end})
    if most is not None:  # a table needs no places
        rows = [{name: value for name, value in row.items() if name not in ("start", "end")} for row in rows]
    return rows


def pulls(found: Findings, number: int, influence: Influence) -> dict[str, float | None]:
    """Return the pull of a context word towards the other use, where there are two."""
    if len(found.comparison.usages) != 2:
        return {}
    return {"towards other use": optional(influence.towards[1 - number])}


def swap_rows(found: Findings) -> list[dict[str, Any]]:
    """Return a row for each swap; of two uses also the similarity to the other before and after."""
    rows = []
    for each in found.swaps:
        row: dict[str, Any] = {"use": letter(each.use), "text": marked(each.usage), "drift": round(each.drift, 6)}
        if len(found.comparison.usages) == 2:
            row |= {"before": round(each.before[1 - each.use], 6), "after": round(each.after[1 - each.use], 6)}
            if found.calibration is not None:
                row["same sense"] = float(found.calibration.probability(row["after"]).round(6))
        rows.append(row)
    return rows


def layer_rows(found: Findings) -> list[dict[str, Any]]:
    """Return a row for each layer and pair of uses."""
    rows = []
    for view in found.layers:
        for first, second in pairs(len(view.similarities)):
            similarity = float(view.similarities[first, second])
            row: dict[str, Any] = {"layer": view.layer, "first": letter(first), "second": letter(second)}
            row["similarity"] = round(similarity, 6)
            if view.calibration is not None:
                row["probability"] = float(view.calibration.probability(similarity).round(6))
            rows.append(row)
    return rows


def layer_table(found: Findings) -> list[dict[str, Any]]:
    """Return a row for each layer: every pair where there is room, else the least, middle and greatest similarity."""
    import numpy as np

    columns = pairs(len(found.comparison.usages))
    rows = []
    for view in found.layers:
        row: dict[str, Any] = {"layer": view.layer}
        values = [float(view.similarities[i, j]) for i, j in columns]
        if len(columns) <= 6:
            names = [f"{letter(i)}{letter(j)}" for i, j in columns]
            row |= dict(zip(names, values, strict=True))
            if view.calibration is not None:
                chance = view.calibration.probability(values).tolist()
                row |= {f"{name} same": each for name, each in zip(names, chance, strict=True)}
        else:
            row |= {"lowest": min(values), "median": float(np.median(values)), "highest": max(values)}
        rows.append(row)
    return rows


# JSON and rows


def findings_record(found: Findings) -> dict[str, Any]:
    """Return the findings as JSON can hold them; null where there is no static vector."""
    result = found.comparison
    record: dict[str, Any] = {
        "model": found.model,
        "static_model": found.static_model,
        "background": found.background,
        "uses": [use_record(found, number) for number in range(len(result.usages))],
        "contextual": matrix_lists(result.contextual),
        "static": None if result.static is None else matrix_lists(result.static),
    }
    record |= scale_record(found)
    if found.swaps:
        record["swaps"] = [
            {
                "use": each.use,
                "from": each.old,
                "to": each.new,
                "text": each.usage.text,
                "start": each.usage.start,
                "end": each.usage.end,
                "drift": round(each.drift, 6),
                "before": rounded(each.before),
                "after": rounded(each.after),
            }
            for each in found.swaps
        ]
    if found.layers:
        record["parting_layer"] = parting_layer(found.layers)
        record["layers"] = [
            {
                "layer": view.layer,
                "similarities": matrix_lists(view.similarities),
                "probability": None
                if view.calibration is None
                else matrix_lists(view.calibration.probability(view.similarities)),
            }
            for view in found.layers
        ]
    return record


def scale_record(found: Findings) -> dict[str, Any]:
    """Return what the calibrated scale says of each pair, and the scale; nothing without one."""
    result, scale = found.comparison, found.calibration
    if scale is None:
        return {}
    record: dict[str, Any] = {"probability": matrix_lists(scale.probability(result.contextual))}
    if scale.quantiles:
        record["percentile"] = matrix_lists(scale.percentile(result.contextual))
    if result.static is not None and found.static_calibration is not None:
        record["static_probability"] = matrix_lists(found.static_calibration.probability(result.static))
    names = ("fitted_on", "threshold", "slope", "intercept")
    return record | {"calibration": {name: getattr(scale, name) for name in names}}


def use_record(found: Findings, number: int) -> dict[str, Any]:
    """Return one use with its neighbours and, if that was asked for, the influence of each context word."""
    result = found.comparison
    usage, near = result.usages[number], result.nearest[number] if result.nearest else ()
    record: dict[str, Any] = {
        "word": usage.word,
        "text": usage.text,
        "start": usage.start,
        "end": usage.end,
        "nearest": [
            {"word": n.word, "similarity": round(n.similarity, 6), "text": n.text, "start": n.start, "end": n.end}
            for n in near
        ],
    }
    if result.nearest_static:
        words = result.nearest_static[number]
        record["nearest_static"] = [{"word": word, "similarity": round(value, 6)} for word, value in words]
    if found.senses:
        record["sense"] = sense_cells(found.senses[number])
    if found.why:
        record["why"] = [
            {
                "word": each.word,
                "start": each.start,
                "end": each.end,
                "move": round(each.move, 6),
                "towards": [optional(value) for value in each.towards],
            }
            for each in found.why[number]
        ]
    return record


def pair_rows(found: Findings) -> list[dict[str, Any]]:
    """Return a row for each pair of uses."""
    result, scale = found.comparison, found.calibration
    rows = []
    for i, j in pairs(len(result.usages)):
        row: dict[str, Any] = {"first": marked(result.usages[i]), "second": marked(result.usages[j])}
        row["contextual"] = optional(result.contextual[i, j])
        row["static"] = None if result.static is None else optional(result.static[i, j])
        if scale is not None:
            row["probability"] = optional(scale.probability(result.contextual[i, j]))
            row["percentile"] = optional(scale.percentile(result.contextual[i, j])) if scale.quantiles else None
        rows.append(row)
    return rows


def matrix_lists(matrix: NDArray[Any] | Vectors) -> list[list[float | None]]:
    """Return a matrix as lists, NaN as None."""
    return [[optional(value) for value in row] for row in matrix]


def optional(value: Any) -> float | None:
    """Round a number to six decimals; None stays None, and NaN becomes it."""
    return None if value is None or value != value else round(float(value), 6)


def rounded(values: Sequence[float]) -> list[float]:
    """Round numbers to six decimals."""
    return [round(value, 6) for value in values]
