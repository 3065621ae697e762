"""Both teachers as functions of token ids, BERT (Devlin et al. 2019) and MPNet (Song et al. 2020).

Letters: B texts, T tokens, D width, H heads.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

NAMES = {  # ours, BERT's, MPNet's
    "query": ("attention.self.query", "attention.attn.q"),
    "key": ("attention.self.key", "attention.attn.k"),
    "value": ("attention.self.value", "attention.attn.v"),
    "output": ("attention.output.dense", "attention.attn.o"),
    "attention_norm": ("attention.output.LayerNorm", "attention.LayerNorm"),
    "up": ("intermediate.dense", "intermediate.dense"),
    "down": ("output.dense", "output.dense"),
    "norm": ("output.LayerNorm", "output.LayerNorm"),
}
MPNET_SHIFT, MPNET_SPECIAL = 4, {101: 0, 102: 2, 0: 1}
"""MPNet has BERT's word pieces, four numbers on; [CLS], [SEP] and [PAD] are its <s>, </s> and <pad>."""


@dataclass(frozen=True)
class Shape:
    """What the weights alone do not say."""

    num_layers: int
    num_heads: int = 12
    norm_eps: float = 1e-12


MINILM, MPNET = Shape(num_layers=6), Shape(num_layers=12, norm_eps=1e-5)


class Teacher:
    """The layers of a BERT or MPNet."""

    def __init__(self, folder: Path, shape: Shape, *, device: torch.device, dtype: torch.dtype) -> None:
        """Load a Hugging Face folder. Matrices are rounded to 255 steps a row: cosines to unrounded ones are .9995."""
        self.shape = shape
        stored = load_file(str(folder / "model.safetensors"))
        weights = {re.sub(r"^(bert|mpnet)\.", "", name): round_rows(weight) for name, weight in stored.items()}
        weights = {name: weight.to(device, dtype) for name, weight in weights.items()}
        self.relative = weights.get("encoder.relative_attention_bias.weight")
        self.is_mpnet = self.relative is not None
        self.table = weights["embeddings.word_embeddings.weight"]
        positions = weights["embeddings.position_embeddings.weight"]
        self.positions = (
            positions[2:] if self.is_mpnet else positions + weights["embeddings.token_type_embeddings.weight"][0]
        )
        self.norm = weights["embeddings.LayerNorm.weight"], weights["embeddings.LayerNorm.bias"]
        self.layers = [self._layer(weights, number) for number in range(shape.num_layers)]

    def _layer(self, weights: dict[str, Tensor], number: int) -> dict[str, tuple[Tensor, Tensor]]:
        parts = {
            name: tuple(weights[f"encoder.layer.{number}.{names[self.is_mpnet]}.{kind}"] for kind in ("weight", "bias"))
            for name, names in NAMES.items()
        }
        joined = zip(parts.pop("query"), parts.pop("key"), parts.pop("value"), strict=True)
        return {**parts, "project": tuple(torch.cat(each) for each in joined)}

    @torch.no_grad()
    def __call__(self, ids: Tensor, lengths: Tensor, *, num_layers: int | None = None) -> list[Tensor]:
        """Return the layers' outputs, (B, T, D) each, for BERT's ids (B, T) and lengths (B,)."""
        texts, width = ids.shape
        real = torch.arange(width, device=ids.device) < lengths[:, None]  # (B, T)
        ids = ids * real
        if self.is_mpnet:
            shifted = ids + MPNET_SHIFT
            for own, other in MPNET_SPECIAL.items():
                shifted = shifted.masked_fill(ids == own, other)
            ids = shifted
        bias = torch.zeros(texts, 1, 1, width, device=ids.device, dtype=self.table.dtype)
        bias = bias.masked_fill(~real[:, None, None], -1e4)
        if self.relative is not None:
            bias = bias + self.relative[distance_buckets(width, ids.device)].permute(2, 0, 1)  # (B, H, T, T)
        bias = bias.expand(texts, self.shape.num_heads, width, width)
        hidden = self._normed(self.table[ids] + self.positions[:width], self.norm)
        states = [hidden]
        for layer in self.layers[:num_layers]:
            states.append(self._through(layer, states[-1], bias))
        return states

    def _through(self, layer: dict[str, tuple[Tensor, Tensor]], hidden: Tensor, bias: Tensor) -> Tensor:
        texts, width, size = hidden.shape
        projected = functional.linear(hidden, *layer["project"]).view(texts, width, 3, self.shape.num_heads, -1)
        query, key, value = projected.permute(2, 0, 3, 1, 4)  # (B, H, T, D / H) each
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        mixed = mixed.transpose(1, 2).reshape(texts, width, size)
        hidden = self._normed(hidden + functional.linear(mixed, *layer["output"]), layer["attention_norm"])
        inner = functional.gelu(functional.linear(hidden, *layer["up"]))
        return self._normed(hidden + functional.linear(inner, *layer["down"]), layer["norm"])

    def _normed(self, hidden: Tensor, norm: tuple[Tensor, Tensor]) -> Tensor:
        return functional.layer_norm(hidden, hidden.shape[-1:], *norm, self.shape.norm_eps)


def round_rows(weight: Tensor) -> Tensor:
    """Round a large matrix to whole multiples of a scale a row; anything else stays as it is."""
    if weight.ndim != 2 or weight.numel() <= 100_000:
        return weight
    scale = weight.abs().amax(dim=1, keepdim=True).clamp_min(1e-8) / 127
    return (weight / scale).round() * scale.half().float()


def distance_buckets(width: int, device: torch.device) -> Tensor:
    """Return MPNet's 32 buckets of relative positions (T, T): each way 8 exact ones, then 8 by logarithm up to 128."""
    places = torch.arange(width, device=device)
    ahead = places - places[:, None]  # (T, T), of the key from the query
    distance = ahead.abs()
    far = 8 + (torch.log(distance.float().clamp_min(1) / 8) / math.log(128 / 8) * 8).long()
    return (ahead > 0).long() * 16 + torch.where(distance < 8, distance, far.clamp_max(15))
