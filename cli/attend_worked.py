"""What `ctxembed attend --worked` prints: the worked example of the lesson, step by step."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import click

from .matrices import echo_matrix, lists
from .output import print_table

if TYPE_CHECKING:
    from ctxembed.inspection.recording import AttentionSteps
    from ctxembed.inspection.worked import ScalingRow, Worked


def print_worked(worked: Worked, scaling: list[ScalingRow]) -> None:
    """Print every matrix of the worked example, the experiment about √d_k, and the same with random W and heads."""
    words, one = worked.words, worked.by_hand
    click.echo("Attention by hand: three words of four numbers each, computed by the code that serves (float64).")
    echo_matrix("1. the words: X", worked.vectors, words)
    click.echo("\n2. W_Q = W_K = W_V = I, so the queries, keys and values are the words themselves")
    for name, matrix in (("Q", one.query), ("K", one.key), ("V", one.value)):
        echo_matrix(f"{name} = X W_{name}", matrix[0], words)
    echo_matrix("3. raw scores Q K^T: a row for each query; columns are the keys THE, CAT, SAT", one.scores[0], words)
    echo_matrix("4. scaled scores: divided by sqrt(d_k) = 2", one.scaled[0], words)
    print_scaling(scaling)
    two = " and ".join(f"{weight:.2f}" for weight in worked.two_weights)
    click.echo(f"\n6. softmax makes scores weights: softmax([6, 4]) = {two}, and each row of weights sums to one")
    echo_matrix("weights = softmax(scaled scores)", one.weights[0], words)
    echo_matrix("7. the weighted sum: weights V", one.mixed[0], words)
    print_heads(worked)


def print_scaling(scaling: list[ScalingRow]) -> None:
    """Print the experiment about √d_k."""
    click.echo(
        "\n5. why divide? Random queries and keys of variance one: the variance of a score is d_k. Undivided\n"
        "   scores explode, and with them the gradient before the softmax (of a score in its query); the softmax\n"
        "   saturates, and the gradient behind it (of the weights, at the scores) vanishes. Divided, d_k is no matter."
    )
    print_table([asdict(row) for row in scaling])


def print_heads(worked: Worked) -> None:
    """Print the example with random W: split into heads, each head alone, joined again."""
    many, words = worked.random, worked.words
    heads = len(many.query)
    click.echo(f"\n8. random W, {heads} heads: X W has four columns, each head takes {many.query.shape[-1]} of them")
    for head in range(heads):
        for name, matrix in (("Q", many.query), ("K", many.key), ("V", many.value)):
            echo_matrix(f"head {head + 1}: {name}", matrix[head], words)
        echo_matrix(f"head {head + 1}: weights", many.weights[head], words)
        echo_matrix(f"head {head + 1}: weighted sum", many.mixed[head], words)
    echo_matrix("9. the heads side by side", many.joined, words)
    echo_matrix("10. what W_O makes of them: the output of multi-head attention", many.output, words)


def worked_record(worked: Worked, scaling: list[ScalingRow]) -> dict[str, Any]:
    """Return the worked example as JSON can hold it."""
    return {
        "words": list(worked.words),
        "vectors": lists(worked.vectors),
        "identity": steps_record(worked.by_hand),
        "softmax": {"scores": [6, 4], "weights": lists(worked.two_weights)},
        "scaling": [asdict(row) for row in scaling],
        "random": steps_record(worked.random),
    }


def steps_record(steps: AttentionSteps) -> dict[str, Any]:
    """Return every step of an attention as nested lists."""
    return {each.name: lists(getattr(steps, each.name)) for each in fields(steps)}
