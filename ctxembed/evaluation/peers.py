"""Other libraries that turn text into sentence vectors, each set up as its own documentation advises.

All of them run one Hugging Face folder, mean pooling, unit length, on all threads given, in batches of 32 texts of like
length. Letters: N texts, B batch, T tokens, D width.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ctxembed.config import check
from ctxembed.errors import ArtifactError, InvalidInputError
from ctxembed.evaluation.batching import BATCH, Encode, Ids, TokenIds, batched
from ctxembed.runtime import existing, require
from ctxembed.types import Vectors

if TYPE_CHECKING:
    from ctxembed.model.checkpoint import Checkpoint

EXTRA = "peers"
PEERS = ("sentence-transformers", "sentence-transformers-bf16", "onnxruntime", "onnxruntime-int8", "openvino")
_PRECISIONS = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
LIBRARIES = ("sentence-transformers", "transformers", "torch", "onnx", "onnxruntime", "openvino")


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One system, ready to run: everything that is loaded once has been loaded."""

    system: str
    model: str
    """Whose weights it runs."""
    precision: str
    """What it multiplies in, as it says itself."""
    encode: Encode
    """Any number of texts to (N, D), in the order given."""
    encode_query: Encode | None = None
    """The same for one text alone, where the system is set up differently for that."""
    limit: int
    """Most tokens that it reads at a time, special tokens included."""
    whole: bool = False
    """Longer texts are read in windows, to the end; others are cut at the limit."""
    own: bool = False
    """It is our engine."""


@contextlib.contextmanager
def open_peers(names: Sequence[str], checkpoint: Checkpoint, weights: Path | None) -> Iterator[list[Contender]]:
    """Set up peers; the files they need beside the weights are gone when the block ends.

    Args:
        names: Some of ``PEERS``.
        checkpoint: The model that they are to run.
        weights: The same model as a Hugging Face or sentence-transformers folder; written from the checkpoint if None.

    Raises:
        MissingInputError: If there is no such folder.
        MissingLibraryError: With the pip line that installs what is missing.
        InvalidInputError: If the folder is not given, and peers have no code for such a model.
        ArtifactError: If the folder cannot be loaded.
    """
    if not names:
        yield []
        return
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is downloaded, whatever a folder asks for
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "weights" if weights is None else existing(weights)
        if weights is None:
            write_weights(checkpoint, folder)
        model, graph = checkpoint.name if weights is None else weights.absolute().name, Path(scratch) / "model.onnx"
        yield [replace(_open(name, folder, graph), model=model) for name in names]


def peer_versions() -> dict[str, str]:
    """Return the versions of the peers that are installed."""
    versions = {}
    for library in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[library] = importlib.metadata.version(library)
    return versions


def _transformers() -> Any:
    """Import transformers and let it speak of errors only."""
    library = require("transformers", EXTRA)
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
    return library


def _open(name: str, weights: Path, graph: Path) -> Contender:
    try:
        if name.startswith("sentence-transformers"):
            return _sentence_transformers(name, weights)
        if not graph.exists():
            _export_graph(weights, graph)
        return _openvino(name, weights, graph) if name == "openvino" else _onnxruntime(name, weights, graph)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{weights} cannot be loaded by {name}: {error}") from error


def _sentence_transformers(name: str, weights: Path) -> Contender:
    """Its own ``encode`` sorts by length and pads; the folder's modules.json says pooling and length."""
    import torch

    library = require("sentence_transformers", EXTRA)
    dtype = torch.bfloat16 if name.endswith("bf16") else torch.float32
    model = library.SentenceTransformer(
        str(weights), device="cpu", local_files_only=True, model_kwargs={"dtype": dtype}
    )

    def encode(texts: Sequence[str]) -> Vectors:
        vectors = model.encode(list(texts), batch_size=BATCH, show_progress_bar=False, normalize_embeddings=True)
        return np.asarray(vectors, dtype=np.float32)

    precision = str(dtype).removeprefix("torch.")
    return Contender(
        system=name, model=weights.name, precision=precision, encode=encode, limit=int(model.max_seq_length)
    )


def _export_graph(weights: Path, graph: Path) -> None:
    """Write the encoder as an ONNX graph that ends in unit sentence vectors."""
    import torch
    from torch import Tensor, nn
    from torch.nn import functional

    require("onnx", EXTRA)
    transformers = _transformers()

    class Sentences(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = transformers.AutoModel.from_pretrained(
                str(weights), local_files_only=True, attn_implementation="eager"
            )

        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state  # (B, T, D)
            real = mask[:, :, None].to(hidden.dtype)
            return functional.normalize((hidden * real).sum(1) / real.sum(1), dim=1)

    example = torch.ones(2, 8, dtype=torch.int64), torch.ones(2, 8, dtype=torch.int64)
    axes = {0: "texts", 1: "tokens"}
    with warnings.catch_warnings():  # the exporter that needs no further library is the older one, and says so
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Sentences().eval(),
            example,
            str(graph),
            input_names=["ids", "mask"],
            output_names=["vectors"],
            dynamic_axes={"ids": axes, "mask": axes, "vectors": {0: "texts"}},
            dynamo=False,
        )


