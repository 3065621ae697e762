"""Writes the titles of pairs read from stdin, a line each; of dictionaries and simplifications the other side too."""

import json
import sys

BOTH = ("openstax_glossary", "computing_dictionary", "wiki_simplification")

for line in sys.stdin:
    pair = json.loads(line)
    texts = (pair["anchor"], pair["positive"]) if sys.argv[1] in BOTH else (pair["anchor"],)
    sys.stdout.writelines(text.replace("\n", " ") + "\n" for text in texts)
