#!/usr/bin/env bash
# Makes every figure that README.md, docs/ and the model cards quote, and keeps it beside this file; figures.py then writes their tables.
# Stop other work on the machine first.
#   CORPUS    folder of *.txt.zst      EVAL      folder of evaluation sets (wic/, mcl_wic_en/, stsb/, sick/, cranfield/, ...)
#   TEACHERS  folder with all-MiniLM-L6-v2, for comparison      RUN  scratch folder
#   MODEL     all-MiniLM-L6-v2 as `ctxembed import` makes it (made in RUN if not given), for `speed`
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
: "${CORPUS:?}" "${EVAL:?}" "${TEACHERS:?}" "${RUN:?}"
encoder="$here/../models/encoder" static="$here/../models/static"
parts=${*:-duel demo real-input}

duel() { # contextual against static (docs/results.md): two models, and every lookup beside them; MODEL as for `speed`
  local model=${MODEL:-$RUN/minilm} out="$here/duel"
  [ -d "$model" ] || ctxembed import "$TEACHERS/all-MiniLM-L6-v2" -o "$model"
  local systems=(-m "$encoder" -m "$model" --against "static:$static" --against "layer0:$encoder" --against "twin:$encoder" --against "layer0:$model")
  local baselines=(--against length --against random --against constant)
  mkdir -p "$out"
  for kind in words senses; do ctxembed bench $kind "${systems[@]}" "${baselines[@]}" -o "$out/shipped-$kind.json"; done
  ctxembed bench retrieval -m "$encoder" -m "$model" --against "static:$static" --against "static+sif+common:$static" --against bm25 "${baselines[@]}" -o "$out/shipped-retrieval.json"
  for set in wic mcl_wic_en; do ctxembed bench words --data "$EVAL/$set" "${systems[@]}" "${baselines[@]}" -o "$out/$set.json"; done
  ctxembed bench similarity --data "$EVAL/wordsim" "${systems[@]}" -o "$out/wordsim.json"
  ctxembed bench similarity --data "$EVAL/wordsim" --by-frequency "${systems[@]}" -o "$out/wordsim-by-frequency.json"
  for set in stsb sick; do
    ctxembed bench sentences --data "$EVAL/$set" "${systems[@]}" --against "static+sif:$static" --against "static+sif+common:$static" --against length --against random -o "$out/$set.json"
  done
  for set in cranfield cisi adi; do
    ctxembed bench retrieval --data "$EVAL/$set" -m "$encoder" -m "$model" --against "static:$static" --against "static+sif+common:$static" --against bm25 --against length -o "$out/$set.json"
  done
  ctxembed bench senses --data "$EVAL/senseval_line_hard_serve_interest" -m "$encoder" -m "$model" --against "static:$static" --against "layer0:$encoder" --against random -o "$out/senseval.json"
}

contamination() { # sentences of the evaluation sets that the training text holds word for word
  python3 "$here/contamination.py" "$here/contamination.json" "$CORPUS" "$EVAL"
}

layers() { # the same pairs by every layer of the model that ships and of all-MiniLM-L6-v2; the model that ships with untrained weights beside
  local model=${MODEL:-$RUN/minilm} out="$here/duel/layers" set
  mkdir -p "$out"
  python3 "$here/untrained.py" "$encoder" "$RUN/untrained"
  for layer in 1 2 3 4 5 6; do
    ctxembed bench words -m "$encoder" -m "$model" --layer "$layer" -o "$out/shipped-words-$layer.json"
    for set in wic mcl_wic_en; do ctxembed bench words --data "$EVAL/$set" -m "$encoder" -m "$model" --layer "$layer" -o "$out/$set-$layer.json"; done
  done
  ctxembed bench words -m "$RUN/untrained" -o "$out/shipped-words-untrained.json"
  for set in wic mcl_wic_en; do ctxembed bench words --data "$EVAL/$set" -m "$RUN/untrained" -o "$out/$set-untrained.json"; done
  for set in stsb sick; do ctxembed bench sentences --data "$EVAL/$set" -m "$RUN/untrained" -o "$out/$set-untrained.json"; done
}

