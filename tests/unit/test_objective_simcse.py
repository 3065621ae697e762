from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ctxembed.errors import InvalidInputError
from ctxembed.model.attention import MultiHeadAttention
from ctxembed.training.objectives.base import encode_sentences
from ctxembed.training.objectives.contrastive import (
    SimCSE,
    SimCSEConfig,
    info_nce,
    with_dropout,
)

from .contrastive_cases import PAD, gradients, nce_by_hand, rows_in, rows_of
from .tiny_models import checkpoint

if TYPE_CHECKING:
    from ctxembed.tokenizer import SubwordTokenizer

# Two views of a text

TEXTS = [[9, 10, 11], [12, 13], [9, 10, 11], [14, 15, 16, 17], [18]]


def simcse(**changes: Any) -> SimCSE:
    return SimCSE(rows_of(TEXTS), pad_id=PAD, config=SimCSEConfig(**changes))


def view_loss(vectors: Tensor) -> float:
    """Of two views of each of the five texts, of which the first and third are equal."""
    one, two = vectors.detach().double().numpy().reshape(2, 5, -1)
    return float(
        np.mean(
            [
                nce_by_hand(one[row], two[row], [two[n] for n in range(5) if TEXTS[n] != TEXTS[row]], 0.05)[0]
                for row in range(5)
            ]
        )
    )


def test_loss_of_two_views_equals_its_definition(tiny_tokenizer: SubwordTokenizer) -> None:
    model, views = checkpoint(tiny_tokenizer, dropout=0.2), simcse()
    batch = views.prepare(np.arange(5), seed=[1])
    assert rows_in(batch) == TEXTS + TEXTS
    torch.manual_seed(3)
    vectors = encode_sentences(model, batch.ids, batch.lengths)
    torch.manual_seed(3)
    loss = views(model, batch)
    assert not torch.allclose(vectors[:5], vectors[5:], atol=0.01)
    assert loss.value.item() == pytest.approx(view_loss(vectors), rel=1e-4)
    assert set(loss.metrics) == {"simcse", "simcse_accuracy"}
    assert loss.count == 5


def test_costs_of_two_views_are_twice_the_tokens() -> None:
    views = simcse()
    alone = [views.prepare(np.array([item]), seed=[1]).num_tokens for item in range(5)]
    assert views.costs.tolist() == alone == [6, 4, 6, 8, 2]


def test_a_model_without_dropout_is_refused_with_the_way_out(tiny_tokenizer: SubwordTokenizer) -> None:
    views = simcse()
    with pytest.raises(
        InvalidInputError, match=r"the model tiny has dropout = 0, .* give simcse a dropout of its own \(0.1, say\)"
    ):
        views(checkpoint(tiny_tokenizer), views.prepare(np.arange(5), seed=[1]))


@pytest.mark.parametrize("piece_tokens", [None, 5])
def test_a_dropout_of_its_own_is_that_of_a_model_which_has_it(
    tiny_tokenizer: SubwordTokenizer, piece_tokens: int | None
) -> None:
    found = []
    for own, other in ((0.3, None), (0.0, 0.3), (0.1, 0.3)):
        model, views = checkpoint(tiny_tokenizer, dropout=own), simcse(dropout=other, piece_tokens=piece_tokens)
        torch.manual_seed(3)
        loss = views(model, views.prepare(np.arange(5), seed=[1]))
        loss.value.backward()
        found.append((loss.value.item(), gradients(model)))
    assert found[0][0] == found[1][0] == found[2][0]
    for _, same in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0][1], same, strict=True))
    assert max(gradient.abs().max().item() for gradient in found[0][1]) > 0.01


def test_pieces_drop_the_same_units_forward_and_backward(tiny_tokenizer: SubwordTokenizer) -> None:
    # Against pieces whose activations are kept: the derivative of what was computed.
    model, views = checkpoint(tiny_tokenizer), simcse(dropout=0.3, piece_tokens=4)
    batch = views.prepare(np.arange(5), seed=[1])
    torch.manual_seed(3)
    views(model, batch).value.backward()
    found = gradients(model)
    model.encoder.zero_grad()
    torch.manual_seed(3)
    twin = replace(model, encoder=with_dropout(model.encoder, 0.3))
    pieces = zip(batch.ids.split(1), batch.lengths.split(1), strict=True)
    vectors = torch.cat([encode_sentences(twin, *piece) for piece in pieces])
    same = torch.tensor([[one == two for two in TEXTS] for one in TEXTS])
    losses, _ = info_nce(vectors[:5], vectors[5:], torch.arange(5), temperature=0.05, same=same)
    losses.mean().backward()
    for one, two in zip(found, gradients(model), strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)


def test_an_encoder_with_another_dropout_shares_all_parameters(tiny_tokenizer: SubwordTokenizer) -> None:
    encoder = checkpoint(tiny_tokenizer, dropout=0.1).encoder
    twin = with_dropout(encoder, 0.4)
    assert all(one is two for one, two in zip(encoder.parameters(), twin.parameters(), strict=True))

    def chances(module: nn.Module) -> set[float]:
        parts = list(module.modules())
        dropped = {part.p for part in parts if isinstance(part, nn.Dropout)}
        return dropped | {part.dropout for part in parts if isinstance(part, MultiHeadAttention)}

    assert chances(twin) == {0.4}
    assert chances(encoder) == {0.1}
    assert twin.training
    assert not with_dropout(encoder.eval(), 0.4).training


def test_two_views_are_equal_in_evaluation(tiny_tokenizer: SubwordTokenizer) -> None:
    model, views = checkpoint(tiny_tokenizer, dropout=0.2), simcse()
    model.encoder.eval()
    batch = views.prepare(np.arange(5), seed=[1])
    loss = views(model, batch)
    assert loss.metrics["simcse_accuracy"] == 1.0
    assert loss.value.item() == pytest.approx(view_loss(encode_sentences(model, batch.ids, batch.lengths)), rel=1e-4)


def test_one_text_alone_is_refused() -> None:
    with pytest.raises(
        InvalidInputError, match="1 texts: a text is learned by telling it from others, give at least 2"
    ):
        SimCSE(rows_of(TEXTS[:1]), pad_id=PAD)


def test_settings_of_two_views_follow_the_texts() -> None:
    one = simcse().settings
    other = SimCSE(rows_of([*TEXTS[:4], [19]]), pad_id=PAD).settings
    assert one["rows_sha256"] != other["rows_sha256"]
    assert {**one, "rows_sha256": ""} == {**other, "rows_sha256": ""}
