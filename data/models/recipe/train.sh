#!/usr/bin/env bash
# Trains both models that ship, from nothing. About two hours on two cores with AMX; every step can be killed and run again with --resume.
#   CORPUS    folder of the training text (*.txt.zst, a paragraph a line; pairs/openstax_glossary.jsonl.zst)
#   TEACHERS  folder with all-MiniLM-L6-v2 and all-mpnet-base-v2 (Hugging Face folders, safetensors)
#   RUN       where everything goes
# The weights that ship were made with an earlier form of the same commands and settings.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
: "${CORPUS:?}" "${TEACHERS:?}" "${RUN:?}"
mkdir -p "$RUN"
CORPUS=$(cd "$CORPUS" && pwd)
RUN=$(cd "$RUN" && pwd)
export CORPUS RUN # distill.toml names them, relative to nothing
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

ctxembed train recipe "$here/distill.toml" -o "$RUN/ctxembed-small"

ctxembed train static "${texts[@]}" -o "$RUN/static" --max-documents 240000 --dimension 100 --max-vocabulary 40000 --epochs 3 --seed 1
