"""Picks short plain sentences (a line each, from stdin) for the last stages: plain.py NUMBER SEED."""

import random
import re
import sys


def is_plain(text: str) -> bool:
    """Whether a sentence has 5 to 16 words, no name, no number and little punctuation."""
    words = text.split()
    names = any(word[0].isupper() for word in words[1:])
    return (
        5 <= len(words) <= 16
        and text[0].isupper()
        and text.endswith(".")
        and text.count(",") < 2
        and not (names or re.search(r"[\d\"():;=<>\[\]_/]", text))
    )


def main() -> None:
    """Write a sample of them."""
    number, seed = map(int, sys.argv[1:3])
    texts = sorted({text for text in map(str.strip, sys.stdin) if text and is_plain(text)})
    sys.stdout.writelines(text + "\n" for text in random.Random(seed).sample(texts, min(number, len(texts))))


if __name__ == "__main__":
    main()
