"""Text in, float32 numpy out: sentence, word and token vectors from a trained encoder.

Texts are cut into windows of at most ``max_length`` tokens, and windows are sorted by length and laid
end to end, so that nothing is ever padded. Letters: N items, T tokens, D hidden width.
"""

from __future__ import annotations

import copy
import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from ctxembed.config import check
from ctxembed.errors import InvalidInputError
from ctxembed.runtime import model_folder
from ctxembed.text import word_spans
from ctxembed.tokenizer import TokenIds, token_ranges
from ctxembed.types import Layer, LongTexts, Scalar, Span, Usage, Vectors
from ctxembed.windows import Window, blocks, central_windows, cut, held_whole

if TYPE_CHECKING:
    from torch import Tensor

    from ctxembed.model.checkpoint import Checkpoint
    from ctxembed.tokenizer import SubwordTokenizer

OnLong = Literal["window", "truncate", "error"]
Reduce: TypeAlias = "Callable[[Sequence[Tensor], NDArray[np.int64]], list[Vectors]]"
"""From the token vectors of windows of one length, (B, T, D) a layer, and their numbers (B,), to vectors of them."""
CHUNK_TEXTS = 16_384
"""Texts tokenised and sorted together: bounds the memory beside the result."""


class SpanVectors(NamedTuple):
    """The words or tokens of one text with their vectors."""

    spans: list[Span]
    vectors: Vectors
    """float32 (N, D), L2-normalised."""