stages() { # the model that ships after each stage of its training: STAGES/meaning, sentences, followed, polished, averaged, further, wide, ending, as data/models/recipe/train.sh makes them
  local out="$here/stages" models=(-m "$encoder") stage set
  for stage in meaning sentences followed polished averaged further wide ending; do models+=(-m "${STAGES:?}/$stage"); done
  mkdir -p "$out"
  ctxembed bench words "${models[@]}" -o "$out/shipped-words.json"
  for set in wic mcl_wic_en; do ctxembed bench words --data "$EVAL/$set" "${models[@]}" -o "$out/$set.json"; done
  for set in stsb sick; do ctxembed bench sentences --data "$EVAL/$set" "${models[@]}" -o "$out/$set.json"; done
  ctxembed bench senses --data "$EVAL/senseval_line_hard_serve_interest" "${models[@]}" -o "$out/senseval.json"
  for set in cranfield cisi adi; do ctxembed bench retrieval --data "$EVAL/$set" "${models[@]}" -o "$out/$set.json"; done
}

bias() { # which pronoun the masked-word head puts after an occupation
  python3 "$here/bias.py" "$encoder" "$here/bias.json"
}

lookup-speed() { # what a lookup saves: the sample corpus into sentence vectors and word vectors, best of three
  python3 "$here/lookup_speed.py" "$encoder" "$static" ${MODEL:+"$MODEL"} > "$here/duel/lookup-speed.json"
}

demo() { # twice: the first run fills the cache of background words
  for run in cold warm; do ctxembed demo 2>&1 | tee "$here/demo.txt" | tail -n 1 | sed "s/^/demo, $run: /"; done
}

real-input() { # real text as it lies, two sizes, ten queries
  local small=(masc us_state_historian) large=(masc us_state_historian us_gov_web craft_pmc ud_ewt_gum)
  local log="$here/real-input.txt"; : > "$log"
  for size in small large; do
    local -n names=$size
    local files=(); for name in "${names[@]}"; do files+=("$CORPUS/$name.txt.zst"); done
    rm -rf "$RUN/idx-$size"
    echo "\$ ctxembed index build $(printf '%s.txt.zst ' "${names[@]}")--split-sentences -o idx-$size/" >> "$log"
    (cd "$RUN" && ctxembed index build "${files[@]}" --split-sentences -m "$encoder" -o "idx-$size" 2>> "$log")
    echo >> "$log"
  done
  while read -r query; do
    echo "\$ ctxembed search idx-large/ \"$query\" -k 3" >> "$log"
    (cd "$RUN" && ctxembed search idx-large "$query" -k 3 -m "$encoder" --format jsonl) >> "$log"
    echo >> "$log"
  done < "$here/queries.txt"
  ctxembed info --format json >> "$log"
}

million() { # peak memory of `ctxembed embed` at 100,000 and 1,000,000 short lines; the model is tiny, so that reading and writing are what is left
  local log="$here/million.txt" count; : > "$log"
  rm -rf "$RUN/million"; mkdir -p "$RUN/million"
  (cd "$RUN/million" && ctxembed train mlm "$here/../corpora/sample.jsonl" -o tiny --preset tiny --max-steps 20 --seed 1 2> /dev/null)
  for count in 100000 1000000; do
    python3 - "$CORPUS" "$count" > "$RUN/million/$count.txt" <<'PY'
import glob, io, random, sys, zstandard
chance, left = random.Random(1), int(sys.argv[2])
for path in sorted(glob.glob(sys.argv[1] + "/*.txt.zst")) * 100:
    with zstandard.open(path, "rt", encoding="utf-8") as lines:
        for words in map(str.split, lines):
            while words and left:  # pieces of 3 to 12 words, as they follow each other in real text
                size = chance.randint(3, 12)
                print(*words[:size])
                words, left = words[size:], left - 1
            if not left:
                sys.exit()
PY
    for unit in sentence word; do
      [ "$count-$unit" = 1000000-word ] && continue
      echo "\$ ctxembed embed $count.txt -m tiny/ -o vecs/ --unit $unit" >> "$log"
      rm -rf "$RUN/million/vecs"
      (cd "$RUN/million" && /usr/bin/time -f 'peak resident memory %M KiB, %e s' ctxembed embed "$count.txt" -m tiny -o vecs --unit $unit 2>> "$log")
      echo >> "$log"
    done
  done
  ctxembed info --format json >> "$log"
}