def _onnxruntime(name: str, weights: Path, graph: Path) -> Contender:
    """One session on all threads; int8 is its dynamic quantisation, weights in advance and activations on the way."""
    import torch

    runtime = require("onnxruntime", EXTRA)
    int8 = name.endswith("int8")
    file = graph
    if int8:
        quantization = require("onnxruntime.quantization", EXTRA)
        file, prepared = graph.with_name("int8.onnx"), graph.with_name("prepared.onnx")
        quantization.quant_pre_process(str(graph), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_dynamic(str(prepared), str(file), weight_type=quantization.QuantType.QInt8)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def network(ids: Ids, mask: Ids) -> Vectors:
        vectors: Vectors = session.run(None, {"ids": ids, "mask": mask})[0]
        return vectors

    limit = read_limit(weights)
    precision = "int8" if int8 else "float32"
    encode = batched(_token_ids(weights, limit), lambda batches: [network(*batch) for batch in batches])
    return Contender(system=name, model=weights.name, precision=precision, encode=encode, limit=limit)


def _openvino(name: str, weights: Path, graph: Path) -> Contender:
    """Its THROUGHPUT hint runs several batches side by side, its LATENCY hint one text on all cores."""
    import torch

    library = require("openvino", EXTRA)
    core = library.Core()
    network = core.read_model(str(graph))

    def compiled(hint: str) -> Any:
        return core.compile_model(
            network, "CPU", {"PERFORMANCE_HINT": hint, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        )

    throughput, latency = compiled("THROUGHPUT"), compiled("LATENCY")

    def run(batches: list[tuple[Ids, Ids]]) -> list[Vectors]:
        found: list[Vectors] = [np.empty((0, 0), dtype=np.float32)] * len(batches)
        queue = library.AsyncInferQueue(throughput)

        def keep(request: Any, number: int) -> None:
            found[number] = request.get_output_tensor(0).data.copy()

        queue.set_callback(keep)
        for number, (ids, mask) in enumerate(batches):
            queue.start_async({"ids": ids, "mask": mask}, number)
        queue.wait_all()
        return found

    limit, single = read_limit(weights), latency.create_infer_request()
    token_ids = _token_ids(weights, limit)

    def alone(batches: list[tuple[Ids, Ids]]) -> list[Vectors]:
        return [single.infer({"ids": ids, "mask": mask})[0].copy() for ids, mask in batches]

    precision = throughput.get_property("INFERENCE_PRECISION_HINT").to_string()
    return Contender(
        system=name,
        model=weights.name,
        precision=_PRECISIONS.get(precision, precision),
        encode=batched(token_ids, run),
        encode_query=batched(token_ids, alone),
        limit=limit,
    )


def _token_ids(weights: Path, limit: int) -> TokenIds:
    """Return what makes the token ids of texts, special tokens included and cut at the limit."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(existing(weights / "tokenizer.json")))
    tokenizer.no_padding()
    tokenizer.enable_truncation(limit)
    return lambda texts: [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts))]


def read_limit(weights: Path) -> int:
    """Return the most tokens that a folder's model reads: sentence-transformers' setting, or the model's positions."""
    for name, key in (("sentence_bert_config.json", "max_seq_length"), ("config.json", "max_position_embeddings")):
        if (weights / name).exists():
            value = json.loads((weights / name).read_text(encoding="utf-8")).get(key)
            if value:
                return int(value)
    raise InvalidInputError(
        f"{weights} does not say how many tokens it reads: need max_position_embeddings in config.json"
    )


def write_weights(checkpoint: Checkpoint, folder: Path) -> None:
    """Write a model of ours as a Hugging Face folder, where BERT has the same mathematics.

    Raises:
        InvalidInputError: If it has not: rotary positions, normalisation first, or gates.
    """
    import torch
    from tokenizers import Tokenizer, processors

    from ctxembed.interop.bert import bert_name

    config, tokenizer = checkpoint.encoder.config, checkpoint.tokenizer
    same = (config.positions, config.norm, config.feed_forward) == ("learned", "post", "gelu")
    check(
        same and checkpoint.pooling.sentence == "mean",
        f"{checkpoint.name} has {config.positions} positions, {config.norm}-norm, {config.feed_forward} and "
        f"{checkpoint.pooling.sentence} pooling, which the peers have no code for: leave --against out, or give "
        "--weights with the Hugging Face folder of the same model",
    )
    transformers = _transformers()
    bert = transformers.BertConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        intermediate_size=config.intermediate_size,
        max_position_embeddings=config.max_length,
        layer_norm_eps=config.layer_norm_eps,
        type_vocab_size=max(1, config.num_token_types),
    )
    model = transformers.BertModel(bert)
    state = {bert_name(name): value for name, value in checkpoint.encoder.state_dict().items()}
    state.setdefault("embeddings.token_type_embeddings.weight", torch.zeros(1, config.hidden_size))
    model.load_state_dict({**model.state_dict(), **state})  # its pooler has no counterpart, and no say here
    model.save_pretrained(folder)
    names = {"pad": tokenizer.pad_id, "unk": tokenizer.unknown_id, "cls": tokenizer.cls_id, "sep": tokenizer.sep_id}
    names["mask"] = tokenizer.mask_id
    special = {f"{name}_token": tokenizer.token(number) for name, number in names.items()}
    first, last = special["cls_token"], special["sep_token"]
    tokenizer.save(folder)
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.post_processor = processors.TemplateProcessing(  # ours are put around the text by the embedder
        single=f"{first} $A {last}", special_tokens=[(first, tokenizer.cls_id), (last, tokenizer.sep_id)]
    )
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=config.max_length, **special)
    fast.save_pretrained(folder)
