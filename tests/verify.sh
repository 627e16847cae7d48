#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# `anykv verify`: passes on a reduced set, catches every planted fault, fails when something required is
# missing, and prints the fields that it promises.
# shellcheck source=tests/tap.inc
. "$srcdir/tests/tap.inc"

# status NAME WANTED COMMAND…: the exit status must be WANTED; stdout in $work/out, stderr in $work/err.
status() {
    name=$1
    wanted=$2
    shift 2
    "$@" >"$work/out" 2>"$work/err"
    got=$?
    cat "$work/out" "$work/err" >"$work/both"
    if [ "$got" -eq "$wanted" ]; then pass "$name"; else fail "$name: exit status $got" "$work/both"; fi
}
# fields NAME FILE LINES FIELD…: every line that matches LINES has every field.
fields() {
    name=$1
    file=$2
    lines=$3
    shift 3
    grep -E -- "$lines" "$file" >"$work/lines"
    missing=
    [ -s "$work/lines" ] || missing=" every line"
    for field; do
        grep -vq -- "\"$field\": " "$work/lines" && missing="$missing $field"
    done
    if [ -z "$missing" ]; then pass "$name"; else fail "$name: lacks$missing" "$work/lines"; fi
}
row_fields='kernel variant format device isa class elements differ max_error seconds skipped'

status "reduced set, every ISA level" 0 \
    "$ANYKV" verify --device cpu --isa all --elements 3000 --kernel '[!a]*' --json
cp "$work/out" "$work/rows"
# shellcheck disable=SC2086
fields "each row has its fields" "$work/rows" '"kernel"' $row_fields
fields "the summary has its fields" "$work/rows" '"summary": true' elements differ failed skipped
for kernel in encode decode rotate seal gather copy; do
    check "there are rows of $kernel" grep -q "\"kernel\": \"$kernel\"" "$work/rows"
done
status "append" 0 "$ANYKV" verify --device cpu --isa all --elements 3000 --kernel append --seed 2
status "attention, 8 bits and 4" 0 \
    "$ANYKV" verify --device cpu --isa all --elements 1 --kernel attend --format '[IN][84]/N4' --json
check "attention is bounded and says by how much" \
    grep -Eq '"class": "bounded".*"max_error": [0-9]' "$work/out"

# Dense products: by what the machine has, and by own loops.
status "products without a library" 0 env ANYKV_CBLAS_LIBRARY=none ANYKV_CLBLAST_LIBRARY=none \
    "$ANYKV" verify --device cpu --isa all --elements 3000 --kernel multiply --json
ANYKV_CBLAS_LIBRARY=none "$ANYKV" devices --device cpu --json >"$work/out"
check "devices says that there is none" grep -q '"dense": "own loops"' "$work/out"
ANYKV_CBLAS_LIBRARY=/nonexistent ANYKV_CLBLAST_LIBRARY=/nonexistent "$ANYKV" devices --json >"$work/out"
check "a library that is not there is none" sh -c '! grep -q "\"dense\": \"/" "$1"' - "$work/out"

for plant in tie contract store stride; do
    status "planted fault: $plant" 1 "$ANYKV" verify --plant "$plant" --elements 3000
    check "$plant: says where, and how to see it again" grep -q 'replay: anykv verify ' "$work/err"
    sed -n 's/^ *replay: anykv //p' "$work/err" | head -n 1 >"$work/replay"
    # shellcheck disable=SC2046
    status "$plant: the replay line finds it" 1 "$ANYKV" $(cat "$work/replay")
done
"$ANYKV" verify --plant tie --elements 3000 --format I8 >"$work/out" 2>"$work/err"
check "a mismatch shows the bytes and the input" grep -q 'expected 0x.*, got 0x' "$work/err"
check "a mismatch shows the input row" grep -q 'input row' "$work/err"

status "a required device that is not there" 3 "$ANYKV" verify --require no-such-device
status "a device that is not there" 3 "$ANYKV" verify --device no-such-device
foreign=neon
case $(uname -m) in aarch64 | arm*) foreign=avx2 ;; esac
status "a level that this machine lacks is skipped" 0 \
    "$ANYKV" verify --device cpu --isa "$foreign" --kernel rotate --json
check "the skip has a reason" grep -Eq '"skipped": "this (build|processor) has no' "$work/out"
status "a skip of what is required fails" 1 \
    "$ANYKV" verify --require cpu --device cpu --isa "$foreign" --kernel rotate

status "an unknown fault" 2 "$ANYKV" verify --plant nonsense
status "an unknown level" 2 "$ANYKV" verify --device cpu --isa nonsense
status "no elements" 2 "$ANYKV" verify --elements 0
status "no such kernel" 2 "$ANYKV" verify --kernel nonsense
status "a case that there is not" 1 "$ANYKV" verify --device cpu --kernel encode --case nonsense
status "help" 0 "$ANYKV" verify --help
check "help has an example" grep -q 'anykv verify --device' "$work/out"
finish