compare() { # how true the probabilities are, and how often --why puts the word that decides the sense first
  local model=${MODEL:-$RUN/minilm}
  [ -d "$model" ] || ctxembed import "$TEACHERS/all-MiniLM-L6-v2" -o "$model"
  ctxembed compare --measure reliability -m "$encoder" --static "$static" --format json > "$here/compare-reliability.json"
  ctxembed compare --measure reliability -m "$model" --no-static --format json > "$here/compare-reliability-minilm.json"
  ctxembed compare --measure why -m "$encoder" --format json > "$here/compare-why.json"
  ctxembed compare --measure why -m "$model" --format json > "$here/compare-why-minilm.json"
}

training-speed() { # tokens a second of masked-language training, and the loss after equal tokens
  ctxembed bench training "$CORPUS/openstax.txt.zst" --against ctxembed-all-tokens --against transformers-eager --against transformers-sdpa \
    --row-tokens 128 --steps 30 --repeats 3 -o "$here/training-speed.json" --format table
}

scaling() { # the Transformer beside the recurrent encoder-decoder of the same size; BUDGET in seconds, MORE=--full for half an hour
  ctxembed bench scaling "$CORPUS/masc.txt.zst" --budget "${BUDGET:-150}" --threads "${THREADS:-1}" ${MORE:-} -o "$here/scaling.json" --plot "$here/scaling.png" --format table \
    > "$here/scaling.txt"
}

speed() { # text to sentence vectors beside other libraries with the same weights, and the model that ships beside them
  local model=${MODEL:-$RUN/minilm} weights="$TEACHERS/all-MiniLM-L6-v2"
  [ -d "$model" ] || ctxembed import "$weights" -o "$model"
  ctxembed bench speed -m "$model" -m "$encoder" --weights "$weights" $(printf -- '--against %s ' ctxembed-float32 ctxembed-compiled sentence-transformers \
    sentence-transformers-bf16 onnxruntime onnxruntime-int8 openvino) $(printf -- '--workload %s ' ${WORKLOADS:-mixed titles documents query}) \
    --rows "${ROWS:-4000}" -o "$here/${OUT:-speed}.json" --format table
}

speed-documents() { # the same with documents of 2,000 words
  WORKLOADS=documents ROWS=${ROWS:-1800} OUT=speed-documents speed
}

filling() { # what equal bits in any company cost `embed`: rows of blocks without a token
  local model=${MODEL:-$RUN/minilm}
  [ -d "$model" ] || ctxembed import "$TEACHERS/all-MiniLM-L6-v2" -o "$model"
  python3 "$here/block_filling.py" "$model" "$here/block-filling.json"
}

embeddings() { # what it buys to begin the embedding layer with Word2Vec: held-out masked-word loss after equal steps
  for start in chance word2vec; do
    rm -rf "$RUN/embeddings-$start"
    ctxembed train mlm "$CORPUS/openstax.txt.zst" -o "$RUN/embeddings-$start" --max-documents 40000 --tokenizer "$encoder" --max-steps 150 --eval-every 50 --drop-fraction 0 \
      --seed 1 $([ $start = word2vec ] && echo --init-embeddings "$static")
    grep eval_loss "$RUN/embeddings-$start/metrics.jsonl" | sed "s/^{/{\"start\": \"$start\", /"
  done > "$here/embeddings.jsonl"
}

