#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The CPU's goals and what this machine gives: one line a goal, measured by `anykv bench`.
# usage: bench/cpu.sh [-b BUILD] [-o OUT] [--busy]
#   -b BUILD  built tree that holds tools/anykv (default: the current folder)
#   -o OUT    folder that receives the JSON lines (default: thrown away)
#   --busy    other programs run here: processor time for one thread instead of the clock on the wall
set -eu
build=.
out=
busy=
while [ $# -gt 0 ]; do
    case $1 in
    -b) build=$2 && shift 2 ;;
    -o) out=$2 && shift 2 ;;
    --busy) busy=--busy && shift ;;
    *) sed -n '3,8s/^# //p' "$0" >&2 && exit 2 ;;
    esac
done
anykv=$build/tools/anykv
[ -x "$anykv" ] || { echo "$0: $anykv is not there (-b BUILD)" >&2; exit 3; }
if [ -z "$out" ]; then
    out=$(mktemp -d)
    trap 'rm -rf "$out"' EXIT
fi
mkdir -p "$out"
threads=$(getconf _NPROCESSORS_ONLN)

# shellcheck disable=SC2086
{
    echo "codec …" >&2
    "$anykv" bench codec --device cpu --formats I8,N4 --repeats 15 $busy --json >"$out/codec.jsonl"
    echo "attend, one thread …" >&2
    "$anykv" bench attend --device cpu --tokens 32768 --gqa 4 $busy --json >"$out/attend-1.jsonl"
    echo "attend, $threads threads …" >&2
    "$anykv" bench attend --device cpu --tokens 32768 --gqa 4 --threads "$threads" --json \
        >"$out/attend-all.jsonl"
    echo "cache …" >&2
    "$anykv" bench cache --device cpu --json >"$out/cache.jsonl"
}

sed -n 's/^model name[^:]*: */processor: /p' /proc/cpuinfo 2>/dev/null | head -n 1
echo "load: $(cut -d' ' -f1-3 /proc/loadavg 2>/dev/null || echo unknown), $threads threads"
cat "$out/codec.jsonl" "$out/attend-1.jsonl" "$out/cache.jsonl" |
    awk -v all="$out/attend-all.jsonl" '
function get(line, name,   at, rest) {
    at = index(line, "\"" name "\": ")
    if (!at) return ""
    rest = substr(line, at + length(name) + 4)
    sub(/[,}].*/, "", rest)
    gsub(/"/, "", rest)
    return rest
}
function goal(what, got, sign, want, spread,   good) {
    good = sign == ">=" ? got >= want : got <= want
    printf "%-58s %9.3f  %s %-7s %-4s spread %.2f\n", what, got, sign, want, good ? "yes" : "NO", spread
    missed += !good
}
/"bench": "codec"/ && get($0, "working_set") == "cache" {
    key = get($0, "op") " " get($0, "format") " " get($0, "rotate") " " get($0, "search")
    ratio[key] = get($0, "ratio_memcpy"); row[key] = get($0, "ns_per_row"); noise[key] = get($0, "spread")
}
/"bench": "attend"/ {
    key = get($0, "k")
    ns[key] = get($0, "ns_per_kv_row"); anoise[key] = get($0, "spread"); read[key] = get($0, "share_of_read")
}
/"bench": "cache"/ {
    key = get($0, "op") " " get($0, "size")
    op[key] = get($0, "ns_per_op"); onoise[key] = get($0, "spread")
}
END {
    while ((getline line <all) > 0) {
        more[get(line, "k")] = get(line, "ratio_f16"); mnoise[get(line, "k")] = get(line, "spread")
    }
    goal("encode I8, in cache, of memcpy", ratio["encode I8 false false"], ">=", 0.42, noise["encode I8 false false"])
    goal("encode N4 without search, in cache, of memcpy", ratio["encode N4 false false"], ">=", 0.30, noise["encode N4 false false"])
    goal("decode I8, in cache, of memcpy", ratio["decode I8 false false"], ">=", 0.85, noise["decode I8 false false"])
    goal("decode N4, in cache, of memcpy", ratio["decode N4 false false"], ">=", 0.55, noise["decode N4 false false"])
    # iq4_nl takes 2,849 ns where memcpy takes 12.5: times as fast at the same memcpy.
    goal("encode N4 rotated and searched, times as fast as iq4_nl", ratio["encode N4 true true"] * 2849 / 12.5, ">=", 14, noise["encode N4 true true"])
    goal("decode attention I8, 32k, GQA 4: ns a K/V row pair", ns["I8"], "<=", 45, anoise["I8"])
    goal("decode attention N4 against I8, time", ns["N4"] / ns["I8"], "<=", 1, anoise["N4"])
    goal("decode attention F16, of reading memory", read["F16"], ">=", 0.6, anoise["F16"])
    goal("all threads: I8 against our F16, speed", more["I8"], ">=", 1.4, mnoise["I8"])
    goal("all threads: N4 against our F16, speed", more["N4"], ">=", 1.4, mnoise["N4"])
    goal("block key of 16 tokens, ns", op["block_key 16"], "<=", 150, onoise["block_key 16"])
    goal("prefix match of 131,072 tokens, ms", op["prefix_match 131072"] / 1e6, "<=", 2, onoise["prefix_match 131072"])
    goal("begin and end of a decode step, share of the step", op["step_engine 1"] / op["step 1"], "<=", 0.02, onoise["step_engine 1"])
    exit missed ? 1 : 0
}'
