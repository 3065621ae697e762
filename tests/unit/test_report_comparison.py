"""The page of a comparison: what was computed is on it, and what was not is left out."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from markupsafe import Markup

from ctxembed.calibration import Calibration
from ctxembed.embedder import Embedder
from ctxembed.meaning.compare import Findings, compare_usages, layer_similarities
from ctxembed.meaning.occlusion import explain_usages, swap_words
from ctxembed.overview.projection import project
from ctxembed.report.comparison import comparison_page
from ctxembed.static import StaticVectors
from ctxembed.text import parse_usage

USES = [parse_usage("the [bank] of the <river>"), parse_usage("the [bank] lent money"), parse_usage("a big [zyzzyva]")]


@pytest.fixture(scope="module")
def encoder(tiny_model: Path) -> Embedder:
    return Embedder.load(tiny_model)


@pytest.fixture(scope="module")
def full(encoder: Embedder) -> Findings:
    static = StaticVectors(["bank", "river"], np.eye(2, dtype=np.float32), np.array([2, 1]))
    scale = Calibration(slope=4.0, intercept=-2.0, quantiles=(-1.0, 0.0, 1.0), fitted_on="these pairs")
    return Findings(
        comparison=compare_usages(USES, encoder=encoder, static=static),
        model="tiny",
        static_model="lookup",
        background="nothing",
        calibration=scale,
        why=tuple(map(tuple, explain_usages(USES, encoder=encoder))),
        swaps=tuple(swap_words(USES, [("lent", "ate")], encoder=encoder)),
        layers=tuple(layer_similarities(USES, encoder=encoder, layers=(0, 1, 2))),
    )


def test_page_has_every_picture(full: Findings) -> None:
    page = comparison_page(full)
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert headings == [
        "The uses, and the words that matter",
        "How alike they are",
        "A map of the uses",
        "Layer by layer",
        "With another word in its context",
    ]
    assert "<h1>bank, zyzzyva: 3 uses compared</h1>" in page
    assert page.count("<svg") == 4 + 2 + 1  # four matrices, two maps, one profile
    assert page.count("<polyline") == 3
    assert "&lt;" in page
    assert "<river>" not in page


def test_page_shades_each_context_word_by_its_move(full: Findings) -> None:
    page = comparison_page(full)
    moves = [f"{each.move:.4f}" for influences in full.why for each in influences]
    assert len(moves) == 9
    assert sorted(re.findall(r'<span tabindex="0" title="(.*?)"', page)) == sorted(moves)
    assert page.count("<b><u>") == 3


def test_page_of_a_single_use_has_what_there_is(encoder: Embedder) -> None:
    page = comparison_page(Findings(comparison=compare_usages(USES[:1], encoder=encoder), model="tiny"))
    assert re.findall(r"<h2>(.*?)</h2>", page) == ["The uses", "How alike they are"]
    assert "<mark>bank</mark>" in page


def test_layer_profile_of_many_uses_is_of_the_extremes(encoder: Embedder) -> None:
    many = USES * 2
    views = tuple(layer_similarities(many, encoder=encoder, layers=(1, 2)))
    page = comparison_page(Findings(comparison=compare_usages(many, encoder=encoder), model="tiny", layers=views))
    assert page.count("<polyline") == 3
    assert "least alike" in page


def test_map_shows_principal_components(full: Findings, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr("ctxembed.report.comparison.scatter", lambda points, **_: drawn.append(points) or Markup(""))
    comparison_page(full)
    first, second = drawn
    assert full.comparison.static_vectors is not None
    np.testing.assert_array_equal(first, project(full.comparison.vectors).points)
    np.testing.assert_array_equal(second, project(full.comparison.static_vectors).points)
