"""What a sentence vector remembers: a decoder writes the sentence anew from the vector alone.

Letters: N vectors, D width, V vocabulary, M prefixes that are continued together, T their tokens.
"""

from __future__ import annotations

import copy
import functools
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ctxembed.config import check
from ctxembed.embedder import Embedder, OnLong
from ctxembed.errors import InvalidInputError
from ctxembed.runtime import model_folder
from ctxembed.types import Vectors

if TYPE_CHECKING:
    from torch import Tensor

    from ctxembed.model.checkpoint import Checkpoint
    from ctxembed.model.decoder import TransformerDecoder
    from ctxembed.model.embeddings import TokenEmbedding
    from ctxembed.tokenizer import SubwordTokenizer

BATCH_PREFIXES = 256
"""Prefixes continued together: bounds the memory, M x V numbers."""

NextToken: TypeAlias = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]
"""Prefixes (M, T) and the row that each belongs to (M,) to the log-probabilities of the next token (M, V)."""


class Hypothesis(NamedTuple):
    """A row of tokens that may be the one."""

    ids: tuple[int, ...]
    """Without start and end."""
    log_probability: float
    """Natural logarithm of the probability of all tokens, the end included."""

    @property
    def score(self) -> float:
        """Mean log-probability of a token, the end included: long rows are not held against short ones."""
        return self.log_probability / (len(self.ids) + 1)


class Reconstruction(NamedTuple):
    """A sentence that was written from a vector."""

    text: str
    log_probability: float
    """Natural logarithm of the probability of exactly these tokens; at most 0."""


