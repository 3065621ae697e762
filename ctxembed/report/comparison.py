"""The page of `ctxembed compare --html`: what was found out about some uses of a word, in pictures."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from ctxembed.meaning.compare import Findings, letter, marked, pairs, parting_layer, scale_note
from ctxembed.overview.projection import project
from ctxembed.report.charts import heatmap, lines, scatter, weighted_text
from ctxembed.report.page import marked_text, render_page, section, table

MOST_PAIRS = 6
"""Pairs that the layer profile draws one by one; of more it draws the least, middle and greatest."""
MOST_NAMED = 8
"""Uses that the map draws in a shape and colour of their own."""


def comparison_page(found: Findings) -> str:
    """Return the findings as one offline HTML page.

    Args:
        found: Whatever was computed; what is missing in it is left out of the page.
    """
    words = dict.fromkeys(usage.word.casefold() for usage in found.comparison.usages)
    title = f"{', '.join(list(words)[:4])}: {len(found.comparison.usages)} uses compared"
    parts = [_uses(found), _similarities(found)]
    if len(found.comparison.usages) > 1:
        parts.append(_maps(found))
    if found.layers and len(found.comparison.usages) > 1:
        parts.append(_layers(found))
    if found.swaps:
        parts.append(_swaps(found))
    if any(found.comparison.nearest):
        parts.append(_nearest(found))
    return render_page(title, parts)


def _uses(found: Findings) -> Markup:
    shown = [_use(found, number) for number in range(len(found.comparison.usages))]
    note = ""
    if found.why:
        note = (
            "A word is the darker, the further the vector of the marked word moves when it is left out (1 - cosine); "
            "point at it for the figure. This is measured by changing the text, not read from attention weights."
        )
    return section("The uses" if not found.why else "The uses, and the words that matter", *shown, note=note)


def _use(found: Findings, number: int) -> Markup:
    usage = found.comparison.usages[number]
    if not found.why:
        text = marked_text(usage.text, [(usage.start, usage.end)])
        return Markup("<p><b>{}</b> {}</p>").format(letter(number), text)
    ranked = found.why[number]
    best = ", ".join(f"{each.word} {each.move:.3f}" for each in ranked[:3]) or "no context"
    weights = sorted((each.start, each.end, each.move) for each in ranked)
    caption = f"{letter(number)}, {usage.word}: {best}"
    return weighted_text(usage.text, weights, caption=caption, mark=(usage.start, usage.end))


def _similarities(found: Findings) -> Markup:
    result = found.comparison
    names = [letter(number) for number in range(len(result.usages))]

    def picture(values: NDArray[Any], caption: str) -> Markup:
        return heatmap(values, rows=names, columns=names, caption=caption)

    parts = [picture(result.contextual, f"In context: cosine of the vectors of {found.model}")]
    if found.calibration is not None and found.calibration.quantiles:
        values = found.calibration.percentile(result.contextual)
        caption = f"In context: percentile among random pairs of uses in {found.background}"
        parts.append(heatmap(values, rows=names, columns=names, caption=caption, digits=1))
    if found.calibration is not None:
        caption = f"In context: probability of the same sense, fitted on {found.calibration.fitted_on}"
        parts.append(picture(found.calibration.probability(result.contextual), caption))
    if result.static is not None:
        parts.append(picture(result.static, f"Static lookup: cosine of the vectors of {found.static_model}"))
    return section("How alike they are", *parts, note=scale_note(found))


def _maps(found: Findings) -> Markup:
    result = found.comparison
    texts = [f"{letter(number)}: {marked(usage)}" for number, usage in enumerate(result.usages)]
    words = [usage.word.casefold() for usage in result.usages]
    named = [textwrap.shorten(text, 76, placeholder=" ...") for text in texts]
    groups = named if len(texts) <= MOST_NAMED else words if len(set(words)) > 1 else None
    caption = "Principal components of the vectors in context: near each other is used alike"
    parts = [scatter(project(result.vectors).points, texts=texts, groups=groups, caption=caption)]
    if result.static_vectors is not None:
        caption = "The same by static lookup: uses of one written form are one point"
        parts.append(scatter(project(result.static_vectors).points, texts=texts, groups=groups, caption=caption))
    return section("A map of the uses", *parts)


def _layers(found: Findings) -> Markup:
    parts = [
        _profile(found, [view.similarities for view in found.layers], "cosine", "Cosine of each pair, layer by layer")
    ]
    if all(view.calibration is not None for view in found.layers):
        chances = [view.calibration.probability(view.similarities) for view in found.layers if view.calibration]
        caption = "Probability of the same sense, on each layer's own scale: where lines part, the senses part"
        parts.append(_profile(found, chances, "probability", caption))
    note = "Layer 0 is the embedding, where no context has been seen yet. Cosines of two layers are not on one scale."
    if (layer := parting_layer(found.layers)) is not None:
        note += f" On the scale of probability the senses part most in layer {layer}."
    return section("Layer by layer", *parts, note=note)


def _profile(found: Findings, matrices: list[NDArray[Any]], y_label: str, caption: str) -> Markup:
    """Draw a value of pairs over layers: each pair, or of many the least, middle and greatest."""
    numbers = [view.layer for view in found.layers]
    places = pairs(len(found.comparison.usages))
    values = np.array([[matrix[place] for place in places] for matrix in matrices], dtype=np.float64)  # (layers, pairs)
    if len(places) <= MOST_PAIRS:
        names = [f"{letter(first)} and {letter(second)}" for first, second in places]
    else:
        names = ["least alike", "median", "most alike"]
        values = np.quantile(values, [0.0, 0.5, 1.0], axis=1).T
    columns = zip(names, values.T.tolist(), strict=True)
    series = {name: list(zip(numbers, column, strict=True)) for name, column in columns}
    return lines(series, x_label="layer", y_label=y_label, caption=caption)


def _swaps(found: Findings) -> Markup:
    rows: list[dict[str, Any]] = []
    for each in found.swaps:
        text = marked_text(each.usage.text, [(each.usage.start, each.usage.end)])
        rows.append({"use": letter(each.use), "swap": f"{each.old} = {each.new}", "text": text, "drift": each.drift})
        if len(found.comparison.usages) == 2:
            other = 1 - each.use
            rows[-1] |= {"similarity to the other use": each.before[other], "then": each.after[other]}
    note = "Drift is 1 - cosine of the vectors before and after."
    return section("With another word in its context", table(rows), note=note)


def _nearest(found: Findings) -> Markup:
    result = found.comparison
    lookup = result.nearest_static or ((),) * len(result.usages)
    rows = []
    for number, (near, static) in enumerate(zip(result.nearest, lookup, strict=True)):
        row = {"use": letter(number), "in context": ", ".join(f"{each.word} {each.similarity:.2f}" for each in near)}
        if result.nearest_static:
            row["by static lookup"] = ", ".join(f"{word} {similarity:.2f}" for word, similarity in static)
        rows.append(row)
    examples = [
        {"use": letter(number), "word": each.word, "there": marked_text(each.text, [(each.start, each.end)])}
        for number, near in enumerate(result.nearest)
        for each in near[:2]
    ]
    note = f"In context: occurrences in {found.background}."
    if result.nearest_static:
        note += f" By static lookup: the vocabulary of {found.static_model}."
    where = table(examples, caption="Where the nearest stand")
    return section("Words used most like it", table(rows), where, note=note)
