"""Models of other libraries under our Protocols: teachers for distillation and references for tests.

Needs the extra ``interop``; nothing is ever downloaded.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from ctxembed.config import check
from ctxembed.errors import ArtifactError
from ctxembed.interop.files import weight_files
from ctxembed.runtime import existing, require, sha256_file, sha256_text
from ctxembed.tokenizer import token_ranges
from ctxembed.types import LongTexts, Scalar, Usage, Vectors

if TYPE_CHECKING:
    from torch import Tensor

BATCH_TOKENS = 8192


class TransformersEncoder:
    """A local Hugging Face encoder folder; sentence vectors are the mean of its last layer's tokens."""

    def __init__(
        self,
        path: str | Path,
        *,
        device: str = "auto",
        max_length: int = 256,
        on_long: Literal["truncate", "error"] = "truncate",
    ) -> None:
        """Load a folder with config.json, a fast tokenizer and weights as safetensors, in one file or several.

        Args:
            path: The folder.
            device: auto, cpu, cuda or mps.
            max_length: Most tokens that are read of a text; part of the fingerprint.
            on_long: Longer texts are cut, and counted in ``long_texts``, or refused.

        Raises:
            MissingLibraryError: Without transformers.
            ArtifactError: If the folder cannot be loaded.
        """
        from ctxembed.model.device import choose_device, choose_dtype

        transformers = require("transformers", "interop")
        transformers.utils.logging.disable_progress_bar()
        self._path = existing(path)
        self._device = choose_device(device)
        self._max_length, self._on_long = max_length, on_long
        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(str(self._path), local_files_only=True)
            model = transformers.AutoModel.from_pretrained(str(self._path), local_files_only=True, use_safetensors=True)
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{self._path} is no transformers model with safetensors weights: {error}") from error
        if model.config.is_encoder_decoder:
            raise ArtifactError(f"{self._path} is a {type(model).__name__}, encoder and decoder: use an encoder alone")
        self._written: str = self._tokenizer.backend_tokenizer.to_str()  # before a call sets where it cuts
        self.long_texts = LongTexts()
        self._dtype = choose_dtype("auto", self._device)
        self._model: Any = model.to(self._device, self._dtype).eval()
        self._layers = _layer_list(model)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self._path.name

    @property
    def dimension(self) -> int:
        """The width D of every vector."""
        return int(self._model.config.hidden_size)

    @property
    def num_layers(self) -> int:
        """Encoder layers; ``layer`` may be 0 (the embedding) to this."""
        return int(self._model.config.num_hidden_layers)

    @functools.cached_property
    def fingerprint(self) -> str:
        """The sha256 over weights, tokenizer, configuration and the cut."""
        weights = [sha256_file(path) for path in weight_files(self._path)]
        config = (self._path / "config.json").read_text(encoding="utf-8")
        return sha256_text("transformers", *weights, self._written, config, str(self._max_length))

    @property
    def conditions(self) -> Mapping[str, Scalar]:
        """What else decides the last bits of a vector: vectors kept in one folder are all made under the same."""
        return {"precision": str(self._dtype).removeprefix("torch."), "on_long": self._on_long}

    def encode(self, texts: Sequence[str], *, prompt: str | None = None) -> Vectors:
        """Return float32 (N, D), L2-normalised, in the order given; an empty text is a zero row."""
        from ctxembed.model.pooling import pool_sentences

        result = np.zeros((len(texts), self.dimension), dtype=np.float32)
        full = [number for number, text in enumerate(texts) if text.strip()]
        encodings = self._tokenise([(prompt or "") + texts[number] for number in full])
        for members, hidden, lengths in self._run(encodings, layer=-1):
            result[[full[member] for member in members]] = pool_sentences(hidden, lengths).cpu().numpy()
        return _unit(result)

    def encode_usages(self, usages: Sequence[Usage], *, layer: int | None = None) -> Vectors:
        """Return float32 (N, D), L2-normalised: the mean of the word's tokens at a layer (the last by default).

        Layer 0 is the embedding and the last comes after the model's final normalisation, if it has one, as in the
        library's ``hidden_states``.
        """
        import torch

        from ctxembed.model.pooling import pool_spans

        numbers: dict[str, list[int]] = defaultdict(list)
        for number, usage in enumerate(usages):
            numbers[usage.text].append(number)
        owners = list(numbers.values())
        encodings = self._tokenise(list(numbers))
        words = [
            _word_places(encoding, [usages[number] for number in own])
            for encoding, own in zip(encodings, owners, strict=True)
        ]
        result = np.zeros((len(usages), self.dimension), dtype=np.float32)
        for members, hidden, _ in self._run(encodings, layer=-1 if layer is None else layer):
            rows = np.repeat(np.arange(len(members)), [len(owners[member]) for member in members])
            starts, ends = np.concatenate([words[member] for member in members], axis=1)
            chosen = np.concatenate([owners[member] for member in members])
            there = starts < ends
            places = (torch.from_numpy(each[there]).to(hidden.device) for each in (rows, starts, ends))
            result[chosen[there]] = pool_spans(hidden, *places).cpu().numpy()
        return _unit(result)

    def _tokenise(self, texts: list[str]) -> list[Any]:
        """Return the ``tokenizers`` encoding of each text, not padded; long ones are cut and counted, or refused."""
        if not texts:
            return []
        batch = self._tokenizer(texts, truncation=True, max_length=self._max_length)
        for encoding in batch.encodings:
            lost = sum(part.special_tokens_mask.count(0) for part in encoding.overflowing)
            check(
                not lost or self._on_long == "truncate",
                f"a text has {lost:,} tokens more than the {self._max_length} that {self.name} is given: shorten it, "
                "use on_long truncate, or import the model, which reads long texts in windows",
            )
            self.long_texts.texts += bool(lost)
            self.long_texts.lost_tokens += lost
        return list(batch.encodings)

    def _run(self, encodings: Sequence[Any], *, layer: int) -> Iterator[tuple[list[int], Tensor, Tensor | None]]:
        """Yield text numbers, hidden states (B, T, D), and lengths (B,) or None, in batches of like length."""
        import torch

        count = self._model.config.num_hidden_layers
        check(-count - 1 <= layer <= count, f"layer = {layer}: {self.name} has layers 0 (embedding) to {count}")
        order = sorted(range(len(encodings)), key=lambda number: len(encodings[number]), reverse=True)
        with torch.inference_mode():
            while order:
                size = max(1, BATCH_TOKENS // len(encodings[order[0]]))
                members, order = order[:size], order[size:]
                lengths = torch.tensor([len(encodings[member]) for member in members])
                ids = torch.full((len(members), int(lengths.max())), self._tokenizer.pad_token_id or 0)
                for row, member in enumerate(members):
                    ids[row, : lengths[row]] = torch.tensor(encodings[member].ids)
                padded = bool((lengths != lengths[0]).any())
                mask = (torch.arange(ids.size(1)) < lengths[:, None]).long() if padded else torch.ones_like(ids)
                hidden = self._hidden(ids.to(self._device), mask.to(self._device), layer % (count + 1))
                yield members, hidden, lengths.to(self._device) if padded else None

    def _hidden(self, ids: Tensor, mask: Tensor, layer: int) -> Tensor:
        """Return the states of a layer, (B, T, D), without computing later layers where these can be found."""
        inputs = {"input_ids": ids, "attention_mask": mask}
        if layer == self._model.config.num_hidden_layers:
            return cast("Tensor", self._model(**inputs).last_hidden_state)
        if self._layers is None:
            return cast("Tensor", self._model(**inputs, output_hidden_states=True).hidden_states[layer])
        hook = self._layers[layer].register_forward_pre_hook(_stop, with_kwargs=True)
        try:
            self._model(**inputs)
        except _Reached as reached:
            return reached.hidden
        finally:
            hook.remove()
        raise ArtifactError(f"{self.name} does not say what goes into its layer {layer + 1}: use another model")


class _Reached(Exception):  # noqa: N818 (not an error)
    """Ends a forward pass at the layer asked for, with what comes into the next one."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


def _stop(_module: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    hidden = args[0] if args else kwargs.get("hidden_states")
    if hidden is not None:
        raise _Reached(hidden)


def _layer_list(model: Any) -> Any:
    """Return the layers of a model, or None if they are not one list: models that share layers, say."""
    import torch

    count = model.config.num_hidden_layers
    lists = [each for each in model.modules() if isinstance(each, torch.nn.ModuleList) and len(each) == count]
    return lists[0] if len(lists) == 1 else None


def _word_places(encoding: Any, usages: Sequence[Usage]) -> NDArray[np.int64]:
    """Return the first token of each word and one past its last, (2, N), special tokens counted; equal for none."""
    offsets = np.array(encoding.offsets, dtype=np.int32)
    inside = np.flatnonzero(offsets[:, 1] > offsets[:, 0])
    first, last = token_ranges(offsets[inside], [usage.start for usage in usages], [usage.end for usage in usages])
    there = first < last
    places = np.zeros((2, len(usages)), dtype=np.int64)
    places[:, there] = inside[first[there]], inside[last[there] - 1] + 1
    return places


def _unit(vectors: Vectors) -> Vectors:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vectors = np.divide(vectors, norms, out=vectors, where=norms > 0)
    return unit
