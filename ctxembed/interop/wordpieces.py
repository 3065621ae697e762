"""The tokenizer of a Hugging Face folder, such that every text gets the tokens that transformers gives it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ctxembed.errors import ArtifactError, InvalidInputError
from ctxembed.interop.files import read_json
from ctxembed.tokenizer import FILE_NAME, SPECIAL_TOKENS, SubwordTokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

VOCABULARY, SETTINGS = "vocab.txt", "tokenizer_config.json"
_UNLIMITED = 10**9  # transformers writes 10^30 for "no limit"


class FoundTokenizer(NamedTuple):
    """A tokenizer with what its settings say besides."""

    tokenizer: SubwordTokenizer
    max_length: int | None
    """Most tokens of a text, special ones included, if there is a limit."""
    notes: list[str]


def read_tokenizer(folder: Path, *, lowercase: bool = False) -> FoundTokenizer:
    """Read tokenizer.json, or make BERT's tokenizer from vocab.txt.

    Args:
        folder: Where the files are.
        lowercase: Text is to be made lower case first, whatever the tokenizer does.

    Raises:
        InvalidInputError: If it puts other tokens around a text than [CLS] and [SEP] (or their namesakes).
        ArtifactError: If there is no tokenizer, or it is damaged.
    """
    settings = read_json(folder / SETTINGS, dict, default={})
    notes: list[str] = []
    if (folder / FILE_NAME).is_file():
        state = read_json(folder / FILE_NAME, dict)
        notes += _overrule(state, settings)
    elif (folder / VOCABULARY).is_file():
        state = json.loads(_from_vocabulary(folder / VOCABULARY, settings).to_str())
    else:
        raise ArtifactError(f"{folder} has neither {FILE_NAME} nor {VOCABULARY}: copy the model anew")
    if lowercase and not _has_lowercase(state.get("normalizer")):
        steps = [{"type": "Lowercase"}, *filter(None, [state.get("normalizer")])]
        state["normalizer"] = {"type": "Sequence", "normalizers": steps}
    state["padding"] = state["truncation"] = None  # windows are the embedder's, and nothing is cut unseen
    tokenizer = _load(state, folder)
    limit = settings.get("model_max_length")
    known = isinstance(limit, int) and 0 < limit < _UNLIMITED
    return FoundTokenizer(tokenizer, limit if known else None, notes)


def _load(state: dict[str, Any], folder: Path) -> SubwordTokenizer:
    """Build the tokenizer and see that it frames a text as the embedder does."""
    from tokenizers import Tokenizer

    try:
        given = Tokenizer.from_str(json.dumps(state))
        tokenizer = SubwordTokenizer(Tokenizer.from_str(json.dumps(state)))
        ends = {tokenizer.pad_id, tokenizer.unknown_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id}
        for token in state.get("added_tokens", ()):  # those of the model's own, markers say, it knows in a text
            token["special"] = token["id"] in ends
        text = json.dumps(state, ensure_ascii=False)
        tokenizer = SubwordTokenizer(Tokenizer.from_str(text), text=text)
    except Exception as error:  # tokenizers raises bare Exception for any damage
        raise ArtifactError(
            f"the tokenizer of {folder} cannot be used here ({error}): copy the model anew, or use it with -m hf:FOLDER"
        ) from error
    plain, framed = (given.encode("a", add_special_tokens=each).ids for each in (False, True))
    if given.post_processor is not None and framed != [tokenizer.cls_id, *plain, tokenizer.sep_id]:
        raise InvalidInputError(
            f"the tokenizer of {folder} makes {given.encode('a').tokens} of 'a', import takes one token before a "
            "text and one after it, as BERT has: use it as it is with -m hf:FOLDER"
        )
    return tokenizer


def _bert_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return BERT's normalisation as tokenizer_config.json decides it, with transformers' defaults."""
    return {
        "handle_chinese_chars": settings.get("tokenize_chinese_chars", True),
        "strip_accents": settings.get("strip_accents"),
        "lowercase": settings.get("do_lower_case", True),
    }


def _overrule(state: dict[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Let tokenizer_config.json overrule tokenizer.json, as it does in transformers' BertTokenizer; tell of it."""
    normalizer = state.get("normalizer") or {}
    maker = settings.get("tokenizer_class", "BertTokenizer")
    if (
        not settings
        or maker not in ("BertTokenizer", "BertTokenizerFast")
        or normalizer.get("type") != "BertNormalizer"
    ):
        return []
    wanted = _bert_settings(settings)
    changed = [f"{name} = {value}" for name, value in wanted.items() if normalizer.get(name) != value]
    normalizer.update(wanted)
    return [f"{SETTINGS} overrules {FILE_NAME}, as in transformers: {', '.join(changed)}"] if changed else []


def _has_lowercase(normalizer: Any) -> bool:
    if not isinstance(normalizer, dict):
        return False
    within = normalizer.get("normalizers") or ()
    return (
        normalizer.get("type") == "Lowercase" or bool(normalizer.get("lowercase")) or any(map(_has_lowercase, within))
    )


def _from_vocabulary(file: Path, settings: Mapping[str, Any]) -> Tokenizer:
    """Make BERT's WordPiece tokenizer; a line of the file is a token, its number the id."""
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

    try:
        tokens = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{file} is not UTF-8 ({error}): copy the model anew") from error
    vocabulary = {token: number for number, token in enumerate(tokens)}
    more = [
        token for token in read_json(file.with_name("added_tokens.json"), dict, default={}) if token not in vocabulary
    ]
    names = {name: _special(settings, name) for name in SPECIAL_TOKENS}
    if lost := [name for name in names.values() if name not in vocabulary]:
        raise ArtifactError(f"{file} has no {', '.join(lost)}: copy the model anew")
    if more:
        raise InvalidInputError(
            f"{file.parent} has added tokens ({', '.join(more[:3])}) beside {VOCABULARY}: let transformers write them "
            f"into {FILE_NAME}, AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=names["[UNK]"]))
    tokenizer.normalizer = normalizers.BertNormalizer(clean_text=True, **_bert_settings(settings))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    first, last = names["[CLS]"], names["[SEP]"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", special_tokens=[(name, vocabulary[name]) for name in (first, last)]
    )
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in names.values()])
    return tokenizer


def _special(settings: Mapping[str, Any], name: str) -> str:
    """Return what a special token is called here; tokenizer_config.json writes it as a string or an object."""
    found = settings.get(f"{name.strip('[]').lower()}_token", name)
    return str(found.get("content", name) if isinstance(found, dict) else found)