class Embedder:
    """An encoder with its tokenizer; satisfies ``TextEncoder`` and ``UsageEncoder``."""

    def __init__(
        self, checkpoint: Checkpoint, *, device: str = "auto", dtype: str = "auto", on_long: OnLong = "window"
    ) -> None:
        """Put a model on a device.

        Args:
            checkpoint: The model, left as it is.
            device: auto, cpu, cuda or mps.
            dtype: auto (bfloat16 where the hardware multiplies it fast), float32 or bfloat16.
            on_long: What happens to a text of more than ``max_length`` tokens: overlapping windows
                whose vectors are averaged (nothing is lost), cutting it off, or an error.

        Raises:
            InvalidInputError: For an unknown choice, or a device this machine has not.
        """
        from ctxembed.model.device import choose_device, choose_dtype
        from ctxembed.model.inference import InferenceEncoder

        check(on_long in get_args(OnLong), f"on_long = {on_long!r}: must be one of {', '.join(get_args(OnLong))}")
        self._device = choose_device(device)
        self._dtype = choose_dtype(dtype, self._device)
        self._encoder = copy.deepcopy(checkpoint.encoder).to(self._device, self._dtype).eval()
        self._checkpoint = replace(checkpoint, encoder=self._encoder)
        self._network = InferenceEncoder(self._encoder)
        self._on_long = on_long
        self.long_texts = LongTexts()

    @classmethod
    def load(
        cls, path: str | Path | None = None, *, device: str = "auto", dtype: str = "auto", on_long: OnLong = "window"
    ) -> Embedder:
        """Load a model folder; without a path, or for "default", the model that ships. Nothing is ever downloaded.

        Raises:
            MissingInputError: If the folder does not exist.
            ArtifactError: If it is not an intact model.
        """
        from ctxembed.model.checkpoint import load_checkpoint

        return cls(load_checkpoint(model_folder(path)), device=device, dtype=dtype, on_long=on_long)

    @property
    def name(self) -> str:
        """The model's name."""
        return self._checkpoint.name

    @property
    def dimension(self) -> int:
        """The width D of every vector."""
        return self._encoder.config.hidden_size

    @property
    def num_layers(self) -> int:
        """Encoder layers; ``layer`` may be 0 (the embedding layer) to this."""
        return self._encoder.config.num_layers

    @property
    def max_length(self) -> int:
        """Most tokens of one window, special tokens included."""
        return self._encoder.config.max_length

    @property
    def device(self) -> str:
        """Where the network computes: cpu, cuda or mps."""
        return str(self._device)

    @property
    def precision(self) -> str:
        """The number format that it computes in; vectors come out as float32."""
        return str(self._dtype).removeprefix("torch.")

    @property
    def conditions(self) -> Mapping[str, Scalar]:
        """What else decides the last bits of a vector: vectors kept in one folder are all made under the same."""
        return {"precision": self.precision, "on_long": self._on_long}

    @property
    def checkpoint(self) -> Checkpoint:
        """The model itself: the encoder on its device in its number format, heads as they were loaded."""
        return self._checkpoint

    @property
    def tokenizer(self) -> SubwordTokenizer:
        """The model's tokenizer."""
        return self._checkpoint.tokenizer

    @property
    def fingerprint(self) -> str:
        """The sha256 over weights, tokenizer, shape, pooling and prompts.

        Number format, device and ``on_long`` are left out: vectors of the same model may be compared
        across them (cosine above 0.999 for texts that fit a window).
        """
        return self._checkpoint.fingerprint

    def encode(self, texts: Sequence[str], *, prompt: str | None = None) -> Vectors:
        """Encode whole texts.

        Args:
            texts: Any number, of any length.
            prompt: Put before each text: one of the model's prompts by name, or the words themselves. None is the
                model's default prompt, which few models have; an empty string is none at all.

        Returns:
            float32 (N, D), L2-normalised, in the order given; an empty text is a zero row.

        Raises:
            InvalidInputError: If ``texts`` is one string or holds something else than strings, or
                a text is too long and ``on_long`` is "error".
        """
        _check_texts(texts)
        asked = (self._checkpoint.default_prompt or "") if prompt is None else prompt
        before = self._checkpoint.prompts.get(asked, asked)
        result = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for first in range(0, len(texts), CHUNK_TEXTS):
            chunk = [before + text if text.strip() else "" for text in texts[first : first + CHUNK_TEXTS]]
            ids = self.tokenizer.encode_ids(chunk)
            self._add_sentences(ids, result[first : first + len(chunk)])
        return _normalise(result)

    def encode_usages(self, usages: Sequence[Usage], *, layer: Layer | None = None) -> Vectors:
        """Encode words, each in its context: the mean of its tokens' vectors.

        Args:
            usages: Words by their place in a text; a text may occur many times and is computed once.
            layer: Where to read: 0 is the embedding layer, -1 the last; the model's choice by default. Of several
                layers each word gets the mean of its vectors there, each brought to unit length first, so that no layer
                counts for more because its vectors are longer. The network runs once, whatever their number.

        Returns:
            float32 (N, D), L2-normalised; a stretch without any token is a zero row.

        Raises:
            InvalidInputError: If a stretch lies outside its text or the layer does not exist.
        """
        for number, usage in enumerate(usages):
            check(
                0 <= usage.start < usage.end <= len(usage.text),
                f"usage {number} is characters {usage.start} to {usage.end} of a text of "
                f"{len(usage.text)}: mark a word inside it",
            )
        numbers: dict[str, list[int]] = defaultdict(list)
        for number, usage in enumerate(usages):
            numbers[usage.text].append(number)
        texts, layers = list(numbers), self.layer_numbers(layer)
        result = np.zeros((len(layers), len(usages), self.dimension), dtype=np.float32)
        piece = held_whole(self.max_length - 2)
        for first in range(0, len(texts), CHUNK_TEXTS):
            chunk = texts[first : first + CHUNK_TEXTS]
            encoded = self.tokenizer.encode_batch(chunk)
            places = []
            for number, text in enumerate(chunk):
                members = numbers[text]
                starts, ends = [usages[i].start for i in members], [usages[i].end for i in members]
                ranges = zip(*token_ranges(encoded.offsets[number], starts, ends), strict=True)
                for (first_token, end), i in zip(ranges, members, strict=True):
                    pieces = range(first_token, end, piece)  # one, but for a stretch of many words or without any space
                    places += [(number, start, min(start + piece, end), i) for start in pieces]
            self._add_spans(encoded.ids, np.array(places, dtype=np.int64).reshape(-1, 4), result, layers=layers)
        return _normalise(_normalise(result).sum(axis=0)) if len(layers) > 1 else _normalise(result[0])

    def encode_words(self, text: str, *, layer: Layer | None = None) -> SpanVectors:
        """Encode every word of a text in its context (see ``text.word_spans`` for what a word is)."""
        spans = word_spans(text)
        usages = [Usage(text, span.start, span.end) for span in spans]
        return SpanVectors(spans, self.encode_usages(usages, layer=layer))

    def encode_tokens(self, text: str, *, layer: Layer | None = None) -> SpanVectors:
        """Encode every subword token of a text; tokens that stand for no character are left out."""
        spans = self.token_spans(text)
        usages = [Usage(text, span.start, span.end) for span in spans]
        return SpanVectors(spans, self.encode_usages(usages, layer=layer))

    def layer_numbers(self, layer: Layer | None = None) -> tuple[int, ...]:
        """Return the layers that ``layer`` names, counted from 0; those of the model's choice for None.

        Raises:
            InvalidInputError: If it names none, one that does not exist, or one twice.
        """
        wanted = self._checkpoint.pooling.usage_layer if layer is None else layer
        layers = (wanted,) if isinstance(wanted, int) else tuple(wanted)
        for each in layers:
            check(
                -self.num_layers - 1 <= each <= self.num_layers,
                f"layer = {each}: {self.name} has layers 0 (embedding) to {self.num_layers}, or -1 for the last",
            )
        numbers = tuple(each % (self.num_layers + 1) for each in layers)
        check(bool(numbers), "layer names no layer: give one, several, or None for the model's choice")
        check(len({*numbers}) == len(numbers), f"layer = {layers} names one layer twice: name each once")
        return numbers

    def token_spans(self, text: str) -> list[Span]:
        """Return where the tokens of a text stand; tokens inside one character are one span."""
        offsets = self.tokenizer.encode_batch([text]).offsets[0].tolist()
        return [Span(a, b, text[a:b]) for a, b in dict.fromkeys(map(tuple, offsets)) if a < b]

    def _add_sentences(self, ids: Sequence[TokenIds], result: Vectors) -> None:
        """Write the vector of each text (not normalised) into ``result`` (N, D)."""
        from ctxembed.model.pooling import pool_sentences

        how = self._checkpoint.pooling.sentence
        windows = self._windows(ids)

        def pool(states: Sequence[Tensor], members: NDArray[np.int64]) -> list[Vectors]:
            return [pool_sentences(states[0], None, how=how).cpu().numpy()]

        for (pooled,), members in self._run(ids, windows, layers=(self.num_layers,), reduce=pool):
            for vector, window in zip(pooled, (windows[i] for i in members), strict=True):
                result[window.text] += vector * (window.end - window.start)

    def _add_spans(
        self, ids: Sequence[TokenIds], places: NDArray[np.int64], result: Vectors, *, layers: Sequence[int]
    ) -> None:
        """Write the vectors of each place (text, first token, one past the last, row of ``result``), one a layer."""
        import torch

        from ctxembed.model.pooling import pool_spans

        windows = self._windows(ids, keep=np.unique(places[:, 0]).tolist())
        if self._on_long == "truncate":  # words past the cut have no vector
            places = places[places[:, 1] < self.max_length - 2]
        owner = central_windows(windows, places)
        by_window = np.argsort(owner, kind="stable")
        bounds = np.searchsorted(owner[by_window], np.arange(len(windows) + 1))

        def chosen_of(members: NDArray[np.int64]) -> NDArray[np.int64]:
            return np.concatenate([by_window[bounds[i] : bounds[i + 1]] for i in members])

        def pool(states: Sequence[Tensor], members: NDArray[np.int64]) -> list[Vectors]:
            chosen = chosen_of(members)
            rows = np.repeat(np.arange(len(members)), [bounds[i + 1] - bounds[i] for i in members])
            begin = np.array([windows[i].start for i in owner[chosen]], dtype=np.int64)
            length = states[0].size(1) - 1
            starts = np.clip(places[chosen, 1] - begin + 1, 1, length - 1)  # + 1 for the special token
            ends = np.clip(places[chosen, 2] - begin + 1, starts + 1, length)
            where = [torch.from_numpy(array).to(self._device) for array in (rows, starts, ends)]
            return [pool_spans(hidden, *where).cpu().numpy() * (ends - starts)[:, None] for hidden in states]

        for pooled, members in self._run(ids, windows, layers=layers, reduce=pool):
            for vectors, sums in zip(result, pooled, strict=True):
                np.add.at(vectors, places[chosen_of(members), 3], sums)

    def _run(
        self,
        ids: Sequence[TokenIds],
        windows: Sequence[Window],
        *,
        layers: Sequence[int],
        reduce: Reduce,
    ) -> Iterator[tuple[list[Vectors], NDArray[np.int64]]]:
        """Compute windows block by block, several blocks at a time.

        Args:
            ids: Tokens of each text.
            windows: What is computed.
            layers: Which layers are needed.
            reduce: Makes vectors of windows of one length.

        Yields:
            What ``reduce`` made, with the numbers; in an order that the windows alone decide.
        """
        from ctxembed.model.side_by_side import in_turns

        every = list(blocks(windows, most=self._network.block))
        compute = functools.partial(self._compute, ids, windows, layers, reduce)
        for made in in_turns(compute, every, share=self._network.share):
            yield from made

    def _compute(
        self,
        ids: Sequence[TokenIds],
        windows: Sequence[Window],
        layers: Sequence[int],
        reduce: Reduce,
        block: NDArray[np.int64],
    ) -> list[tuple[list[Vectors], NDArray[np.int64]]]:
        """Compute the windows whose numbers are in ``block``; see ``_run``."""
        import torch

        from ctxembed.model.packed import runs_of

        parts = [windows[number] for number in block]
        first, last = np.array([self.tokenizer.cls_id]), np.array([self.tokenizer.sep_id])
        tokens = [part for text, start, end in parts for part in (first, ids[text][start:end], last)]
        lengths = [window.end - window.start + 2 for window in parts]
        made, done = [], 0
        with torch.inference_mode():
            token_ids = torch.from_numpy(np.concatenate(tokens).astype(np.int64)).to(self._device)
            states: dict[int, Tensor] = {}
            earlier = states if len(layers) > 1 else None
            states[max(layers)] = self._network(token_ids, lengths, num_layers=max(layers), earlier=earlier)
            for begin, number, length in runs_of(lengths):
                members, texts = block[done : done + number], slice(begin, begin + number * length)
                cut_out = [states[layer][texts].view(number, length, -1) for layer in layers]
                made.append((reduce(cut_out, members), members))
                done += number
        return made

    def _windows(self, ids: Sequence[TokenIds], *, keep: Iterable[int] | None = None) -> list[Window]:
        """Cut texts into windows; a text without tokens has none."""
        width = self.max_length - 2
        windows = []
        for text in range(len(ids)) if keep is None else keep:
            length = len(ids[text])
            if length > width:
                self._count_long(length)
                if self._on_long == "truncate":
                    length = width
            windows += [Window(text, start, end) for start, end in cut(length, width)]
        return windows

    def _count_long(self, length: int) -> None:
        width = self.max_length - 2
        check(
            self._on_long != "error",
            f"a text has {length} tokens, the model takes {width}: "
            "shorten it, or use on_long window (nothing lost) or truncate",
        )
        self.long_texts.texts += 1
        self.long_texts.lost_tokens += length - width if self._on_long == "truncate" else 0


def _normalise(vectors: Vectors) -> Vectors:
    """Divide rows, (N, D) or (layers, N, D), by their length in place; a zero row stays zero."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: Vectors = np.divide(vectors, norms, out=vectors, where=norms > 0)
    return unit


def _check_texts(texts: Sequence[str]) -> None:
    check(not isinstance(texts, str), "encode takes a list of texts, not one string: write encode([text])[0]")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidInputError(f"text number {number} is {type(text).__name__} ({text!r}), need a string")
