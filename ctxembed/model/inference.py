"""The encoder laid out for embedding: tokens of many texts in one block without padding, and few, always equal shapes.

``encoder.py`` has the same mathematics to be read; tests hold the two equal. A product of matrices may add up
in another order when it has another number of rows, and kernels must be prepared for each number that is met.
Here every linear layer always sees blocks of the same number of rows: a text's vector is the same to
the last bit whatever else is computed beside it, and memory does not grow with the texts.

Letters: N tokens of a block, R its rows (N and filling), D hidden width, H heads, K head width, T tokens of a text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ctxembed.model.attention import rotary_angles
from ctxembed.model.encoder import EncoderLayer, TransformerEncoder
from ctxembed.model.packed import Mix, attention_over

BLOCK = 2048
"""Tokens computed together; texts longer than that make a block of their own."""
SMALL, ROUNDING = 32, ((32, 1), (256, 8), (BLOCK // 2, 128))
"""Rows of the blocks of a short input where its rows as one block give other bits than BLOCK rows do, and to a multiple
of what the rows of an input of up to so many tokens are rounded up: kernels must be prepared for each number."""
WAYS = (4, 3, 2, 1)
"""Blocks computed side by side: the first of these that the threads can be shared out to equally."""


class InferenceEncoder:
    """Computes what a ``TransformerEncoder`` computes, in evaluation mode and without gradients."""

    def __init__(self, encoder: TransformerEncoder) -> None:
        """Lay out the weights of an encoder, on its device and in its number format; it is kept and must not change."""
        self.encoder = encoder
        self.block = max(BLOCK, encoder.config.max_length)
        self._positions = torch.arange(encoder.config.max_length, device=next(encoder.parameters()).device)
        self._layers = [_Layer(cast(EncoderLayer, layer)) for layer in encoder.layers]
        self._shares: dict[int, int] = {}
        self._equal: dict[tuple[int, int], bool] = {}

    def __call__(
        self,
        token_ids: Tensor,
        lengths: Sequence[int],
        *,
        num_layers: int,
        earlier: dict[int, Tensor] | None = None,
    ) -> Tensor:
        """Encode texts laid end to end.

        Args:
            token_ids: int64 (N,), special tokens included, N at most ``block``.
            lengths: T of each text, at most ``max_length``; texts of one length should follow each other.
            num_layers: Stop after so many layers; 0 is the embedding layer.
            earlier: Filled with the token vectors (N, D) of every layer before that, by its number.

        Returns:
            Token vectors (N, D).
        """
        count, config = len(token_ids), self.encoder.config
        rows, step = self._shape(count)
        positions = torch.cat([self._positions[:length] for length in lengths])  # (N,)
        embedded = self.encoder.embedding(token_ids, positions)  # (N, D)
        hidden = functional.pad(embedded, (0, 0, 0, rows - count)) if rows > count else embedded  # (R, D)
        angles = None
        if config.positions == "rotary":
            tables = rotary_angles(max(lengths), config.hidden_size // config.num_heads, device=token_ids.device)
            angles = tuple(table.to(hidden.dtype)[positions, None] for table in tables)  # (N, 1, K/2) each
        mix = attention_over(
            lengths,
            heads=config.num_heads,
            width=config.hidden_size // config.num_heads,
            kind=hidden.dtype,
            device=hidden.device,
        )
        for number, layer in enumerate(self._layers[:num_layers]):
            if earlier is not None:
                earlier[number] = hidden[:count].clone()
            hidden = layer(hidden, mix, angles=angles, step=step)
        if num_layers == len(self._layers) and self.encoder.final_norm is not None:
            hidden = self.encoder.final_norm(hidden)
        return hidden[:count]

    def share(self) -> int:
        """Return the threads for each of several blocks at a time: few, where these give the bits that all give."""
        threads = torch.get_num_threads()
        if self._positions.device.type != "cpu":
            return threads
        if threads not in self._shares:
            few = threads // next(ways for ways in WAYS if threads % ways == 0)
            self._shares[threads] = few if self._has_equal_bits(self.block, few) else threads
        return self._shares[threads]

    def _shape(self, count: int) -> tuple[int, int]:
        """Return the rows for so many tokens and the rows of one product: the fewest that give the bits of a block."""
        unit = next((unit for most, unit in ROUNDING if count <= most), self.block)
        rows = -(-count // unit) * unit
        if unit != self.block and self._is_exact(rows):
            return rows, rows
        if count <= ROUNDING[1][0] and self._is_exact(SMALL):
            return -(-count // SMALL) * SMALL, SMALL
        return self.block, self.block

    def _is_exact(self, rows: int) -> bool:
        """Tell whether so many rows give the bits that they have in a block; found out when they are first met."""
        key = rows, torch.get_num_threads()
        if key not in self._equal:
            self._equal[key] = self._has_equal_bits(rows, self.share())
        return self._equal[key]

    def _has_equal_bits(self, rows: int, threads: int) -> bool:
        return all(part.has_equal_bits(rows, self.block, threads=threads) for part in self._layers[0].linears)


class _Layer:
    """An encoder layer on a block of tokens."""

    def __init__(self, layer: EncoderLayer) -> None:
        attention, self._norm_first = layer.attention, layer.norm_first
        self._num_heads = attention.num_heads
        maps = (attention.query, attention.key, attention.value)
        weight, bias = (torch.cat(parts) for parts in zip(*((each.weight, each.bias) for each in maps), strict=True))
        self._project, self._join = _Linear(weight, bias), _Linear.of(attention.output)
        self._feed_forward = layer.feed_forward
        self._plain = self._feed_forward.kind == "gelu"
        self._inner = _Linear.of(self._feed_forward.inner, gelu=self._plain)
        self._outer = _Linear.of(self._feed_forward.outer)
        self._attention_norm: Callable[[Tensor], Tensor] = layer.attention_norm
        self._feed_forward_norm: Callable[[Tensor], Tensor] = layer.feed_forward_norm
        self.linears = (self._project, self._join, self._inner, self._outer)

    def __call__(self, hidden: Tensor, mix: Mix, *, angles: tuple[Tensor, ...] | None, step: int) -> Tensor:
        """Map (R, D) to (R, D)."""
        normed = self._attention_norm(hidden) if self._norm_first else hidden
        parts = self._project(normed, step=step).view(len(hidden), 3, self._num_heads, -1)  # (R, 3, H, K)
        if angles is not None:
            _rotate(parts[: len(angles[0]), :2], angles)
        hidden = self._join(mix(parts).view(hidden.shape), plus=hidden, step=step)
        if self._norm_first:
            return self._feed(self._feed_forward_norm(hidden), plus=hidden, step=step)
        hidden = self._attention_norm(hidden)
        return self._feed_forward_norm(self._feed(hidden, plus=hidden, step=step))

    def _feed(self, hidden: Tensor, *, plus: Tensor, step: int) -> Tensor:
        inner = self._inner(hidden, step=step)
        return self._outer(inner if self._plain else self._feed_forward.activate(inner), plus=plus, step=step)


def _rotate(pairs: Tensor, angles: tuple[Tensor, ...]) -> None:
    """Turn queries and keys (N, 2, H, K) in place by the angles (N, 1, K/2) of their positions."""
    cosine, sine = (table[:, None] for table in angles)  # (N, 1, 1, K/2)
    first, second = pairs.chunk(2, dim=-1)
    turned = (first * cosine).addcmul_(second, sine, value=-1)
    second.mul_(cosine).addcmul_(first, sine)
    first.copy_(turned)


class _Linear:
    """A linear layer in blocks of rows; on CPUs with its weight reordered once, GELU and sum done on the way out."""

    def __init__(self, weight: Tensor, bias: Tensor, *, gelu: bool = False) -> None:
        self._weight, self._bias, self._gelu = weight.detach().contiguous(), bias.detach().contiguous(), gelu
        self._packed = None
        if weight.device.type == "cpu" and _has_packed_products():
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self._weight, None)

    @classmethod
    def of(cls, layer: nn.Linear, *, gelu: bool = False) -> _Linear:
        return cls(layer.weight, layer.bias, gelu=gelu)

    def __call__(self, rows: Tensor, *, step: int, plus: Tensor | None = None) -> Tensor:
        """Map (R, D) to (R, D'), ``step`` rows at a time, and add ``plus``."""
        if len(rows) <= step:
            return self._product(rows, plus)
        parts = range(0, len(rows), step)
        cut = [(rows[i : i + step], None if plus is None else plus[i : i + step]) for i in parts]
        return torch.cat([self._product(*pair) for pair in cut])

    def has_equal_bits(self, size: int, block: int, *, threads: int) -> bool:
        """Tell whether ``size`` rows alone have the bits that they have among ``block`` rows on so many threads."""
        generator = torch.Generator().manual_seed(0)
        rows = torch.randn(block, self._weight.size(1), generator=generator).to(self._weight)
        places = [slice(start, start + size) for start in {0, min(size, block - size), block - size}]
        with torch.inference_mode():
            alone, all_threads = [self._product(rows[place], None) for place in places], torch.get_num_threads()
            torch.set_num_threads(threads)
            whole = self._product(rows, None)
            torch.set_num_threads(all_threads)
        return all(torch.equal(part, whole[place]) for part, place in zip(alone, places, strict=True))

    def _product(self, rows: Tensor, plus: Tensor | None) -> Tensor:
        result: Tensor
        if self._packed is None:
            result = functional.linear(rows, self._weight, self._bias)
            result = functional.gelu(result) if self._gelu else result
            return result if plus is None else result + plus
        product = torch.ops.mkldnn._linear_pointwise
        if plus is None:
            result = product(rows, self._packed, self._bias, "gelu" if self._gelu else "none", [], "none")
        else:
            result = product.binary(rows, plus, self._packed, self._bias, "add")
        return result


def _has_packed_products() -> bool:
    """Tell whether this torch offers oneDNN's products with reordered weights, which torch.compile uses too."""
    names = ("_linear_pointwise", "_reorder_linear_weight")
    return bool(torch._C._has_mkldnn) and all(hasattr(torch.ops.mkldnn, name) for name in names)
