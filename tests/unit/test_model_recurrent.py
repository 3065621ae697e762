"""The recurrent encoder-decoder beside numpy and torch, step by step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ctxembed.errors import InvalidInputError
from ctxembed.model.recurrent import AdditiveAttention, RecurrentConfig, RecurrentSeq2Seq

IDS = torch.tensor([[2, 5, 6, 7, 3], [2, 8, 3, 0, 0]])
LENGTHS = torch.tensor([5, 3])
TARGETS = torch.tensor([[2, 5, 9, 6], [2, 8, 4, 4]])


@pytest.fixture(scope="module")
def model() -> RecurrentSeq2Seq:
    torch.manual_seed(1)
    made = RecurrentSeq2Seq(RecurrentConfig(vocab_size=11, embedding_size=6, hidden_size=5)).double().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    return made


def test_additive_attention_equals_the_formula_by_hand() -> None:
    torch.manual_seed(2)
    attention = AdditiveAttention(3, 4, 5).double()
    state, memory = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 6, 4, dtype=torch.float64)
    mask = torch.arange(6) < torch.tensor([[6], [2]])
    mixed, weights = attention(state, memory, attention.memory(memory), mask)
    w, u, b, v = (
        each.detach().numpy()
        for each in (attention.state.weight, attention.memory.weight, attention.memory.bias, attention.score.weight)
    )
    for row, count in enumerate((6, 2)):
        seen = memory[row, :count].numpy()
        scores = np.array([v[0] @ np.tanh(w @ state[row].numpy() + u @ each + b) for each in seen])
        expected = np.exp(scores) / np.exp(scores).sum()
        np.testing.assert_allclose(weights[row, :count].detach().numpy(), expected, atol=1e-12)
        np.testing.assert_allclose(mixed[row].detach().numpy(), expected @ seen, atol=1e-12)
    assert weights[1, 2:].eq(0).all()


def test_padding_changes_nothing(model: RecurrentSeq2Seq) -> None:
    together = model(IDS, LENGTHS, TARGETS)
    for row, length in enumerate(LENGTHS.tolist()):
        one = slice(row, row + 1)
        alone = model(IDS[one, :length], LENGTHS[one], TARGETS[one])
        torch.testing.assert_close(together[one], alone, atol=1e-12, rtol=0)


def test_a_token_knows_nothing_of_those_after_it(model: RecurrentSeq2Seq) -> None:
    changed = TARGETS.clone()
    changed[:, 2:] = 10
    before, after = model(IDS, LENGTHS, TARGETS), model(IDS, LENGTHS, changed)
    torch.testing.assert_close(before[:, :2], after[:, :2], atol=0, rtol=0)
    assert not torch.allclose(before[:, 2:], after[:, 2:])


def test_encoder_reads_in_both_directions(model: RecurrentSeq2Seq) -> None:
    memory, _ = model.encode(IDS[:1], LENGTHS[:1])
    backwards = nn.GRU(6, 5, batch_first=True).double()
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    backwards.load_state_dict({name: getattr(model.encoder, f"{name}_reverse") for name in names})
    expected, _ = backwards(model.embed(IDS[:1]).flip(1))
    torch.testing.assert_close(memory[..., 5:], expected.flip(1), atol=1e-12, rtol=0)


def test_written_tokens_are_the_most_probable_given_those_before(model: RecurrentSeq2Seq) -> None:
    written = model.write(IDS, LENGTHS, start=2, count=6)
    given = torch.cat((torch.full((2, 1), 2), written[:, :-1]), dim=1)
    logits = model.logits(model(IDS, LENGTHS, given))
    assert written.shape == (2, 6)
    assert torch.equal(written, logits.argmax(dim=-1))


def test_shape_without_width_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="hidden_size = 0: must be at least 1"):
        RecurrentConfig(vocab_size=5, embedding_size=4, hidden_size=0)
