#!/usr/bin/env bash
# Trains the encoder and the static vectors that ship, from nothing: some eight hours of two cores without AMX, and twenty-five minutes of a GPU; `ctxembed` steps can be killed and run again with --resume.
#   CORPUS    folder of the training text (*.txt.zst, a paragraph a line; pairs/*.jsonl.zst)
#   SEMCOR    sentences with senses, jsonl (docs/formats.md)
#   TEACHERS  folder with all-MiniLM-L6-v2 and all-mpnet-base-v2 (Hugging Face folders, safetensors)
#   RUN       where everything goes
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
: "${CORPUS:?}" "${SEMCOR:?}" "${TEACHERS:?}" "${RUN:?}"
mkdir -p "$RUN"
CORPUS=$(cd "$CORPUS" && pwd) RUN=$(cd "$RUN" && pwd)
export CORPUS SEMCOR RUN # the recipes name them
files() { for name in "$@"; do echo "$CORPUS/$name.txt.zst"; done; }
mapfile -t texts < <(files wikipedia_core-00 wikipedia_core-01 wikipedia_core-02 wikipedia_tail books-00 openstax arxiv us_gov_web tech_blogs_proposals masc ud_ewt_gum \
  sgd_dialogues movie_reviews us_state_historian scp_wiki craft_pmc us_presidents computing_dictionaries cia_factbook)
mapfile -t more < <(files books-01)
mapfile -t fewer < <(files wikipedia_core-00 wikipedia_tail books-00 openstax arxiv us_gov_web tech_blogs_proposals masc ud_ewt_gum sgd_dialogues movie_reviews us_state_historian \
  scp_wiki craft_pmc)

# A tokenizer, word vectors for the first embedding layer, and masked words.
ctxembed tokenizer train "${texts[@]}" -o "$RUN/tokenizer" --vocab-size 24000 --strip-accents --sample 300000
ctxembed train static "${texts[@]}" -o "$RUN/static256" --dimension 256 --max-documents 250000 --epochs 3 --max-vocabulary 60000
ctxembed train mlm "${texts[@]}" -o "$RUN/mlm" --config "$here/mlm.toml" --tokenizer "$RUN/tokenizer" --init-embeddings "$RUN/static256" \
  --max-documents 120000 --max-steps 900 --batch-tokens 4096 --learning-rate 1.5e-3 --whole-words --mask-fraction 0.25 --seed 1

# What the teachers say: whole sentences, titles and definitions; and the content words of other sentences.
ctxembed import "$TEACHERS/all-MiniLM-L6-v2" -o "$RUN/minilm"
ctxembed embed "${texts[@]}" "${more[@]}" -m "$RUN/minilm" -o "$RUN/teacher-sentences" --split-sentences --sample 250000 --seed 12 --dtype float16
for pairs in wikipedia_title_lead arxiv_title_abstract openstax_glossary computing_dictionary wiki_simplification; do
  zstd -dc "$CORPUS/pairs/$pairs.jsonl.zst" | python3 "$here/titles.py" "$pairs"
done > "$RUN/titles.txt"
ctxembed embed "$RUN/titles.txt" -m "$RUN/minilm" -o "$RUN/teacher-titles" --dtype float16
ctxembed embed "${texts[@]}" "${more[@]}" -m "hf:$TEACHERS/all-mpnet-base-v2" -o "$RUN/teacher-words-1" --unit content-word --layer 5 --split-sentences \
  --sample 120000 --seed 11 --dtype float16
ctxembed embed "${fewer[@]}" -m "hf:$TEACHERS/all-mpnet-base-v2" -o "$RUN/teacher-words-2" --unit content-word --layer 5 --split-sentences --sample 60000 --dtype float16

# The other teacher on the texts of those words; paragraphs and abstracts.
python3 "$here/texts.py" "$RUN/teacher-words-1" "$RUN/teacher-words-2" > "$RUN/word-texts.jsonl"
ctxembed embed "$RUN/word-texts.jsonl" -m "$RUN/minilm" -o "$RUN/teacher-both" --dtype float16
ctxembed embed "${texts[@]}" "${more[@]}" -m "$RUN/minilm" -o "$RUN/teacher-paragraphs" --on-long truncate --sample 60000 --seed 13 --dtype float16
zstd -dc "$CORPUS/pairs/arxiv_title_abstract.jsonl.zst" | python3 "$here/abstracts.py" 12000 > "$RUN/abstracts.jsonl"
ctxembed embed "$RUN/abstracts.jsonl" -m "$RUN/minilm" -o "$RUN/teacher-abstracts" --on-long truncate --dtype float16

# Two stages, each as two processes, one a core.
export OMP_NUM_THREADS=1
torchrun --nproc-per-node 2 -m ctxembed_cli train recipe "$here/meaning.toml" -o "$RUN/meaning"
torchrun --nproc-per-node 2 -m ctxembed_cli train recipe "$here/sentences.toml" -o "$RUN/sentences"
unset OMP_NUM_THREADS

# One GPU: both teachers read more text than could be kept on disk, and the student follows.
mkdir -p "$RUN/gpu"
python3 "$here/gpu/choose.py" "$CORPUS" "$RUN/gpu"
python3 "$here/gpu/tokens.py" "$RUN/gpu" "$RUN/gpu" "$RUN/tokenizer/tokenizer.json" "$TEACHERS/all-MiniLM-L6-v2/tokenizer.json" "$(nproc)"
python3 "$here/gpu/follow.py" "$here/gpu/followed.toml" "$RUN/sentences" "$RUN/gpu" "$TEACHERS" "$RUN/followed" 545

# Two cores again; the mean of the weights before and after.
OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m ctxembed_cli train recipe "$here/polish.toml" -o "$RUN/polished"
python3 "$here/average.py" "$RUN/followed" "$RUN/polished" "$RUN/averaged"

# The GPU again: both teachers for whole texts too, pairs, texts that share a word; the mean of the weights before and after.
mkdir -p "$RUN/more"
python3 "$here/gpu/choose.py" "$CORPUS" "$RUN/more" 2
python3 "$here/gpu/tokens.py" "$RUN/more" "$RUN/more" "$RUN/tokenizer/tokenizer.json" "$TEACHERS/all-MiniLM-L6-v2/tokenizer.json" "$(nproc)"
python3 "$here/gpu/follow.py" "$here/gpu/further.toml" "$RUN/averaged" "$RUN/more" "$TEACHERS" "$RUN/further" 723
python3 "$here/average.py" "$RUN/averaged" "$RUN/further" "$RUN/wide"

# Two cores: short plain sentences.
for part in "1 60000 3" "2 110000 4"; do
  read -r number size seed <<< "$part"
  xz -dc "$RUN/more/short.txt.xz" | python3 "$here/plain.py" "$size" "$seed" > "$RUN/plain-$number.txt"
  ctxembed embed "$RUN/plain-$number.txt" -m "$RUN/minilm" -o "$RUN/teacher-plain-$number" --dtype float16
done
export OMP_NUM_THREADS=1
ctxembed train recipe "$here/plain.toml" -o "$RUN/plain"
torchrun --nproc-per-node 2 -m ctxembed_cli train recipe "$here/ending.toml" -o "$RUN/ending"
unset OMP_NUM_THREADS
python3 "$here/average.py" "$RUN/further" "$RUN/ending" "$RUN/ctxembed-small"

ctxembed train static "${fewer[@]}" -o "$RUN/static" --max-documents 240000 --dimension 100 --max-vocabulary 40000 --epochs 3 --seed 1
