"""Blocks computed side by side come back in order, with the threads as they were."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import ctxembed.model.inference as inference
from ctxembed.embedder import Embedder
from ctxembed.model.device import is_bfloat16_fast
from ctxembed.model.side_by_side import in_turns
from ctxembed.text import word_spans
from ctxembed.types import Usage

FORMATS = ["float32", *(["bfloat16"] if is_bfloat16_fast(torch.device("cpu")) else [])]


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 8, 9])
def test_results_come_in_the_order_of_the_blocks(two_threads: None, count: int) -> None:
    assert list(in_turns(lambda block: block * 10, range(count), share=lambda: 1)) == [10 * n for n in range(count)]


def test_each_of_several_blocks_has_its_share_of_the_threads_and_the_last_has_all(two_threads: None) -> None:
    def threads(_: int) -> tuple[int, bool]:
        return torch.get_num_threads(), threading.current_thread() is threading.main_thread()

    assert list(in_turns(threads, range(4), share=lambda: 1)) == [(1, False), (1, False), (2, True), (2, True)]
    assert torch.get_num_threads() == 2


def test_blocks_follow_each_other_where_one_needs_all_threads(two_threads: None) -> None:
    names = in_turns(lambda _: threading.current_thread().name, range(5), share=lambda: 2)
    assert set(names) == {threading.main_thread().name}


def test_an_error_in_a_block_reaches_the_caller_and_leaves_the_threads_as_they_were(two_threads: None) -> None:
    def fail(block: int) -> int:
        if block == 3:
            raise ValueError("block 3")
        return block

    with pytest.raises(ValueError, match="block 3"):
        list(in_turns(fail, range(9), share=lambda: 1))
    assert torch.get_num_threads() == 2


def test_no_more_results_wait_than_twice_the_ways(two_threads: None) -> None:
    computed: list[int] = []
    results = in_turns(lambda block: computed.append(block), range(50), share=lambda: 1)
    next(results)
    assert len(computed) <= 5
    assert len(list(results)) == 49


@pytest.mark.parametrize("dtype", FORMATS)
def test_vectors_have_the_same_bits_alone_and_in_blocks_side_by_side(
    two_threads: None, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    monkeypatch.setattr(inference, "BLOCK", 64)
    embedder = Embedder.load(tiny_model, dtype=dtype)
    texts = [" ".join(["the bank of the old river"] * (1 + number % 4)) + f" {number}" for number in range(40)]
    usages = [Usage(text, span.start, span.end) for text in texts for span in word_spans(text)]
    together, words = embedder.encode(texts), embedder.encode_usages(usages)
    assert embedder._network.share() == 1  # so that blocks were computed side by side
    np.testing.assert_array_equal(together, np.concatenate([embedder.encode([text]) for text in texts]))
    np.testing.assert_array_equal(words[::7], np.concatenate([embedder.encode_usages([one]) for one in usages[::7]]))


def test_a_processor_whose_bits_follow_the_threads_computes_one_block_at_a_time(
    two_threads: None, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    equal = inference._Linear.has_equal_bits
    monkeypatch.setattr(
        inference._Linear, "has_equal_bits", lambda *args, threads: threads == 2 and equal(*args, threads=2)
    )
    assert Embedder.load(tiny_model)._network.share() == 2