class Reconstructor:
    """A model with a decoder, for reading sentence vectors."""

    def __init__(
        self, checkpoint: Checkpoint, *, device: str = "auto", dtype: str = "auto", on_long: OnLong = "window"
    ) -> None:
        """Put a model on a device; arguments as for ``Embedder``. The decoder computes in float32 always.

        Raises:
            InvalidInputError: If the model has no decoder.
        """
        from ctxembed.model.device import choose_device

        if checkpoint.decoder is None:
            raise InvalidInputError(
                f"the model {checkpoint.name} has no decoder, so nothing can be rebuilt from its vectors: "
                "`ctxembed train denoise` makes one that has"
            )
        self.embedder = Embedder(checkpoint, device=device, dtype=dtype, on_long=on_long)
        """The model's encoder."""
        self._device = choose_device(device)
        decoder, embedding = copy.deepcopy((checkpoint.decoder, checkpoint.encoder.embedding))
        self._decoder = decoder.to(self._device).float().eval()
        self._embedding = embedding.to(self._device).float().eval()

    @classmethod
    def load(
        cls, path: str | Path | None = None, *, device: str = "auto", dtype: str = "auto", on_long: OnLong = "window"
    ) -> Reconstructor:
        """Load a model folder; without a path, the denoiser that ships.

        Raises:
            MissingInputError: If the folder does not exist, or no denoiser ships.
            ArtifactError: If it is not an intact model.
            InvalidInputError: If the model has no decoder.
        """
        from ctxembed.model.checkpoint import load_checkpoint

        return cls(load_checkpoint(model_folder(path, "denoiser")), device=device, dtype=dtype, on_long=on_long)

    def reconstruct(
        self, texts: Sequence[str], *, beam: int = 1, max_length: int | None = None
    ) -> list[list[Reconstruction]]:
        """Encode texts, each to one vector, and write them anew from it; ``beam`` and the rest as below.

        Raises:
            InvalidInputError: If a text is empty: it has no vector.
        """
        vectors = self.embedder.encode(texts)
        for number in np.flatnonzero(~vectors.any(axis=1))[:1]:
            raise InvalidInputError(f"text number {number} ({texts[number]!r}) has no token: leave it out")
        return self.reconstruct_vectors(vectors, beam=beam, max_length=max_length)

    def reconstruct_vectors(
        self, vectors: Vectors, *, beam: int = 1, max_length: int | None = None
    ) -> list[list[Reconstruction]]:
        """Write a sentence for each vector; what lies between two sentences is ``0.5 * one + 0.5 * other``.

        Args:
            vectors: float32 (N, D) of this model, of any length: only the direction counts.
            beam: How many beginnings are followed at once; 1 takes the most probable token each time.
            max_length: Most tokens of a sentence, special ones not counted; as many as the model can by default.

        Returns:
            For each vector at most ``beam`` different sentences, best first: by the mean log-probability of a token,
            so that the first may be longer, and less probable as a whole, than the next.

        Raises:
            InvalidInputError: If a vector is zero or of another width, or an argument is out of range.
        """
        import torch

        from ctxembed.model.decoder import sentence_memory

        room = self.embedder.max_length - 2
        longest = room if max_length is None else max_length
        check(1 <= longest <= room, f"max_length = {longest}: must be from 1 to {room}, what the model can write")
        check(beam >= 1, f"beam = {beam}: must be at least 1")
        self._check_vectors(vectors)
        memory = sentence_memory(torch.tensor(vectors, dtype=torch.float32, device=self._device))  # (N, 1, D)
        tokenizer = self.embedder.tokenizer
        found: list[list[Reconstruction]] = []
        size = max(1, BATCH_PREFIXES // beam)
        for first in range(0, len(memory), size):
            part = memory[first : first + size]
            best = beam_search(
                functools.partial(self._next_token, part),
                num_rows=len(part),
                start=tokenizer.cls_id,
                end=tokenizer.sep_id,
                beam=beam,
                max_length=longest,
            )
            found += [self._sentences(hypotheses) for hypotheses in best]
        return found

    def _next_token(self, memory: Tensor, prefixes: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Log-probabilities of the next token; the prefix is computed anew each time, sentences being short."""
        import torch

        with torch.inference_mode():
            ids = torch.from_numpy(prefixes).to(self._device)  # (M, T)
            own = memory[torch.from_numpy(rows).to(self._device)]  # (M, 1, D)
            logits = next_token_logits(
                self._decoder, ids, own, embedding=self._embedding, tokenizer=self.embedder.tokenizer
            )
            result: NDArray[np.float32] = logits.log_softmax(dim=-1).cpu().numpy()
        return result

    def _sentences(self, hypotheses: Sequence[Hypothesis]) -> list[Reconstruction]:
        """Write hypotheses as text; of equal texts in other tokens the best stays."""
        texts: dict[str, float] = {}
        for hypothesis in hypotheses:
            texts.setdefault(self.embedder.tokenizer.decode(hypothesis.ids), hypothesis.log_probability)
        return [Reconstruction(text, value) for text, value in texts.items()]

    def _check_vectors(self, vectors: Vectors) -> None:
        width = self.embedder.dimension
        if vectors.ndim != 2 or vectors.shape[1] != width:
            raise InvalidInputError(
                f"vectors of shape {vectors.shape}, need (N, {width}): those of {self.embedder.name}, one a row"
            )
        usable = np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)
        for number in np.flatnonzero(~usable)[:1]:
            raise InvalidInputError(f"vector number {number} is zero or not finite: it has no direction, leave it out")


def next_token_logits(
    decoder: TransformerDecoder,
    prefixes: Tensor,
    memory: Tensor,
    *,
    embedding: TokenEmbedding,
    tokenizer: SubwordTokenizer,
    need_weights: bool = False,
) -> Tensor:
    """Score every token as the next one of each prefix; those that are never written have -inf.

    Args:
        decoder: Of the model.
        prefixes: int64 (M, T), the start included.
        memory: (M, 1, D), ``sentence_memory``.
        embedding: The encoder's.
        tokenizer: Of the model.
        need_weights: Take the written-out path of attention, as one who looks on needs.

    Returns:
        (M, V).
    """
    hidden = decoder(prefixes, memory, embedding=embedding, need_weights=need_weights).hidden[:, -1]  # (M, D)
    logits = decoder.logits(hidden, embedding.tokens.weight)  # (M, V)
    logits[:, [tokenizer.pad_id, tokenizer.cls_id, tokenizer.mask_id]] = float("-inf")
    logits[:, len(tokenizer) :] = float("-inf")  # rows of the table that no token has
    return logits


def beam_search(
    next_token: NextToken, *, num_rows: int, start: int, end: int, beam: int, max_length: int
) -> list[list[Hypothesis]]:
    """Find probable rows of tokens, from left to right.

    At every step the ``beam`` most probable continuations of a row's prefixes stay; one that ends is put aside, and
    from then on one prefix fewer is followed (Sutskever et al. 2014, section 3.2). With a beam of 1 this takes
    the most probable token each time. A row that has ``max_length`` tokens must end.

    Args:
        next_token: Continues prefixes, ``start`` included.
        num_rows: How many rows to write; 0 gives an empty list.
        start: The token before every row.
        end: The token after every row.
        beam: At least 1.
        max_length: Most tokens of a row, start and end not counted; at least 1.

    Returns:
        For each row at most ``beam`` hypotheses, best ``Hypothesis.score`` first.

    >>> chain = np.log(np.array([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3], [0.1, 0.8, 0.1]], dtype=np.float32))
    >>> search = functools.partial(beam_search, lambda prefixes, rows: chain[prefixes[:, -1]], start=0, end=0)
    >>> [(row.ids, f"{np.exp(row.log_probability):.3f}") for row in search(num_rows=1, beam=2, max_length=3)[0]]
    [((1,), '0.300'), ((2, 1), '0.144')]
    """
    live = [[Hypothesis((), 0.0)] for _ in range(num_rows)]
    done: list[list[Hypothesis]] = [[] for _ in range(num_rows)]
    for length in range(max_length + 1):
        rows = np.array([row for row, prefixes in enumerate(live) for _ in prefixes], dtype=np.int64)  # (M,)
        if not len(rows):
            break
        prefixes = np.array([(start, *prefix.ids) for row in live for prefix in row], dtype=np.int64)  # (M, T)
        steps = next_token(prefixes, rows).astype(np.float64)  # (M, V)
        if length == max_length:
            steps[:, np.arange(steps.shape[1]) != end] = -np.inf
        totals = steps + np.array([prefix.log_probability for row in live for prefix in row])[:, None]
        bounds = np.searchsorted(rows, np.arange(num_rows + 1))
        for row in range(num_rows):
            own = totals[bounds[row] : bounds[row + 1]]  # (its prefixes, V)
            chosen = _largest(own.ravel(), beam - len(done[row]))
            before, live[row] = live[row], []
            for position in chosen.tolist():
                prefix, token = divmod(position, own.shape[1])
                ids, total = before[prefix].ids, float(own[prefix, token])
                if token == end:
                    done[row].append(Hypothesis(ids, total))
                else:
                    live[row].append(Hypothesis((*ids, token), total))
    return [sorted(row, key=lambda hypothesis: -hypothesis.score) for row in done]


def token_overlap(first: Sequence[int], second: Sequence[int]) -> float:
    """Return the share of tokens that two rows have in common, in any order: 2 x common / (all of both).

    A token that stands twice in both counts twice. From 0 (none) to 1 (the same tokens); 1 for two empty rows.

    >>> token_overlap([7, 8, 8, 9], [8, 8, 8, 5])
    0.5
    """
    common = (Counter(first) & Counter(second)).total()
    return 2 * common / (len(first) + len(second)) if len(first) or len(second) else 1.0


def _largest(values: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Return the places of the largest finite values, largest first, the earlier of equals first."""
    count = min(count, int(np.isfinite(values).sum()))
    if count == 0:
        return np.zeros(0, dtype=np.int64)
    threshold = np.partition(values, len(values) - count)[len(values) - count]
    places = np.flatnonzero(values >= threshold)
    return places[np.argsort(-values[places], kind="stable")][:count]
