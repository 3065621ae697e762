"""Models of other libraries under our Protocols: teachers for distillation and references for tests.

Needs the extra ``interop``; nothing is ever downloaded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctxembed.config import check
from ctxembed.errors import ArtifactError
from ctxembed.runtime import existing, require, sha256_file, sha256_text
from ctxembed.tokenizer import token_ranges
from ctxembed.types import LongTexts, Usage, Vectors

BATCH_TOKENS = 8192


class TransformersEncoder:
    """A local Hugging Face encoder folder; sentence vectors are the mean of its last layer's tokens."""

    def __init__(self, path: str | Path, *, device: str = "auto", max_length: int = 256) -> None:
        """Load a folder with config.json, a fast tokenizer and model.safetensors.

        Args:
            path: The folder.
            device: auto, cpu, cuda or mps.
            max_length: Longer texts are cut to so many tokens, and counted in ``long_texts``; part of the fingerprint.

        Raises:
            MissingLibraryError: Without transformers.
            ArtifactError: If the folder cannot be loaded.
        """
        from ctxembed.model.device import choose_device, choose_dtype

        transformers = require("transformers", "interop")
        transformers.utils.logging.disable_progress_bar()
        self._path = existing(path)
        self._device = choose_device(device)
        self._max_length = max_length
        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(str(self._path), local_files_only=True)
            model = transformers.AutoModel.from_pretrained(str(self._path), local_files_only=True, use_safetensors=True)
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{self._path} is no transformers model with safetensors weights: {error}") from error
        if not hasattr(getattr(model, "encoder", None), "layer"):
            raise ArtifactError(f"{self._path} is a {type(model).__name__}, not built as BERT is: use another model")
        self.long_texts = LongTexts()
        self._model: Any = model.to(self._device, choose_dtype("auto", self._device)).eval()

    @property
    def name(self) -> str:
        """The folder's name."""
        return self._path.name

    @property
    def dimension(self) -> int:
        """The width D of every vector."""
        return int(self._model.config.hidden_size)

    @property
    def fingerprint(self) -> str:
        """The sha256 over the weights and the cut."""
        return sha256_text("transformers", sha256_file(self._path / "model.safetensors"), str(self._max_length))

    def encode(self, texts: Sequence[str], *, prompt: str | None = None) -> Vectors:
        """Return float32 (N, D), L2-normalised, in the order given; an empty text is a zero row."""
        result = np.zeros((len(texts), self.dimension), dtype=np.float32)
        full = [number for number, text in enumerate(texts) if text.strip()]
        for members, hidden, mask, _ in self._run([(prompt or "") + texts[number] for number in full], layer=-1):
            pooled = (hidden * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
            result[[full[member] for member in members]] = pooled
        return _unit(result)

    def encode_usages(self, usages: Sequence[Usage], *, layer: int | None = None) -> Vectors:
        """Return float32 (N, D), L2-normalised: the mean of the word's tokens at a layer (the last by default)."""
        numbers: dict[str, list[int]] = defaultdict(list)
        for number, usage in enumerate(usages):
            numbers[usage.text].append(number)
        texts = list(numbers)
        result = np.zeros((len(usages), self.dimension), dtype=np.float32)
        for members, hidden, _, offsets in self._run(texts, layer=-1 if layer is None else layer):
            for row, member in enumerate(members):
                own = numbers[texts[member]]
                inside = np.flatnonzero(offsets[row][:, 1] > offsets[row][:, 0])
                places = offsets[row][inside]
                first, last = token_ranges(places, [usages[i].start for i in own], [usages[i].end for i in own])
                for number, start, end in zip(own, first, last, strict=True):
                    if start < end:
                        result[number] = hidden[row, inside[start:end]].mean(axis=0)
        return _unit(result)

    def _run(self, texts: Sequence[str], *, layer: int) -> Iterator[tuple[list[int], Any, Any, Any]]:
        """Yield text numbers, hidden states (B, T, D), mask (B, T) and offsets (B, T, 2), all numpy, in batches."""
        import torch

        count = len(self._layers())
        check(-count - 1 <= layer <= count, f"layer = {layer}: {self.name} has layers 0 (embedding) to {count}")
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]), reverse=True)
        with torch.inference_mode(), self._stopping_at(layer % (count + 1)):
            while order:
                size = max(1, BATCH_TOKENS // min(self._max_length, len(texts[order[0]]) // 4 + 8))
                members, order = order[:size], order[size:]
                batch = self._tokenizer(
                    [texts[number] for number in members],
                    padding=True,
                    truncation=True,
                    max_length=self._max_length,
                    return_offsets_mapping=True,
                    return_tensors="pt",
                )
                self._count_long(batch.encodings)
                offsets = batch.pop("offset_mapping").numpy().astype(np.int32)
                # With its later layers set aside, what the encoder ends with is the layer asked for.
                hidden = self._model(**batch.to(self._device)).last_hidden_state.float().cpu().numpy()
                yield members, hidden, batch["attention_mask"].cpu().numpy(), offsets

    def _count_long(self, encodings: Sequence[Any]) -> None:
        for encoding in encodings:
            if rest := encoding.overflowing:
                self.long_texts.texts += 1
                self.long_texts.lost_tokens += sum(part.special_tokens_mask.count(0) for part in rest)

    def _layers(self) -> Any:
        return self._model.encoder.layer

    def _stopping_at(self, layer: int) -> _Shortened:
        return _Shortened(self._model.encoder, layer)


class _Shortened:
    """Leaves an encoder with its first layers only while the block runs: later ones would be computed for nothing."""

    def __init__(self, encoder: Any, count: int) -> None:
        self._encoder, self._count = encoder, count

    def __enter__(self) -> None:
        self._all = self._encoder.layer
        self._encoder.layer = self._all[: self._count]

    def __exit__(self, *error: object) -> None:
        self._encoder.layer = self._all


def _unit(vectors: Vectors) -> Vectors:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vectors = np.divide(vectors, norms, out=vectors, where=norms > 0)
    return unit
