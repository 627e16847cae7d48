#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# `anykv bench`: a row for each combination, with its fields, and plausible figures.
# shellcheck source=tests/tap.inc
. "$srcdir/tests/tap.inc"

# rows NAME COUNT COMMAND…: the command must print that many JSON lines, kept in $work/rows.
rows() {
    name=$1
    count=$2
    shift 2
    if ! "$@" >"$work/rows" 2>"$work/err"; then
        fail "$name: it failed" "$work/err"
    elif [ "$(grep -c '^{' "$work/rows")" -ne "$count" ]; then
        fail "$name: not $count rows" "$work/rows"
    else
        pass "$name"
    fi
}
fields() {
    name=$1
    shift
    missing=
    for field; do
        grep -vq -- "\"$field\": " "$work/rows" && missing="$missing $field"
    done
    if [ -z "$missing" ]; then pass "$name"; else fail "$name: lacks$missing" "$work/rows"; fi
}

# Encode: plain, rotate, search, both; decode: plain, rotate; two working sets.
rows "codec" 12 "$ANYKV" bench codec --device cpu --repeats 7 --formats N4 --head-dim 128 --json
fields "codec's fields" bench op format rotate search head_dim working_set threads device ns_per_row \
    gib_s ratio_memcpy spread
check "codec's figures are positive" awk -F'"ns_per_row": ' '!($2 + 0 > 0) { bad = 1 } END { exit bad }' \
    "$work/rows"
rows "codec without a peer" 2 "$ANYKV" bench codec --device cpu --repeats 7 --formats F16 \
    --filter cache --peer none --json
check "no peer, no ratio" grep -q '"ratio_memcpy": null' "$work/rows"

rows "attend" 4 "$ANYKV" bench attend --device cpu --repeats 7 --tokens 256 --q-heads 8 --gqa 4 \
    --formats I8/I8,q4 --phase decode,prefill --new-tokens 16 --json
fields "attend's fields" bench phase k v transform head_dim q_heads kv_heads tokens batch threads device \
    ns_per_kv_row us gib_s ratio_f16 share_of_copy spread
check "the profile's name is its pair" grep -q '"k": "N4", "v": "N4"' "$work/rows"

rows "cache" 2 "$ANYKV" bench cache --device cpu --repeats 7 --filter append/1 --json
fields "cache's fields" bench op size threads ns_per_op spread

rows "page" 4 "$ANYKV" bench page --device cpu --repeats 7 --json
fields "page's fields" bench op blocks block_bytes threads device us gib_s ratio_copy spread copy_us

refuse "an unknown benchmark" 'not one of codec, attend, cache' "$ANYKV" bench nonsense
refuse "fewer than seven repeats" 'repeats' "$ANYKV" bench codec --repeats 3
refuse "a group that does not divide" 'gqa' "$ANYKV" bench attend --q-heads 8 --gqa 3
refuse "an unknown peer" 'peer' "$ANYKV" bench codec --peer nonsense
refuse "an unknown format" 'format' "$ANYKV" bench codec --device cpu --formats N9
check "help has an example" "$ANYKV" bench --help
finish
