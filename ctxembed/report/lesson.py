"""The lesson's page: one sentence, step by step through attention and a whole layer, with every matrix to look at.

The page holds the recorded float32 numbers themselves; ``lesson.js`` beside this file shows those of the layer and head
that are chosen, and computes nothing.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from ctxembed.inspection.heads import (
    CAUTION,
    LOOKS,
    by_words,
    cosines,
    head_profiles,
    layer_vectors,
    leaving_the_static,
    rollout,
)
from ctxembed.inspection.positions import PositionReport
from ctxembed.inspection.recording import Array, AttentionSteps
from ctxembed.inspection.trace import LayerSteps, Trace
from ctxembed.inspection.worked import ScalingRow, Worked
from ctxembed.report.charts import heatmap, lines
from ctxembed.report.page import details, marked_text, paragraph, render_page, section, table, write_page
from ctxembed.report.positions import positions_sections

SCRIPT = Path(__file__).with_name("lesson.js")
STYLE = """
.controls { padding: .6rem 0; }
@media (min-height: 60rem) {
  html { scroll-padding-top: 14rem; }
  .controls { position: sticky; top: 0; z-index: 1; }
}
.controls { background: var(--paper); border-bottom: 1px solid var(--line); }
.controls p { margin: .3rem 0 0; }
.controls label { margin-right: 1rem; white-space: nowrap; }
.controls select, button { font: inherit; color: inherit; background: transparent; padding: .15rem .5rem; }
.controls select, button { border: 1px solid var(--faint); border-radius: .3rem; max-width: 24rem; }
.controls select option { color: #1a1a1a; background: #fff; }
#steps { display: flex; flex-wrap: wrap; gap: .3rem; list-style: none; padding: 0; margin: .6rem 0 0; }
button[aria-current] { background: #0072b2; color: #fff; }
.matrix { overflow-x: auto; }
.matrix table { display: table; }
.matrix td, .matrix th { padding: .15rem .45rem; font-size: .85rem; }
.matrix td, .matrix th[scope=col] { text-align: right; }
.matrix tr.chosen th { outline: 2px solid #d55e00; outline-offset: -2px; }
.pager button { margin-right: .4rem; }
[hidden] { display: none; }
"""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the lesson: what happens, and the matrices that show it."""

    title: str
    text: str
    matrices: tuple[tuple[str, str], ...]
    """Names of matrices as the data has them, each with what it is."""
    picture: bool = False
    """Draw the weights as lines between words too."""


EMBEDDING = Step(
    "Embedding",
    "Each token picks its row of the embedding table: the static vector, the same wherever the token stands. What "
    "says where it stands is added here, or (rotary positions) turns Q and K in the next step. Then the vector is "
    "normalised.",
    (
        ("token", "rows of the embedding table"),
        ("position", "what is added for the place"),
        ("embedded", "what enters layer 1"),
    ),
)
ATTENTION = (
    Step(
        "Q, K, V",
        "Three learned maps of the same vectors. The query says what a token looks for, the key what it offers, the "
        "value what it hands over. A head sees its own share of the columns.",
        (("query", "Q"), ("key", "K"), ("value", "V")),
    ),
    Step(
        "Scores",
        "Each query meets each key: a row of raw scores for every token that asks, Q Kᵀ.",
        (("scores", "Q Kᵀ"),),
    ),
    Step(
        "Scaling",
        "A score adds up d_k products, so its variance grows with d_k. Divided by √d_k it stays where the softmax "
        "still learns.",
        (("scaled", "Q Kᵀ / √d_k"),),
    ),
    Step(
        "Softmax",
        "The exponential of each score, divided by the row's sum: positive weights that sum to one in each row.",
        (("weights", "weights"),),
        picture=True,
    ),
    Step(
        "Weighted sum",
        "Each token takes a mixture of all values, by its weights.",
        (("mixed", "weights × V"),),
    ),
    Step(
        "Heads",
        "All heads do this at once, each with its own Q, K and V. The results are laid side by side; W_O mixes them.",
        (("joined", "the heads side by side"), ("output", "what W_O makes of them")),
    ),
)
LAYER = (
    Step(
        "Residual",
        "What attention found is added to what the token was: the layer changes a vector, it does not replace it. "
        "Layer normalisation stands before each part (pre-norm) or after each sum (post-norm).",
        (
            ("given", "what entered the layer"),
            ("asked", "what attention read"),
            ("output", "what attention found"),
            ("residual", "their sum"),
        ),
    ),
    Step(
        "Feed-forward",
        "Two linear maps with a non-linearity between them, for each token alone; the result is added again.",
        (
            ("fed", "what the feed-forward part reads"),
            ("inner", "inside, after the non-linearity"),
            ("feed_forward", "what it finds"),
            ("layer_output", "what leaves the layer"),
        ),
    ),
)


def write_lesson_page(
    path: Path, views: Sequence[tuple[Trace, int | None]], *, positions: PositionReport | None = None
) -> None:
    """Write the page of some sentences, each with the unit that asks, if one was named; and of the model's positions.

    Raises:
        DiskFullError: If there is no room.
    """
    sentences = [_sentence_data(trace, unit) for trace, unit in views]
    steps = (EMBEDDING, *ATTENTION, *LAYER)
    parts = [
        paragraph(f"Computed by {views[0][0].model} in float32; every number is the library's own."),
        _sentences(views),
    ]
    parts += _stepper(sentences, steps)
    parts += [_whole_network(trace, unit) for trace, unit in views]
    parts += _side_by_side(views)
    parts += positions_sections(positions) if positions is not None else []
    parts.append(section("What attention does not say", paragraph(CAUTION)))
    title = f"Inside the Transformer: {views[0][0].text}"
    _write(path, title, parts, sentences)


def write_worked_page(path: Path, worked: Worked, scaling: Sequence[ScalingRow]) -> None:
    """Write the page of the worked example: W = I first, then random W with several heads.

    Raises:
        DiskFullError: If there is no room.
    """
    layers = [
        {"label": "W = I, one head", **_attention_data(worked.by_hand)},
        {"label": f"random W, {len(worked.random.query)} heads", **_attention_data(worked.random)},
    ]
    words = list(worked.words)
    data = {
        "text": " ".join(words),
        "tokens": words,
        "chosen": 0,
        "embedded": _packed(worked.vectors),
        "layers": layers,
    }
    first = Step("The words", "Three words, four numbers each.", (("embedded", "X"),))
    parts = [paragraph("The worked example, computed by the code that serves."), *_stepper([data], (first, *ATTENTION))]
    two = " and ".join(f"{weight:.2f}" for weight in worked.two_weights)
    parts.append(
        section(
            "Why divide by √d_k",
            table([asdict(row) for row in scaling], caption="random queries and keys of variance one, 16 keys each"),
            paragraph(f"And a softmax of two scores: softmax([6, 4]) = {two}."),
        )
    )
    _write(path, "Attention by hand: THE CAT SAT", parts, [data])


def _write(path: Path, title: str, parts: Sequence[Markup], sentences: Sequence[Mapping[str, Any]]) -> None:
    script = SCRIPT.read_text(encoding="utf-8")
    write_page(path, render_page(title, parts, data={"sentences": sentences}, style=STYLE, script=script))


def _packed(matrix: Array) -> dict[str, Any]:
    """Return a matrix as its shape and its little-endian float32 bytes in base64."""
    data = np.ascontiguousarray(matrix, dtype="<f4")
    return {"shape": list(data.shape), "data": base64.b64encode(data.tobytes()).decode("ascii")}


def _attention_data(steps: AttentionSteps) -> dict[str, Any]:
    names = [name for step in ATTENTION for name, _ in step.matrices]
    return {name: _packed(getattr(steps, name)) for name in names}


def _layer_data(number: int, steps: LayerSteps) -> dict[str, Any]:
    own = {name: getattr(steps, name) for name in ("given", "asked", "residual", "fed", "inner", "feed_forward")}
    packed = {name: _packed(matrix) for name, matrix in {**own, "layer_output": steps.output}.items()}
    return {"label": f"layer {number}", **_attention_data(steps.attention), **packed}


def _sentence_data(trace: Trace, unit: int | None) -> dict[str, Any]:
    embedding = trace.embedding
    data = {"token": embedding.token, "position": embedding.position, "embedded": embedding.output}
    return {
        "text": trace.text,
        "tokens": list(trace.tokens),
        "chosen": 1 if unit is None else trace.units[unit].first,
        **{name: _packed(matrix) for name, matrix in data.items() if matrix is not None},
        "layers": [_layer_data(number, steps) for number, steps in enumerate(trace.layers, start=1)],
    }


def _sentences(views: Sequence[tuple[Trace, int | None]]) -> Markup:
    """Return each sentence with its word marked, and how it was cut into tokens."""
    shown = []
    for trace, number in views:
        unit = None if number is None else trace.units[number]
        spans = [] if unit is None else [(unit.start, unit.start + len(unit.text))]
        rows = [{"word": each.text, "tokens": " ".join(trace.tokens[each.first : each.end])} for each in trace.units]
        shown += [
            Markup("<p>{}</p>").format(marked_text(trace.text, spans)),
            details(f"its {len(trace.tokens)} tokens", table(rows)),
        ]
    return section("The sentence" if len(views) == 1 else "The sentences", *shown)


def _stepper(sentences: Sequence[Mapping[str, Any]], steps: Sequence[Step]) -> list[Markup]:
    """Return the controls and a section for each step; the script fills and hides them."""
    buttons = Markup("").join(
        Markup('<li><button type="button" data-step="{}">{}. {}</button></li>').format(n, n + 1, step.title)
        for n, step in enumerate(steps)
    )
    choices = Markup("").join(
        Markup('<label>{} <select id="{}"></select></label>').format(label, name)
        for label, name in (("Sentence", "sentence"), ("Layer", "layer"), ("Head", "head"), ("Token that asks", "asks"))
    )
    controls = Markup(
        '<nav class="controls" aria-label="Steps of the lesson">{}<ol id="steps">{}</ol>'
        '<p class="note">Choose a step, or go with the arrow keys while one is focused.</p>'
        '<p id="now" class="note" role="status"></p></nav>'
        "<noscript><p>The matrices are shown by a script inside this page, which is switched off here.</p></noscript>"
    ).format(choices, buttons)
    return [controls, *(_step_section(number, step, sentences) for number, step in enumerate(steps))]


def _step_section(number: int, step: Step, sentences: Sequence[Mapping[str, Any]]) -> Markup:
    first = {**sentences[0], **sentences[0]["layers"][0]}
    places = Markup("\n").join(
        Markup('<div class="matrix" data-name="{}" data-label="{}"></div>').format(name, label)
        for name, label in step.matrices
        if name in first
    )
    picture = Markup('<div class="weights-picture"></div>') if step.picture else Markup("")
    return Markup(
        '<section class="step" data-step="{0}" aria-labelledby="step-{0}">'
        '<h2 id="step-{0}" tabindex="-1">{1}. {2}</h2>{3}\n{4}{5}</section>'
    ).format(number, number + 1, step.title, paragraph(step.text), places, picture)


def _side_by_side(views: Sequence[tuple[Trace, int | None]]) -> list[Markup]:
    """Return how alike the uses of the marked words are in each layer: the first with each of the others."""
    uses = [(trace, unit) for trace, unit in views if unit is not None]
    if len(uses) < 2:
        return []
    first, *others = (layer_vectors(trace, unit) for trace, unit in uses)
    series = {
        f"{trace.units[unit].text} in: {trace.text}": list(enumerate(map(float, cosines(first, other))))
        for (trace, unit), other in zip(uses[1:], others, strict=True)
    }
    trace, unit = uses[0]
    return [
        section(
            "Side by side",
            lines(
                series,
                x_label="layer",
                y_label="cosine",
                caption=f"Cosine with {trace.units[unit].text} in: {trace.text}. In the embedding layer the uses of a "
                "word differ by their place at most; what parts them then is their context, layer by layer.",
            ),
        )
    ]


def _whole_network(trace: Trace, unit: int | None) -> Markup:
    """Return what all layers do together: rollout, the heads, and how the words leave their static vectors."""
    names = [each.text for each in trace.units]
    rolled = by_words(rollout([steps.attention.weights for steps in trace.layers]), trace.units)
    words = [number for number, each in enumerate(trace.units) if each.kind == "word"]
    leaving = {
        f"{names[number]} ({number})": list(enumerate(map(float, leaving_the_static(layer_vectors(trace, number)))))
        for number in (words if unit is None else [unit])[:6]
    }
    rows = [
        {"layer": each.layer, "head": each.head, "entropy": each.entropy}
        | dict(zip(LOOKS, each.shares, strict=True))
        | {"looks at": each.looks_at}
        for each in head_profiles(trace)
    ]
    return section(
        f"All layers together: {trace.text}",
        lines(
            leaving,
            x_label="layer",
            y_label="cosine",
            caption="Leaving the static vector: cosine of a word's vector in each layer with that in layer 0.",
        ),
        heatmap(
            rolled,
            rows=names,
            columns=names,
            cell=max(46, 8 * max(map(len, names))),
            caption="Rollout (Abnar and Zuidema 2020): how much of each word's last vector comes from each word, by "
            "attention and residual path alone.",
        ),
        details("what each head looks at", table(rows, caption="shares of the words' attention; entropy in nats")),
    )
