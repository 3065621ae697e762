"""The plain encoder as torch.compile makes it: ``model/encoder.py`` beside the engine written by hand.

Letters: N texts, D width.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from ctxembed.errors import MissingLibraryError
from ctxembed.evaluation.batching import Batches, Encode, batched
from ctxembed.types import Vectors

if TYPE_CHECKING:
    from ctxembed.model.checkpoint import Checkpoint


def compiled_encode(checkpoint: Checkpoint, dtype: Any) -> Encode:
    """Compile the encoder, its weights as constants, for any number of texts and tokens.

    Args:
        checkpoint: The model; it stays as it is.
        dtype: The torch number format that is computed in.

    Returns:
        Texts to float32 (N, D), of unit length, as far as ``max_length`` reaches.

    Raises:
        MissingLibraryError: If torch finds no C++ compiler that it can use.
    """
    import torch
    from torch.nn import functional

    from ctxembed.model.encoder import EncoderLayer, EncoderOutput
    from ctxembed.model.pooling import pool_sentences

    encoder = copy.deepcopy(checkpoint.encoder).to(dtype).eval()
    for layer in encoder.layers:
        cast(EncoderLayer, layer).attention.fused = False  # what is written out is for the compiler to fuse
    # It asks whether rows are padded, so that the graph has two parts: nothing to warn of.
    logging.getLogger("torch._dynamo").setLevel(logging.ERROR)
    network = torch.compile(encoder, dynamic=True, options={"freezing": True})

    def run(batches: Batches) -> list[Vectors]:
        made = []
        with torch.no_grad():
            for ids, mask in batches:
                lengths = torch.from_numpy(mask.sum(axis=1))
                found: EncoderOutput = network(torch.from_numpy(ids), lengths)
                pooled = pool_sentences(found.last, lengths, how=checkpoint.pooling.sentence)
                made.append(functional.normalize(pooled, dim=1).numpy())
        return made

    tokenizer, limit = checkpoint.tokenizer, checkpoint.encoder.config.max_length

    def token_ids(texts: Sequence[str]) -> list[list[int]]:
        return [[tokenizer.cls_id, *ids[: limit - 2], tokenizer.sep_id] for ids in tokenizer.encode_ids(texts)]

    encode = batched(token_ids, run)
    try:
        encode(["compiled before anything is timed", "for any length"])
    except RuntimeError as error:  # torch's own kinds of errors are of this kind
        raise MissingLibraryError(
            f"torch.compile does not work here ({str(error).splitlines()[0]}): install a C++ compiler such as g++, "
            "or leave --against ctxembed-compiled out"
        ) from error
    return encode
