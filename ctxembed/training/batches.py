"""Token rows in a compact store, and batches of like length whose order follows from the seed alone.

Letters: B rows of a batch, T tokens, N rows in all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctxembed.errors import InvalidInputError
from ctxembed.tokenizer import SubwordTokenizer

SHUFFLE_BLOCK = 64
"""Batches whose rows are sorted by length together: large enough for little padding, small enough to stay random."""


@dataclass(frozen=True, slots=True)
class TokenRows:
    """N rows of token ids laid end to end, special tokens included."""

    ids: NDArray[np.int32]
    starts: NDArray[np.int64]
    """(N + 1,): row n is ``ids[starts[n]:starts[n + 1]]``."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, (N,)."""
        return np.diff(self.starts)

    @classmethod
    def from_lists(cls, rows: Sequence[NDArray[np.int32]]) -> TokenRows:
        """Lay rows end to end."""
        starts = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in rows], out=starts[1:])
        return cls(np.concatenate(rows) if rows else np.zeros(0, dtype=np.int32), starts)


@dataclass(frozen=True, slots=True)
class TokenRowBatch:
    """Some rows, padded to the longest."""

    rows: NDArray[np.int64]
    """Which rows of the store, (B,)."""
    ids: Tensor
    """int64 (B, T)."""
    lengths: Tensor
    """int64 (B,)."""

    @property
    def num_tokens(self) -> int:
        """Real tokens, padding excluded."""
        return int(self.lengths.sum())


def chunk_texts(texts: Iterable[str], tokenizer: SubwordTokenizer, *, max_length: int) -> TokenRows:
    """Tokenise texts into rows of at most ``max_length`` tokens; a longer text becomes several rows, none is cut off.

    Raises:
        InvalidInputError: If no text has a token.
    """
    rows: list[NDArray[np.int32]] = []
    width = max_length - 2
    for batch in _batched(texts, 4096):
        for ids in tokenizer.encode_ids(batch):
            rows += [with_specials(ids[i : i + width], tokenizer) for i in range(0, len(ids), width)]
    if not rows:
        raise InvalidInputError("the corpus holds no text to train on: check the input and its text column")
    return TokenRows.from_lists(rows)


def with_specials(ids: NDArray[np.int32], tokenizer: SubwordTokenizer) -> NDArray[np.int32]:
    """Put the first and last special token around a row of ids."""
    return np.concatenate(([tokenizer.cls_id], ids, [tokenizer.sep_id])).astype(np.int32)


def split_rows(num_rows: int, *, fraction: float, most: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Deal row numbers into training and held-out rows; one row alone is trained on and held out."""
    order = np.random.default_rng([seed, 0xE7A1]).permutation(num_rows)
    held_out = min(most, max(1, round(num_rows * fraction)))
    if num_rows == 1:
        return order, order
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def collate(store: TokenRows, rows: NDArray[np.int64], *, pad_id: int) -> TokenRowBatch:
    """Gather rows into one padded batch."""
    lengths = store.lengths[rows]
    ids = np.full((len(rows), int(lengths.max())), pad_id, dtype=np.int64)
    for position, row in enumerate(rows):
        ids[position, : lengths[position]] = store.ids[store.starts[row] : store.starts[row + 1]]
    return TokenRowBatch(rows, torch.from_numpy(ids), torch.from_numpy(lengths.astype(np.int64)))


def plan_epoch(
    lengths: NDArray[np.int64], rows: NDArray[np.int64], *, batch_tokens: int, seed: int, epoch: int
) -> list[NDArray[np.int64]]:
    """Deal rows into batches of at most ``batch_tokens`` tokens, padding included.

    Rows are shuffled, sorted by length inside blocks of many batches, cut into batches, and the
    batches shuffled: little padding, and an order that follows from ``seed`` and ``epoch`` alone.

    Args:
        lengths: Tokens of every row in the store, (N,).
        rows: The rows to deal.
        batch_tokens: Rows times longest row of each batch stays at or below this (one row may exceed it).
        seed: Of the run.
        epoch: Counted from 0.

    Returns:
        Row numbers of each batch; every row exactly once.
    """
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(rows)
    mean_length = max(1.0, float(lengths[rows].mean()))
    block = max(1, int(SHUFFLE_BLOCK * batch_tokens / mean_length))
    batches: list[NDArray[np.int64]] = []
    for start in range(0, len(order), block):
        members = order[start : start + block]
        members = members[np.argsort(lengths[members], kind="stable")]
        batches += _cut(members, lengths[members], batch_tokens)
    return [batches[i] for i in generator.permutation(len(batches))]


def micro_batches(
    lengths: NDArray[np.int64], rows: NDArray[np.int64], *, batch_tokens: int, seed: int, skip: int = 0
) -> Iterator[NDArray[np.int64]]:
    """Yield batches for ever, epoch after epoch, leaving out the first ``skip``."""
    epoch = 0
    while True:
        batches = plan_epoch(lengths, rows, batch_tokens=batch_tokens, seed=seed, epoch=epoch)
        if skip < len(batches):
            yield from batches[skip:]
        skip = max(0, skip - len(batches))
        epoch += 1


def _cut(members: NDArray[np.int64], lengths: NDArray[np.int64], batch_tokens: int) -> list[NDArray[np.int64]]:
    batches, start = [], 0
    for position in range(1, len(members) + 1):
        # Sorted, so the row at `position` would be the longest of the batch.
        if position == len(members) or (position - start + 1) * lengths[position] > batch_tokens:
            batches.append(members[start:position])
            start = position
    return batches


def _batched(items: Iterable[str], size: int) -> Iterator[list[str]]:
    batch: list[str] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
