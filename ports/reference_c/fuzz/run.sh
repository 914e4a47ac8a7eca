#!/bin/sh
# libFuzzer on every target, two at a time, for MINUTES in all. Usage: run.sh BUILD GOLDEN MINUTES
#
# The last line says how many executions and findings there were; a finding is an exit code of 1, and its input is kept.
set -eu
build=$1 golden=$2 minutes=$3
findings="$build/findings"
# seconds: four targets, two at a time; 0 would be for ever
each=$(awk -v minutes="$minutes" 'BEGIN { each = int(minutes * 60 / 2); print each < 1 ? 1 : each }')
mkdir -p "$findings"

# fuzz TARGET LONGEST: from the golden files on; a run of a minute is a hang (others may need the processors), 1 GB a leak.
fuzz() {
    rm -rf "$build/corpus_$1"
    mkdir "$build/corpus_$1"
    "$build/replay_$1" "$golden" --corpus "$build/corpus_$1" >/dev/null
    "$build/fuzz_$1" -max_total_time=$each -max_len="$2" -timeout=60 -rss_limit_mb=1024 -detect_leaks=0 -print_final_stats=1 \
        -artifact_prefix="$findings/$1-" "$build/corpus_$1" >"$build/fuzz_$1.log" 2>&1 || echo "$1" >>"$findings/targets"
}

rm -f "$findings"/*
(fuzz body 4096; fuzz records 4096) & first=$!
(fuzz attach 16384; fuzz table 16384) & second=$!
trap 'kill $first $second 2>/dev/null || true' INT TERM
wait $first
wait $second

total=0
for target in attach body records table; do
    runs=$(sed -n 's/^stat::number_of_executed_units: //p' "$build/fuzz_$target.log")
    covered=$(sed -n 's/.*cov: \([0-9]*\) .*/\1/p' "$build/fuzz_$target.log" | tail -1)
    echo "$target: ${runs:-?} executions, ${covered:-?} places covered"
    total=$((total + ${runs:-0}))
done
if [ -e "$findings/targets" ]; then
    for target in $(cat "$findings/targets"); do tail -40 "$build/fuzz_$target.log"; done
    echo "$total executions; findings in $(tr '\n' ' ' <"$findings/targets"): the inputs are in $findings"
    exit 1
fi
echo "$total executions, 0 findings"