busy() { # embedding alone and beside as many programs that never rest as there are cores: how long idle threads spin decides (300,000 is OpenMP's own choice)
  local log="$here/busy.txt" spins core others round; : > "$log"
  for round in 1 2 3; do
    for company in alone beside; do
      for spins in 300000 10000; do
        others=()
        if [ $company = beside ]; then for core in $(seq "$(nproc)"); do python3 -c 'while True: pass' & others+=($!); done; fi
        rm -rf "$RUN/busy"
        /usr/bin/time -f "$company, GOMP_SPINCOUNT=$spins: %e s" env GOMP_SPINCOUNT=$spins ctxembed embed "$here/../corpora/sample.txt" -o "$RUN/busy" 2>&1 |
          grep SPINCOUNT | tee -a "$log"
        [ $company = alone ] || { kill "${others[@]}"; wait "${others[@]}" 2> /dev/null || true; }
      done
    done
  done
  ctxembed info --format json >> "$log"
}

reconstruction() { # what one vector remembers: every fifth sentence of the sample corpus, none of which the denoiser was trained on
  awk 'NR % 5 == 1' "$here/../corpora/sample.txt" > "$RUN/sentences-to-rebuild.txt"
  ctxembed reconstruct - --format jsonl < "$RUN/sentences-to-rebuild.txt" > "$RUN/rebuilt.jsonl"
  ctxembed info --format json > "$RUN/environment.json"
  python3 - "$RUN/rebuilt.jsonl" "$RUN/environment.json" > "$here/reconstruction.json" <<'PY'
import json, statistics, sys
rows = [json.loads(line) for line in open(sys.argv[1])]
means = {name: round(statistics.mean(row[name] for row in rows), 4) for name in ("overlap", "cosine")}
json.dump({"sentences": len(rows), "mean": means, "first": rows[:12], "environment": json.load(open(sys.argv[2]))}, sys.stdout, indent=2)
PY
}

import-parity() { # an imported model beside its original in transformers and sentence-transformers (which must be installed)
  local original="$TEACHERS/all-MiniLM-L6-v2" imported="$RUN/imported"
  rm -rf "$imported"
  ctxembed import "$original" -o "$imported"
  python3 "$here/import_parity.py" "$original" "$imported" "$CORPUS/ud_ewt_gum.txt.zst" "$here/import-parity.json"
}

planted-shift() { # power and false reports of `shift`: pseudo-words, and senses of labelled words, entering at known rates
  python3 "$here/planted_shift.py" "$CORPUS/us_state_historian.txt.zst" "$here/planted-shift.json" -m "$encoder" \
    --labelled "$EVAL"/senseval_line_hard_serve_interest/*.jsonl.gz
}

senses() { # groups of labelled uses beside groupings that know nothing
  python3 "$here/senses.py" "$EVAL/senseval_line_hard_serve_interest" "$here/senses${MODEL:+-${MODEL##*/}}.json" --corpus "$CORPUS/wikipedia_core-01.txt.zst" -m "${MODEL:-$encoder}"
}

index-of-words() ( # NAME FILE...: forecast, build, what it holds, three searches. Stopped and started again it goes on; a finished index is kept
  name=$1 log="$here/$1.txt" go=()
  shift
  cd "$RUN" # names without folders in the log
  [ -d "$name/.building" ] && go=(--resume)
  if [ ! -e "$name/manifest.json" ]; then
    [ -n "${go[*]}" ] || (ctxembed index build "$@" --unit word -m "$encoder" -o "$name" --dry-run 2>&1) | tee "$log"
    /usr/bin/time -f 'this run: peak resident memory %M KiB, %e s elapsed, %U s of processor' \
      nice ctxembed index build "$@" --unit word -m "$encoder" -o "$name" "${go[@]}" 2>> "$log"
  fi
  ctxembed index info "$name" --format json >> "$log"
  for query in "the [bank] of the river" "a [cell] divides" "the [plane] took off"; do
    /usr/bin/time -f "one search, start of the program included: %e s, %M KiB" \
      ctxembed search "$name" "$query" -k 3 --same-word -m "$encoder" >> "$log" 2>&1
  done
)

