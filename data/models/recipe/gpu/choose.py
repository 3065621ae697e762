"""Picks the texts that both teachers will read: sentences, and whole paragraphs; a line each, by source.

choose.py CORPUS OUT [SEED] writes OUT/short.txt.xz and OUT/long.txt.xz, and what belongs together (a title and its
text, a term and its definition, a sentence and a simpler one) as OUT/pairs.txt.xz, a tab between. Another seed takes
other parts of the files that are not taken whole.
"""

import io
import json
import lzma
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zstandard

from ctxembed.text import sentence_spans

# Of each file: the part of its paragraphs that is taken, and the part of the longer ones of those that stays whole.
SHARES = {
    "wikipedia_core-00.txt": (0.55, 0.3),
    "wikipedia_core-01.txt": (0.55, 0.3),
    "wikipedia_core-02.txt": (0.55, 0.3),
    "us_gov_web.txt": (1, 0.3),
    "masc.txt": (1, 0.1),
    "movie_reviews.txt": (1, 0.2),
    "scp_wiki.txt": (1, 0.1),
    "ud_ewt_gum.txt": (1, 0),
    "sgd_dialogues.txt": (0.8, 0.1),
    "us_state_historian.txt": (1, 0.2),
    "craft_pmc.txt": (1, 0.4),
    "anarchist_faq.txt": (0.5, 0.2),
    "pairs/wordnet.jsonl": (1, 0),
    "pairs/gcide.jsonl": (0.4, 0),
    "wikipedia_tail.txt": (0.7, 0.3),
    "books-00.txt": (0.4, 0.12),
    "books-01.txt": (0.4, 0.12),
    "openstax.txt": (0.5, 0.3),
    "arxiv.txt": (0.85, 0.6),
    "tech_blogs_proposals.txt": (0.6, 0.3),
    "us_presidents.txt": (1, 0.2),
    "computing_dictionaries.txt": (1, 0.2),
    "cia_factbook.txt": (1, 0.2),
    "debian_docs.txt": (0.4, 0.2),
    "pairs/arxiv_title_abstract.jsonl": (0.5, 1),
    "pairs/computing_dictionary.jsonl": (1, 1),
    "pairs/openstax_glossary.jsonl": (1, 1),
    "pairs/wiki_simplification.jsonl": (1, 1),
    "pairs/wikipedia_title_lead.jsonl": (1, 1),
}
LONG_WORDS, MOST_WORDS = 45, 170
"""A paragraph of so many words may stay whole; it is cut at a sentence's end before the second number."""
MOST_CHARACTERS = {"short": 500, "long": 1800}


def lines(path: Path) -> Iterator[str]:
    """Yield the lines of a compressed file."""
    with path.open("rb") as file:
        yield from io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), "utf-8")


def clean(text: str) -> str:
    """Return a text on one line."""
    return " ".join(text.split())


def sentences(text: str) -> list[str]:
    """Return the sentences of a paragraph."""
    return [clean(text[span.start : span.end]) for span in sentence_spans(text)]


def shorten(parts: list[str]) -> str:
    """Join sentences while they fit."""
    kept, size = [], 0
    for part in parts:
        size += len(part.split())
        if kept and size > MOST_WORDS:
            break
        kept.append(part)
    return " ".join(" ".join(kept).split()[:MOST_WORDS])


def strings(name: str, row: dict[str, Any]) -> tuple[list[str], str | None]:
    """Return what is short in a pair or an entry, and what may be long."""
    if name.endswith("wordnet.jsonl"):
        gloss = () if row.get("gloss_in_eval") else (row["gloss"],)  # it stands in a test
        return [clean(text) for text in (*gloss, *row["examples"], *row["synset_examples"])], None
    if name.endswith("gcide.jsonl"):
        return [*sentences(clean(row["definition"]))[:2], *(clean(each["text"]) for each in row["quotations"])], None
    return [clean(row["anchor"])], clean(row["positive"])


def choose(path: Path, seed: str, part: float, whole: float) -> tuple[list[str], list[str]]:
    """Return the short and the long texts of a file, each once."""
    name = path.name.removesuffix(".zst")
    generator, short, long = random.Random(seed), [], []
    for line in map(str.strip, lines(path)):
        if not line or generator.random() >= part:
            continue
        few, paragraph = strings(name, json.loads(line)) if name.endswith(".jsonl") else ([], line)
        short += few
        if paragraph is None:
            continue
        if len(paragraph.split()) >= LONG_WORDS and generator.random() < whole:
            long.append(shorten(sentences(paragraph)))
        elif name.endswith(".jsonl"):
            short.append(paragraph)
        else:
            short += [each for each in sentences(paragraph) if len(each) <= MOST_CHARACTERS["short"]]
    short = [text for text in short if len(text) > 2]
    return list(dict.fromkeys(short)), [text for text in dict.fromkeys(long) if len(text) < MOST_CHARACTERS["long"]]


def pairs(path: Path) -> Iterator[str]:
    """Yield what belongs together, a tab between."""
    for row in map(json.loads, lines(path)):
        first, second = clean(row["anchor"]), shorten(sentences(row["positive"]))
        if first and second and first != second:
            yield f"{first}\t{second}\n"


def main() -> None:
    """Write the files, and the numbers of texts and words to stderr."""
    corpus, out, seed = Path(sys.argv[1]), Path(sys.argv[2]), "".join(sys.argv[3:])
    with lzma.open(out / "short.txt.xz", "wt") as short_file, lzma.open(out / "long.txt.xz", "wt") as long_file:
        for name, (part, whole) in SHARES.items():
            short, long = choose(corpus / f"{name}.zst", f"{name}.zst{seed}", part, whole)
            short_file.writelines(text + "\n" for text in short)
            long_file.writelines(text + "\n" for text in long)
            words = [sum(len(text.split()) for text in texts) for texts in (short, long)]
            sys.stderr.write(f"{name}: {len(short):,} short ({words[0]:,} words), {len(long):,} long ({words[1]:,})\n")
    with lzma.open(out / "pairs.txt.xz", "wt") as file:
        for name in SHARES:
            if name.endswith(".jsonl") and "anchor" in json.loads(next(lines(corpus / f"{name}.zst"))):
                file.writelines(pairs(corpus / f"{name}.zst"))


if __name__ == "__main__":
    main()
