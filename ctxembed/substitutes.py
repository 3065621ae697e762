"""What a masked-word model would write in the place of a word: readable labels for a use of it.

Letters: N uses, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ctxembed.embedder import Embedder
from ctxembed.text import is_content_word, word_form
from ctxembed.types import Usage

USUAL = 0.5
"""How much a word is held back for fitting anywhere: this share of its log-probability without any context."""


def substitutes(embedder: Embedder, usages: Sequence[Usage], *, number: int = 5) -> list[str]:
    """Find the words that fit best in the place of several uses of a word, averaged over the uses.

    The uses' words are hidden by one mask token each; texts are cut to what one window holds around the word.

    Args:
        embedder: A model, with a masked-word head or without.
        usages: N uses, of one sense.
        number: Words wanted.

    Returns:
        Whole content words of the vocabulary, the likeliest first, without the forms that stand there; none if the
        model has no masked-word head.
    """
    import torch

    checkpoint = embedder.checkpoint
    if checkpoint.head is None or not usages:
        return []
    tokenizer, room = checkpoint.tokenizer, embedder.max_length - 3
    parts = [(u.text[: u.start], u.text[u.end :]) for u in usages]
    left, right = tokenizer.encode_ids([a for a, _ in parts]), tokenizer.encode_ids([b for _, b in parts])
    total = np.zeros(len(tokenizer), dtype=np.float64)
    table = checkpoint.encoder.embedding.tokens.weight.float().cpu()
    with torch.inference_mode():
        for before, after in zip(left, right, strict=True):
            start = max(len(before) - max(room // 2, room - len(after)), 0)
            kept = before[start:], after[: room - min(len(before) - start, room)]
            ids = [tokenizer.cls_id, *kept[0], tokenizer.mask_id, *kept[1], tokenizer.sep_id]
            row = torch.tensor([ids], dtype=torch.int64, device=embedder.device)
            at = torch.tensor([len(kept[0]) + 1], device=embedder.device)
            hidden = checkpoint.encoder.at(row, at).float().cpu()  # (1, D)
            total += torch.log_softmax(checkpoint.head(hidden, table), dim=-1)[0, : len(total)].double().numpy()
    neutral = torch.tensor([[tokenizer.cls_id, tokenizer.mask_id, tokenizer.sep_id]], device=embedder.device)
    with torch.inference_mode():
        hidden = checkpoint.encoder.at(neutral, torch.tensor([1], device=embedder.device)).float().cpu()
        usual = torch.log_softmax(checkpoint.head(hidden, table), dim=-1)[0, : len(total)].double().numpy()
    total = total / len(usages) - USUAL * usual
    own = {word_form(usage.word) for usage in usages}
    starts = tokenizer.word_starts()
    starts[tokenizer.unknown_id] = False  # it would be written out
    words: list[str] = []
    for token in np.argsort(-total, kind="stable"):
        form = word_form(tokenizer.decode([int(token)])) if starts[token] else ""
        if form and is_content_word(form) and form not in own and form not in words:
            words.append(form)
            if len(words) == number:
                break
    return words
