"""What `ctxembed attend SENTENCE...` prints: one word's attention by head, and what all heads do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import click

from ctxembed.config import check

from .matrices import echo_matrix, lists
from .output import print_table

if TYPE_CHECKING:
    from ctxembed.inspection.heads import HeadProfile
    from ctxembed.inspection.recording import Array, AttentionSteps
    from ctxembed.inspection.trace import Trace
    from ctxembed.model.checkpoint import Checkpoint

ASKED = ("query", "key", "value", "scores", "mixed")
"""The steps of the word that asks that JSON holds, by their names."""


@dataclass(frozen=True)
class View:
    """One sentence in a model, and what of it is to be shown."""

    trace: Trace
    unit: int | None
    """The unit that asks; None shows all of them."""
    layer: int
    """From 1."""
    heads: tuple[int, ...]
    """From 1: those to show."""

    @classmethod
    def of(cls, text: str, model: Checkpoint, *, word: str | None, layer: int, head: int | None) -> Self:
        """Run a sentence, its word marked or named or neither.

        Raises:
            InvalidInputError: If the word, layer or head does not exist.
        """
        from ctxembed.inspection.trace import trace_sentence

        from .compare_uses import read_usage

        usage = None
        if word is not None:
            usage = read_usage(text, word)
        elif "[" in text and "]" in text:
            usage = read_usage(text, None)
        trace = trace_sentence(model, text if usage is None else usage.text)
        num_layers, num_heads = len(trace.layers), trace.num_heads
        number = num_layers + 1 + layer if layer < 0 else layer
        check(1 <= number <= num_layers, f"layer = {layer}: {model.name} has layers 1 to {num_layers}, -1 is the last")
        check(head is None or head <= num_heads, f"head = {head}: {model.name} has heads 1 to {num_heads}")
        unit = None if usage is None else trace.unit_of(usage.start)
        return cls(trace, unit, number, tuple(range(1, num_heads + 1)) if head is None else (head,))

    @property
    def steps(self) -> AttentionSteps:
        """The attention of the layer."""
        return self.trace.layers[self.layer - 1].attention

    @property
    def names(self) -> list[str]:
        """The units as they are written."""
        return [unit.text for unit in self.trace.units]

    @property
    def rows(self) -> slice:
        """The tokens of the unit that asks."""
        unit = self.trace.units[self.unit or 0]
        return slice(unit.first, unit.end)

    def word_weights(self) -> Array:
        """Return the weights between units, (H, U, U), of the layer."""
        from ctxembed.inspection.heads import by_words

        return by_words(self.steps.weights, self.trace.units)

    def rolled(self) -> Array:
        """Return the rollout between units, (U, U), of all layers up to this one."""
        from ctxembed.inspection.heads import by_words, rollout

        weights = [steps.attention.weights for steps in self.trace.layers[: self.layer]]
        return by_words(rollout(weights), self.trace.units)

    def vectors(self) -> Array | None:
        """Return the vector of the unit that asks in every layer, (L + 1, D)."""
        from ctxembed.inspection.heads import layer_vectors

        return None if self.unit is None else layer_vectors(self.trace, self.unit)


def print_views(views: list[View]) -> None:
    """Print each sentence, then its words side by side."""
    for view in views:
        click.echo(f"\n{view.trace.text}\ntokens: {' '.join(view.trace.tokens)}")
        if view.unit is None:
            _print_all_words(view)
        else:
            _print_word(view, view.unit)
    for view in views:
        _print_heads(view, several=len(views) > 1)
    _print_layers(views)
    from ctxembed.inspection.heads import CAUTION

    click.echo(f"\n{CAUTION}")


def _print_all_words(view: View) -> None:
    weights, names = view.word_weights(), view.names
    if len(view.heads) == 1:
        title, shown = f"head {view.heads[0]}", weights[view.heads[0] - 1]
    else:
        title, shown = "mean over its heads", weights.mean(axis=0)
    echo_matrix(f"layer {view.layer}, {title}: weights, each row from one word", shown, names, names, digits=2)
    echo_matrix(f"rollout of layers 1 to {view.layer}", view.rolled(), names, names, digits=2)


def _print_word(view: View, number: int) -> None:
    steps, names, head = view.steps, view.names, view.heads[0]
    tokens = list(view.trace.tokens[view.rows])
    for name, matrix in (("Q", steps.query), ("K", steps.key), ("V", steps.value)):
        echo_matrix(f"layer {view.layer}, head {head}: {name} of {names[number]}", matrix[head - 1, view.rows], tokens)
    scores, weights, rolled = _word_scores(view), view.word_weights()[:, number], view.rolled()[number]
    rows = []
    for there, name in enumerate(names):
        row: dict[str, Any] = {"looks at": name, f"score, head {head}": float(scores[head - 1, there])}
        row |= {f"head {each}": float(weights[each - 1, there]) for each in view.heads}
        rows.append(row | {"mean": float(weights[:, there].mean()), "rollout": float(rolled[there])})
    click.echo(f"\nlayer {view.layer}: {names[number]} looks at each word (score = q k / sqrt(d_k); weights by head)")
    print_table(rows)


def _word_scores(view: View) -> Array:
    """Return the scaled scores of the unit that asks, (H, U): the mean over the tokens of both."""
    import numpy as np

    units = view.trace.units
    own = view.steps.scaled[:, view.rows].mean(axis=1)  # (H, T)
    sizes = [unit.end - unit.first for unit in units]
    result: Array = np.add.reduceat(own, [unit.first for unit in units], axis=-1) / sizes
    return result


def _print_heads(view: View, *, several: bool) -> None:
    from ctxembed.inspection.heads import head_profiles

    rows = [profile_record(profile) for profile in head_profiles(view.trace)]
    about = f" in: {view.trace.text}" if several else ""
    click.echo(f"\nwhat the heads look at: shares of the words' attention{about}")
    print_table(rows)


def _print_layers(views: list[View]) -> None:
    rows = layer_rows(views)
    if not rows:
        return
    alike = len(rows[0]) > len(views) + 1
    click.echo(
        "\nleaving the static vector: cosine of the word's vector in each layer with that in the embedding layer (0)"
        + (", and of the uses with each other" if alike else "")
    )
    print_table(rows)


def layer_rows(views: list[View]) -> list[dict[str, Any]]:
    """Return a row for each layer: cosines of each use with its embedding, and of the first use with the others."""
    from ctxembed.inspection.heads import cosines, leaving_the_static

    asking = [
        (f"{'ABCDEFGHIJKLMNOPQRSTUVWXYZ'[number % 26]} {view.names[view.unit]}", vectors)
        for number, view in enumerate(views)
        if view.unit is not None and (vectors := view.vectors()) is not None
    ]
    if not asking:
        return []
    columns = {f"{name}, layer 0": leaving_the_static(vectors) for name, vectors in asking}
    first, *others = asking
    columns |= {f"{first[0]} and {name}": cosines(first[1], vectors) for name, vectors in others}
    return [
        {"layer": layer} | {name: round(float(values[layer]), 6) for name, values in columns.items()}
        for layer in range(len(first[1]))
    ]


def profile_record(profile: HeadProfile) -> dict[str, Any]:
    """Return a head's profile as one row."""
    from ctxembed.inspection.heads import LOOKS

    row: dict[str, Any] = {"layer": profile.layer, "head": profile.head, "entropy": round(profile.entropy, 6)}
    row |= {"of log T": round(profile.evenness, 6)}
    row |= {look: round(share, 6) for look, share in zip(LOOKS, profile.shares, strict=True)}
    return row | {"looks at": profile.looks_at}


