#!/usr/bin/env bash
# Trains both models that ship, from nothing. About two hours on two cores with AMX; every step can be killed and run again with --resume.
#   CORPUS    folder of the training text (*.txt.zst, a paragraph a line; pairs/openstax_glossary.jsonl.zst)
#   TEACHERS  folder with all-MiniLM-L6-v2 and all-mpnet-base-v2 (Hugging Face folders, safetensors)
#   RUN       where everything goes
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
: "${CORPUS:?}" "${TEACHERS:?}" "${RUN:?}"
names="wikipedia_core-00 wikipedia_tail books-00 openstax arxiv us_gov_web tech_blogs_proposals masc ud_ewt_gum sgd_dialogues
       movie_reviews us_state_historian scp_wiki craft_pmc"
texts=(); for name in $names; do texts+=("$CORPUS/$name.txt.zst"); done
definitions="$CORPUS/pairs/openstax_glossary.jsonl.zst"

ctxembed train mlm "${texts[@]}" -o "$RUN/mlm" --config "$here/mlm.toml" --max-documents 240000 \
  --max-steps 4200 --batch-tokens 4096 --learning-rate 1e-3 --seed 1

# What the teachers say: whole sentences and definitions, and the content words of the same sentences.
ctxembed embed "${texts[@]}" -m "hf:$TEACHERS/all-MiniLM-L6-v2" -o "$RUN/teacher-sentences" --split-sentences --sample 100000 --dtype float16
ctxembed embed "$definitions" --text-column positive -m "hf:$TEACHERS/all-MiniLM-L6-v2" -o "$RUN/teacher-definitions" --dtype float16
ctxembed embed "${texts[@]}" -m "hf:$TEACHERS/all-mpnet-base-v2" -o "$RUN/teacher-words" --unit content-word --layer 5 --split-sentences --sample 100000 --dtype float16

ctxembed train distill --init "$RUN/mlm" --sentences "$RUN/teacher-sentences" --sentences "$RUN/teacher-definitions" \
  --words "$RUN/teacher-words" --config "$here/distill.toml" -o "$RUN/ctxembed-small" \
  --max-steps 3200 --batch-tokens 4096 --learning-rate 5e-4 --seed 1

ctxembed train static "${texts[@]}" -o "$RUN/static" --max-documents 240000 --dimension 100 --max-vocabulary 40000 --epochs 3 --seed 1