word-uses() { # the uses of words in a small corpus, and the same by product quantisation
  index-of-words word-uses "$CORPUS/masc.txt.zst"
  index-of-words word-uses-pq "$CORPUS/masc.txt.zst" --kind ivf-pq
}

word-index() { index-of-words word-index "$CORPUS"/wikipedia_core-0[0-1].txt.zst; } # more than ten million of them

# The table of objectives: every mixture goes on from the same masked-word model (BASE) with the steps that ten minutes of both cores allow:
# 600 seconds by the quicker quarter of a short probe's steps, so that other work on the machine takes nothing from a row.
#   VECTORS  teacher-sentences, teacher-definitions, teacher-words (data/models/recipe/train.sh makes them)     SEMCOR  its jsonl
mixtures="mlm contrastive simcse denoise sentences words both relation senses both+senses both+senses+contrastive+mlm"
objectives() {
  export CORPUS EVAL VECTORS SEMCOR BASE SEED=${SEED:-1}
  mkdir -p "$RUN/objectives"
  [ -f "$here/objectives/base.json" ] || score "$BASE" base
  for mixture in ${MIXTURES:-$mixtures}; do
    local name="$mixture-$SEED" out="$RUN/objectives/$mixture-$SEED" recipe="$RUN/objectives/$mixture.toml"
    [ -f "$here/objectives/$name.json" ] && continue
    (cd "$here/objectives" && cat head.toml $(printf '%s.toml ' ${mixture//+/ })) > "$recipe"
    if [ ! -f "$out/config.json" ]; then
      local more=--resume
      if [ ! -d "$out/.run" ]; then more=; steps "$mixture" "$recipe"; fi
      ctxembed train recipe "$recipe" -o "$out" --max-steps "$(cat "$RUN/objectives/$mixture.steps")" --seed "$SEED" $more
    fi
    score "$out" "$name"
  done
}
steps() { # of ten quiet minutes of a mixture, found once for all seeds
  [ -f "$RUN/objectives/$1.steps" ] && return
  rm -rf "$RUN/objectives/probe"
  ctxembed train recipe "$2" -o "$RUN/objectives/probe" --max-steps 30
  python3 - "$RUN/objectives/probe/metrics.jsonl" > "$RUN/objectives/$1.steps" <<'PY'
import json, statistics, sys
seconds = [line["seconds"] for line in map(json.loads, open(sys.argv[1])) if "loss" in line]
times = [after - before for before, after in zip(seconds[9:], seconds[10:])]
print(round(600 / statistics.quantiles(times, n=4)[0]))
PY
}
score() { # one model on every development set and the shipped pairs, in one file
  local part="$RUN/objectives/part"
  ctxembed bench words -m "$1" -o "$part-0.json" > /dev/null
  for set in wic mcl_wic_en; do ctxembed bench words --data "$EVAL/$set" -m "$1" -o "$part-$set.json" > /dev/null; done
  for set in stsb sick; do ctxembed bench sentences --data "$EVAL/$set" -m "$1" -o "$part-$set.json" > /dev/null; done
  ctxembed bench retrieval --data "$EVAL/cranfield" -m "$1" -o "$part-z.json" > /dev/null
  python3 - "$here/objectives/$2.json" "$1/training.json" "$part"-*.json <<'PY'
import json, sys
out, training, *parts = sys.argv[1:]
rows = [row for part in parts for row in json.load(open(part))["results"]]
notes = json.load(open(training))
kept = {name: notes.get(name) for name in ("steps", "tokens_seen", "seed", "budget", "held_out", "environment")}
json.dump({**kept, "results": rows}, open(out, "w"), indent=2)
PY
}

dropping() { # what it buys that half of the tokens pass by the middle layers: BUDGET seconds, a core each and at once, from nothing; a third of it from the model that ships, on the text of a field
  local budget=${BUDGET:-1500} out="$RUN/dropping" drop core name
  local texts=("$CORPUS/wikipedia_core-00.txt.zst" "$CORPUS/books-00.txt.zst" "$CORPUS/openstax.txt.zst" "$CORPUS/us_gov_web.txt.zst")
  mkdir -p "$out" "$RUN/objectives" "$here/dropping"
  for name in new field; do
    core=0
    for drop in 0.0 0.5; do
      local how=(--tokenizer "$encoder" --whole-words --max-documents 80000 --budget "$budget")
      [ $name = new ] || how=(--from "$encoder" --learning-rate 2e-4 --budget "$((budget / 3))")
      [ $name = new ] || texts=("$CORPUS/craft_pmc.txt.zst")
      rm -rf "$out/$name-$drop"
      taskset -c $core ctxembed train mlm "${texts[@]}" -o "$out/$name-$drop" --drop-fraction $drop "${how[@]}" --threads 1 --eval-every 50 --seed 1 &
      core=1
    done
    wait
    for drop in 0.0 0.5; do score "$out/$name-$drop" "../dropping/$name-$drop"; done
  done
  for name in new field; do
    for drop in 0.0 0.5; do grep eval_loss "$out/$name-$drop/metrics.jsonl" | sed "s/^{/{\"run\": \"$name-$drop\", /"; done
  done > "$here/dropping/curves.jsonl"
}

adapt() { # the model of STAGES/averaged (as for `stages`) goes on with pairs of a field (docs/adapt.md): alone, and with what holds the rest
  local -x CORPUS="$CORPUS" MODEL="${STAGES:?}/averaged" OUT="$RUN/adapt"
  python3 "$here/adapt/split.py" "$CORPUS/pairs/computing_dictionary.jsonl.zst" "$OUT"
  local recipe set systems=(-m "$MODEL" -m "$OUT/pairs" -m "$OUT/kept")
  for recipe in pairs kept; do
    [ -f "$OUT/$recipe/config.json" ] || ctxembed train recipe "$here/adapt/$recipe.toml" -o "$OUT/$recipe"
  done
  ctxembed bench retrieval --data "$OUT/test" "${systems[@]}" --against bm25 -o "$here/adapt/field.json"
  ctxembed bench retrieval "${systems[@]}" -o "$here/adapt/retrieval.json"
  ctxembed bench sentences --data "$EVAL/stsb" "${systems[@]}" -o "$here/adapt/stsb.json"
  ctxembed bench words --data "$EVAL/mcl_wic_en" "${systems[@]}" -o "$here/adapt/mcl_wic_en.json"
}

index() { # every kind beside bare faiss, at ROWS vectors of width 384 (synthetic, from a seeded generator); goes on where it was stopped. KINDS picks: a graph of a million rows takes long and is measured only if named
  local rows=${ROWS:-1000000}
  python3 "$here/index_kinds.py" "$rows" "$here/index-kinds-$rows.json" "$RUN/index-kinds" ${KINDS:-}
}

latency() { # one query of `ctxembed search` in every way, with and without conditions, at ROWS pieces of real text with synthetic vectors
  local rows=${ROWS:-100000}
  python3 "$here/search_latency.py" "$rows" "$CORPUS" "$RUN/latency-$rows" "$here/search-latency-$rows.json"
}

search() { # what `ctxembed search` finds on the development retrieval sets: by vector, by words, by both, ranked anew; and BM25 of another library. SETS picks; a set that is done is left
  local set out="$here/dev-search"
  mkdir -p "$out"
  for set in ${SETS:-adi cisi cranfield}; do
    [ -f "$out/$set.json" ] && continue
    ctxembed bench retrieval --data "$EVAL/$set" -m "$encoder" --against search:lexical --against search:hybrid --against search:dense+rerank \
      --against search:hybrid+rerank --against bm25 -o "$out/$set.json" --format table | tee "$out/$set.txt"
  done
}

for part in $parts; do "$part"; done