def views_record(views: list[View]) -> dict[str, Any]:
    """Return everything that is shown as JSON can hold it, with all columns."""
    from ctxembed.inspection.heads import CAUTION

    return {
        "model": views[0].trace.model,
        "sentences": [_view_record(view) for view in views],
        "layers": layer_rows(views),
        "caution": CAUTION,
    }


def _view_record(view: View) -> dict[str, Any]:
    from ctxembed.inspection.heads import head_profiles

    trace, chosen = view.trace, [head - 1 for head in view.heads]
    record: dict[str, Any] = {
        "text": trace.text,
        "tokens": list(trace.tokens),
        "words": [{"text": unit.text, "kind": unit.kind, "first": unit.first, "end": unit.end} for unit in trace.units],
        "layer": view.layer,
        "heads": list(view.heads),
        "weights": lists(view.word_weights()[chosen]),
        "rollout": lists(view.rolled()),
        "profiles": [profile_record(profile) for profile in head_profiles(trace)],
    }
    if view.unit is not None:
        steps, rows = view.steps, view.rows
        record["asks"] = {
            "word": trace.units[view.unit].text,
            "number": view.unit,
            **{name: lists(getattr(steps, name)[chosen, rows]) for name in ASKED},
            "word_scores": lists(_word_scores(view)[chosen]),
            "word_weights": lists(view.word_weights()[chosen, view.unit]),
        }
    return record


def pair_rows(views: list[View]) -> list[dict[str, Any]]:
    """Return a row for each head and each pair of words, from the word that asks or from all."""
    return [
        {
            "text": view.trace.text,
            "layer": view.layer,
            "head": head,
            "query": view.names[asking],
            "key": view.names[there],
            "query_word": asking,
            "key_word": there,
            "weight": round(float(weights[head - 1, asking, there]), 6),
        }
        for view in views
        for weights in [view.word_weights()]
        for head in view.heads
        for asking in ([view.unit] if view.unit is not None else range(len(view.names)))
        for there in range(len(view.names))
    ]
