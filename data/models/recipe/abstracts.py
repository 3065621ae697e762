"""Writes a seeded sample of the abstracts of pairs read from stdin (title, abstract), as rows of jsonl."""

import json
import random
import sys

abstracts = [json.loads(line)["positive"] for line in sys.stdin]
random.Random(5).shuffle(abstracts)
sys.stdout.writelines(json.dumps({"text": text}) + "\n" for text in abstracts[: int(sys.argv[1])])
