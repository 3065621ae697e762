#!/usr/bin/env bash
# Makes every figure that README.md and the model cards quote, and keeps it beside this file. Stop other work on the machine first.
#   CORPUS    folder of *.txt.zst      EVAL      folder of evaluation sets (wic/, mcl_wic_en/, stsb/, sick/, cranfield/, ...)
#   TEACHERS  folder with all-MiniLM-L6-v2, for comparison      RUN  scratch folder
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
: "${CORPUS:?}" "${EVAL:?}" "${TEACHERS:?}" "${RUN:?}"
encoder="$here/../models/encoder" static="$here/../models/static" minilm="hf:$TEACHERS/all-MiniLM-L6-v2"
parts=${*:-bench demo real-input}

bench() { # the sets that ship, then the development sets; three systems in one run
  local systems=(-m "$encoder" -m "$static" -m "$minilm")
  for kind in words retrieval; do ctxembed bench $kind "${systems[@]}" -o "$here/shipped-$kind.json" --format table; done
  for kind in words sentences retrieval; do ctxembed bench $kind --data "$EVAL" "${systems[@]}" -o "$here/dev-$kind.json" --format table; done
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

for part in $parts; do "$part"; done
