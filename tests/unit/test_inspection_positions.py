"""Positions: the tables, and the sentence that loses its order without them."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from ctxembed.config import Positions
from ctxembed.inspection.positions import position_report, position_tables, without_positions
from ctxembed.model.checkpoint import Checkpoint, load_checkpoint
from ctxembed.model.encoder import TransformerEncoder

TEXT = "the bank was cold in the river ."


@pytest.fixture(scope="module", params=get_args(Positions))
def model(request: pytest.FixtureRequest, tiny_model: Path) -> Checkpoint:
    """The tiny model with each kind of positions, and new weights."""
    checkpoint = load_checkpoint(tiny_model)
    torch.manual_seed(3)
    encoder = TransformerEncoder(replace(checkpoint.encoder.config, positions=request.param))
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.15)
    return replace(checkpoint, encoder=encoder)


def test_order_is_lost_without_positions_and_kept_with_them(model: Checkpoint) -> None:
    shuffled = position_report(model, TEXT).shuffled
    assert sorted(shuffled.order) == list(range(len(shuffled.tokens)))
    assert list(shuffled.order) != list(range(len(shuffled.tokens)))
    np.testing.assert_allclose(shuffled.without_positions, 1, atol=1e-12)
    assert shuffled.largest_difference < 1e-12
    assert shuffled.with_positions.min() < 0.9999


def test_without_positions_nothing_else_changes(model: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = torch.tensor([[5, 9, 7, 5, 20]])
    usual, blind = copy.deepcopy(model.encoder), without_positions(model.encoder)
    before, found = usual(ids).last, blind(ids).last
    assert (before - found).abs().max() > 0.01
    with torch.no_grad():  # another way to have none: positions that are all zero
        if usual.embedding.positions is not None:
            usual.embedding.positions.weight.zero_()
        if usual.embedding.sinusoids is not None:
            usual.embedding.sinusoids.zero_()
    monkeypatch.setattr("ctxembed.model.encoder.rotary_angles", no_rotation)
    torch.testing.assert_close(found, usual(ids).last, atol=1e-5, rtol=1e-5)
    monkeypatch.undo()
    torch.testing.assert_close(model.encoder(ids).last, before)  # the copy alone was changed


def no_rotation(length: int, width: int, *, device: torch.device | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Angles of zero: their cosine and sine."""
    return torch.ones(length, width // 2, device=device), torch.zeros(length, width // 2, device=device)


def test_tables_equal_their_formulas(model: Checkpoint) -> None:
    tables = position_tables(model.encoder, 6)
    places, columns = np.arange(6)[:, None], np.arange(0, 32, 2)[None]
    angles = places / 10_000 ** (columns / 32)
    np.testing.assert_allclose(tables.sinusoidal[:, 0::2], np.sin(angles), atol=1e-5)
    np.testing.assert_allclose(tables.sinusoidal[:, 1::2], np.cos(angles), atol=1e-5)
    pairs = places / 10_000 ** (np.arange(0, 16, 2)[None] / 16)
    np.testing.assert_allclose(tables.rotary, pairs, atol=1e-5)
    np.testing.assert_allclose(tables.by_distance["rotary"][:6], np.cos(pairs).mean(axis=1), atol=1e-5)
    np.testing.assert_allclose(tables.by_distance["sinusoidal"][:6], np.cos(angles).mean(axis=1), atol=1e-5)
    assert (tables.learned is not None) == (model.encoder.config.positions == "learned")


def test_another_seed_is_another_order(tiny_model: Path) -> None:
    model = load_checkpoint(tiny_model)
    orders = {position_report(model, TEXT, seed=seed).shuffled.order for seed in range(4)}
    assert len(orders) > 1
