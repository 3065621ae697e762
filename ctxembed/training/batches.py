"""Token rows, tokenised once and memory-mapped, and batches of like length whose order follows from the seed alone.

Letters: B rows of a batch, T tokens, N rows in all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctxembed.errors import InvalidInputError
from ctxembed.runtime import atomic_path, batched
from ctxembed.tokenizer import SubwordTokenizer

WIDTH_STEP = 8
"""Batches are so many tokens wide, or twice as many, and so on: a kernel is prepared for each shape that is met, which
takes longer than to run it, and a width comes with one number of rows, but for the last of that width in a block."""
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

    @property
    def sha256(self) -> str:
        """The hash of ids and bounds: equal rows, equal hash."""
        digest = hashlib.sha256(self.starts.data)
        digest.update(np.ascontiguousarray(self.ids).data)
        return digest.hexdigest()

    def row(self, number: int) -> NDArray[np.int32]:
        """Return the ids of one row, (T,)."""
        return self.ids[self.starts[number] : self.starts[number + 1]]

    @classmethod
    def from_lists(cls, rows: Sequence[NDArray[np.int32]]) -> Self:
        """Lay rows end to end."""
        return cls(
            np.concatenate(rows).astype(np.int32) if rows else np.zeros(0, dtype=np.int32),
            _bounds([len(row) for row in rows]),
        )

    @classmethod
    def write(cls, path: Path, rows: Iterable[NDArray[np.int32]]) -> Self:
        """Write rows to ``path`` with the ending .ids, their bounds with .starts.npy, and map them.

        One row at a time is in memory. The bounds are written last: a path that has them is whole.
        """
        lengths: list[int] = []
        with atomic_path(path.with_suffix(".ids")) as temporary, temporary.open("wb") as stream:
            for row in rows:
                stream.write(row.astype(np.int32).tobytes())
                lengths.append(len(row))
        starts = _bounds(lengths)
        with atomic_path(path.with_suffix(".starts.npy")) as temporary, temporary.open("wb") as stream:
            np.save(stream, starts)
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Map rows that ``write`` wrote."""
        starts = np.load(path.with_suffix(".starts.npy"))
        if not starts[-1]:  # an empty file cannot be mapped
            return cls(np.zeros(0, dtype=np.int32), starts)
        return cls(np.memmap(path.with_suffix(".ids"), dtype=np.int32, mode="r"), starts)

    @staticmethod
    def is_written(path: Path) -> bool:
        """Tell whether a whole set of rows lies there."""
        return path.with_suffix(".starts.npy").exists()


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

    def to(self, device: torch.device) -> Self:
        """Return the batch with its tensors on a device."""
        return type(self)(self.rows, self.ids.to(device), self.lengths.to(device))


def chunk_texts(
    texts: Iterable[str], tokenizer: SubwordTokenizer, *, max_length: int, path: Path | None = None
) -> TokenRows:
    """Tokenise texts into rows of at most ``max_length`` tokens; a longer text becomes several rows, none is cut off.

    Args:
        texts: Read once.
        tokenizer: Whose tokens.
        max_length: Most tokens of a row, special tokens included.
        path: Where to write the rows; by default they stay in memory.

    Raises:
        InvalidInputError: If no text has a token.
    """
    rows = _chunks(texts, tokenizer, max_length - 2)
    store = TokenRows.from_lists(list(rows)) if path is None else TokenRows.write(path, rows)
    if not len(store):
        raise InvalidInputError("the corpus holds no text to train on: check the input and its text column")
    return store


def _chunks(texts: Iterable[str], tokenizer: SubwordTokenizer, width: int) -> Iterator[NDArray[np.int32]]:
    for batch in batched(texts, 4096):
        for ids in tokenizer.encode_ids(batch):
            for start in range(0, len(ids), width):
                yield with_specials(ids[start : start + width], tokenizer)


def _bounds(lengths: Sequence[int]) -> NDArray[np.int64]:
    bounds = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=bounds[1:])
    return bounds


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
    return TokenRowBatch(rows, *pad_rows([store.row(row) for row in rows.tolist()], pad_id=pad_id))


def pad_rows(rows: Sequence[NDArray[np.int32]], *, pad_id: int) -> tuple[Tensor, Tensor]:
    """Stack token rows of unequal length.

    Returns:
        int64 ids (B, T), short rows filled with ``pad_id``, and int64 lengths (B,); T is a multiple of WIDTH_STEP.
    """
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    ids = np.full((len(rows), int(padded_width(lengths.max(initial=0)))), pad_id, dtype=np.int64)
    for position, row in enumerate(rows):
        ids[position, : len(row)] = row
    return torch.from_numpy(ids), torch.from_numpy(lengths)


def padded_width(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the width that rows of some lengths are padded to.

    >>> padded_width(np.array([0, 3, 8, 9])).tolist()
    [0, 8, 8, 16]
    """
    return -(-lengths // WIDTH_STEP) * WIDTH_STEP


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
        batches += _cut(members, padded_width(lengths[members]), batch_tokens)
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


def _cut(members: NDArray[np.int64], widths: NDArray[np.int64], batch_tokens: int) -> list[NDArray[np.int64]]:
    batches, start = [], 0
    for position in range(1, len(members) + 1):
        # Sorted, so the row at `position` would be the longest of the batch.
        if position == len(members) or (position - start + 1) * widths[position] > batch_tokens:
            batches.append(members[start:position])
            start = position
    return batches
