"""Tokens of student and teachers on the device, dealt in chunks of texts of one length.

Letters: B texts of a chunk, T tokens, W words.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokens import FORMS
from torch import Tensor

FORM_USES = 4, 200
"""Texts of one length that a form brings together."""

Rows = NDArray[np.int64]


class Texts:
    """Tokens of student and teachers and the words in them, on the device; dealt in chunks of texts of one length."""

    def __init__(self, file: Path, device: torch.device) -> None:
        stored = np.load(file)
        self.device, self.lengths = device, stored["lengths"]
        self._teacher_lengths = stored["teacher_lengths"]
        self._ids, self._teacher_ids = (self._put(stored[name].astype(np.int32)) for name in ("ids", "teacher_ids"))
        self._device_lengths, self._device_teacher_lengths = self._put(self.lengths), self._put(self._teacher_lengths)
        self._starts, self._teacher_starts = starts(self._device_lengths), starts(self._device_teacher_lengths)
        if "forms" in stored:
            self._counts = stored["counts"]
            self._places, self._forms = self._put(stored["places"]), self._put(stored["forms"])
            self._device_counts = self._put(self._counts)
            self._word_starts = starts(self._device_counts)
        order = np.argsort(self.lengths, kind="stable")
        self._groups = np.split(order, np.flatnonzero(np.diff(self.lengths[order])) + 1)

    def _put(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def chunks(self, tokens: int, *, seed: int, by_form: bool = False) -> Iterator[Rows]:
        """Yield texts of about so many tokens, epoch after epoch, all of one length."""
        epoch = 0
        while True:
            generator, chunks = np.random.default_rng([seed, epoch]), []
            keys = self._form_keys(seed + 1000 * epoch) if by_form else None
            for group in self._groups:
                size = max(1, tokens // int(self.lengths[group[0]]))
                rows = generator.permutation(group)
                if keys is not None:
                    rows = rows[np.argsort(keys[rows], kind="stable")]
                cut = [rows[start : start + size] for start in range(0, len(rows), size)]
                chunks += cut[:-1] if len(cut) > 1 and len(cut[-1]) < size // 2 else cut
            for number in generator.permutation(len(chunks)):
                yield chunks[number]
            epoch += 1

    def _form_keys(self, seed: int) -> NDArray[np.int64]:
        """Draw a form for each text, among those that several texts of its length have and not too many; as a key."""
        generator = torch.Generator(self.device).manual_seed(seed)
        rows = torch.repeat_interleave(torch.arange(len(self.lengths), device=self.device), self._device_counts.long())
        keys = self._device_lengths[rows].long() * FORMS + self._forms
        _, inverse, counts = keys.unique(return_inverse=True, return_counts=True)
        uses = counts[inverse]
        chance = torch.rand(len(rows), generator=generator, device=self.device)
        chance = chance.masked_fill((uses < FORM_USES[0]) | (uses > FORM_USES[1]), 2.0)
        least = torch.full((len(self.lengths),), 2.0, device=self.device).scatter_reduce(0, rows, chance, "amin")
        chosen = torch.randint(FORMS, (len(self.lengths),), generator=generator, device=self.device)
        taken = (chance == least[rows]) & (chance < 1)
        chosen[rows[taken]] = self._forms[taken].long()
        shuffled = torch.randperm(FORMS, generator=generator, device=self.device)
        return shuffled[chosen].cpu().numpy()

    def tokens(self, rows: Rows) -> Tensor:
        """Return the student's ids, (B, T), of texts of one length."""
        width = torch.arange(int(self.lengths[rows[0]]), device=self.device)
        return self._ids[self._starts[self._put(rows)][:, None] + width].long()

    def padded(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Return the student's ids, padded with anything to a multiple of eight, and their lengths."""
        return self._padded(self._put(rows), self._ids, self._starts, self._device_lengths, self.lengths[rows])

    def teacher_tokens(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Return the teachers' ids, padded with anything to a multiple of eight, and their lengths."""
        lengths = self._teacher_lengths[rows]
        return self._padded(
            self._put(rows), self._teacher_ids, self._teacher_starts, self._device_teacher_lengths, lengths
        )

    def _padded(self, rows: Tensor, ids: Tensor, begins: Tensor, lengths: Tensor, known: Rows) -> tuple[Tensor, Tensor]:
        width = torch.arange(-(-int(known.max()) // 8) * 8, device=self.device)
        places = begins[rows][:, None] + width
        return ids[places.clamp_max(len(ids) - 1)].long(), lengths[rows]

    def words(self, rows: Rows) -> tuple[Tensor, ...]:
        """Return each content word's text in the chunk, its tokens of both kinds, and its form, (W,) each."""
        numbers, total = self._put(rows), int(self._counts[rows].sum())
        counts = self._device_counts[numbers].long()
        owners = torch.repeat_interleave(torch.arange(len(rows), device=self.device), counts, output_size=total)
        inside = torch.arange(total, device=self.device) - (counts.cumsum(0) - counts)[owners]
        chosen = self._word_starts[numbers][owners] + inside
        return owners, *self._places[chosen].long().unbind(dim=1), self._forms[chosen].long()


def starts(lengths: Tensor) -> Tensor:
    """Return where each row begins when they lie one after the other."""
    return lengths.long().cumsum(0) - lengths
