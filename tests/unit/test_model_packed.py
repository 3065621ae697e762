"""Attention over texts laid end to end: each text for itself, in few shapes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from ctxembed.model.packed import attention_over, groups_of

LENGTHS = st.lists(st.integers(1, 70), min_size=1, max_size=40)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@given(lengths=LENGTHS, filling=st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_each_text_attends_to_itself_alone(kind: torch.dtype, lengths: list[int], filling: int) -> None:
    tokens = sum(lengths)
    parts = torch.randn(tokens + filling, 3, 2, 8, generator=torch.Generator().manual_seed(tokens)).to(kind)
    mixed = attention_over(lengths, heads=2, width=8, kind=kind, device=torch.device("cpu"))(parts)
    assert mixed.dtype == kind
    assert not mixed[tokens:].any()
    for own, result in zip(parts[:tokens].split(lengths), mixed[:tokens].split(lengths), strict=True):
        query, key, value = own.float().permute(1, 2, 0, 3)  # (H, T, K) each
        expected = functional.scaled_dot_product_attention(query, key, value).transpose(0, 1)
        close = {"rtol": 0.0, "atol": 1e-5 if kind == torch.float32 else 3e-2}
        torch.testing.assert_close(result.float(), expected, **close)


@given(lengths=LENGTHS, heads=st.sampled_from([1, 4, 12]))
def test_groups_hold_every_token_once_and_in_order(lengths: list[int], heads: int) -> None:
    groups = list(groups_of(lengths, heads=heads))
    assert torch.cat([group.rows[group.real] for group in groups]).tolist() == list(range(sum(lengths)))
    assert [group.start for group in groups] == [int(group.rows[0]) for group in groups]


def test_shapes_are_few_whatever_the_lengths() -> None:
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(200):
        lengths = torch.randint(1, 257, (int(torch.randint(1, 60, (), generator=generator)),), generator=generator)
        groups = groups_of(sorted(lengths.tolist()), heads=4)
        seen |= {(len(group.bias), len(group.rows) // len(group.bias)) for group in groups}
    assert {length for _, length in seen} == set(range(8, 257, 8))
    assert {texts for texts, _ in seen} <= {1, 2, 4, 8, 16, 32, 64, 128}
    assert len(seen) <= 120  # with every length and number of texts as it comes there would be thousands
