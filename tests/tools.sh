#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The `anykv` command: help, exit statuses, names of the JSON fields, figures of eval, replay and demo.
# shellcheck source=tests/tap.inc
. "$srcdir/tests/tap.inc"
cut=$top_srcdir/tests/data/smollm2-code-cut.safetensors
commands=$("$ANYKV" --help | sed -n 's/^  \([a-z][a-z]*\)  .*/\1/p')

# status NAME WANTED TEXT COMMAND…: exit status, and what standard error says (a regular expression).
status() {
    name=$1 wanted=$2 text=$3
    shift 3
    "$@" >"$work/out" 2>"$work/err"
    got=$?
    if [ "$got" -ne "$wanted" ]; then
        fail "$name: exit status $got, expected $wanted" "$work/err"
    elif ! grep -Eq -- "$text" "$work/err"; then
        fail "$name: standard error does not say \"$text\"" "$work/err"
    else
        pass "$name"
    fi
}
# fields NAME FILE FIELD…: every line of FILE is an object that has all of them.
fields() {
    name=$1 file=$2
    shift 2
    : >"$work/missing"
    [ -s "$file" ] || echo "no line at all" >"$work/missing"
    for field in "$@"; do
        grep -vE "^\{.*\"$field\": .*\}\$" "$file" | sed "s/^/without $field: /" >>"$work/missing"
    done
    empty "$name" "$work/missing"
}
# value FIELD FILE: of the file's first line.
value() { sed -n "1s/.*\"$1\": \([^,}]*\).*/\1/p" "$2"; }
# near NAME IS WANTED TOLERANCE (absolute)
near() {
    if awk "BEGIN { d = $2 - ($3); exit !(\"$2\" != \"\" && d <= $4 && d >= -($4)) }" 2>/dev/null; then
        pass "$1: $2"
    else
        fail "$1: $2, expected $3 within $4"
    fi
}

# ---- help and wrong use ----
for command in $commands; do
    "$ANYKV" "$command" --help >"$work/help" 2>&1 || fail "$command --help: exit status $?"
    for text in "Usage: anykv $command" "^Example:" "^  anykv $command" '--device' '--json'; do
        grep -q -- "$text" "$work/help" || echo "$command --help lacks \"$text\""
    done
done >"$work/lacks"
empty "every subcommand's --help has usage, example, --device, --json" "$work/lacks"
for command in devices eval calibrate replay demo; do
    echo "$commands" | grep -qx "$command" || echo "$command"
done >"$work/lacks"
empty "the subcommands are there" "$work/lacks"
status "no command" 2 "Usage" "$ANYKV"
status "unknown command" 2 "unknown command \"nonsense\"" "$ANYKV" nonsense
check "--version" "$ANYKV" --version
status "unknown option" 2 "unknown option --nonsense" "$ANYKV" devices --nonsense
status "short option" 2 "unknown option -x" "$ANYKV" devices -x
status "argument too many" 2 "unexpected argument" "$ANYKV" devices more
status "flag with a value" 2 "takes no value" "$ANYKV" devices --json=1
status "value missing" 2 "needs a value" "$ANYKV" eval "$cut" --sinks
status "no number" 2 "is not a whole number" "$ANYKV" eval "$cut" --sinks 1x
status "number out of range" 2 "not within 0 … 1073741824" "$ANYKV" eval "$cut" --sinks 1073741825
status "number beyond 2^64" 2 "is not a whole number" "$ANYKV" eval "$cut" --sinks 18446744073709551616
status "empty list item" 2 "empty item" "$ANYKV" replay x --blocks 1,,2
status "file name missing" 2 "a file name is missing" "$ANYKV" eval
status "unknown format" 2 "unknown format or pair \"Z9\"" "$ANYKV" eval "$cut" --formats Z9
status "BX16" 2 "does not have the format \"BX16\"" "$ANYKV" eval "$cut" --formats BX16
status "matrix without a calibration" 2 "matrix needs --calibration" "$ANYKV" eval "$cut" --transforms matrix
status "unknown transform" 2 "unknown transform \"turn\"" "$ANYKV" eval "$cut" --transforms turn
status "unknown token policy" 2 "unknown method \"best\"" "$ANYKV" eval "$cut" --evict best
status "no share" 2 "not above 0" "$ANYKV" eval "$cut" --evict knorm --keep 0
status "shared and adaptive" 2 "all heads keep the same tokens" "$ANYKV" eval "$cut" --evict tova:adaptive
status "no such share" 2 "adaptive, apart and across" "$ANYKV" eval "$cut" --evict knorm:equal
status "--no-search elsewhere" 2 "not with --evict" "$ANYKV" eval "$cut" --no-search --evict tova
status "--keep alone" 2 "needs --evict" "$ANYKV" eval "$cut" --keep 0.5
status "eval --compress" 2 "unknown method" "$ANYKV" eval "$cut" --compress x
status "eval --compress: no share" 2 "keeps no share" "$ANYKV" eval "$cut" --compress sparse:0
status "eval --compress elsewhere" 2 "not with --evict" "$ANYKV" eval "$cut" --compress bx16 --evict tova
status "calibrate without -o" 2 "-o FILE is missing" "$ANYKV" calibrate "$cut"
status "calibrate with an unknown transform" 2 "--keys: \"turn\"" "$ANYKV" calibrate "$cut" -o x --keys turn
status "values have no mean" 2 "--values: \"centre\"" "$ANYKV" calibrate "$cut" -o x --values centre
status "policy caller" 2 "scores of \"caller\" come from a program" "$ANYKV" replay x --policy caller
status "unknown policy" 2 "unknown policy" "$ANYKV" replay x --policy random
status "eval without its file" 3 "cannot be opened" "$ANYKV" eval "$work/none"
status "calibrate without its file" 3 "cannot be opened" "$ANYKV" calibrate "$work/none" -o "$work/x"
status "eval without its calibration" 3 "cannot be opened" "$ANYKV" eval "$cut" --calibration "$work/none"
status "replay without its file" 3 "cannot be opened" "$ANYKV" replay "$work/none"
status "demo without its file" 3 "cannot be opened" "$ANYKV" demo --device cpu --data "$work/none"
for command in eval calibrate replay demo; do
    set -- "$ANYKV" $command --device nonesuch
    [ $command = demo ] || set -- "$@" "$cut"
    [ $command != calibrate ] || set -- "$@" -o "$work/x"
    status "$command on a device that is not there" 3 "nonesuch" "$@"
done
status "devices of a backend that is not there" 3 "nonesuch" "$ANYKV" devices --device nonesuch
head -c 100000 "$cut" >"$work/short"
status "damaged file" 1 "header length|beyond|data_offsets" "$ANYKV" eval "$work/short"
echo '{"timestamp":0,"input_length":1,"hash_ids":[1,1]}' >"$work/trace"
status "damaged trace" 1 "hash_ids: 1 stands behind another id" "$ANYKV" replay "$work/trace"

# ---- JSON fields ----
"$ANYKV" devices --json >"$work/devices"
fields "devices: fields" "$work/devices" device backend name vendor driver bytes_total bytes_free usable dense \
    reason isa
check "devices: the CPU" grep -q '"backend": "cpu".*"usable": true, "reason": null' "$work/devices"

# ---- eval ----
evict_fields="method budget keep layer attention_tv output_error output_error_999 top1"
"$ANYKV" eval "$cut" --json --evict snapkv,snapkv:adaptive,snapkv:apart,snapkv:across,knorm,oracle,streaming --keep 1,0.5 >"$work/eval" ||
    fail "eval --evict"
# shellcheck disable=SC2086
fields "eval --evict: fields" "$work/eval" $evict_fields
near "eval --evict: keeping all changes nothing" \
    "$(grep -c '"keep": 1, .*"attention_tv": 0, "output_error": 0, "output_error_999": 0, "top1": 1}' "$work/eval")" 7 0
evict_error() { grep "\"method\": \"$1\", \"budget\": \"$2\", \"keep\": 0.5" "$work/eval" >"$work/one"; value output_error "$work/one"; }
near "eval --evict: the bound is below, age alone above" \
    "$(awk "BEGIN { print ($(evict_error oracle head) < $(evict_error snapkv head) && $(evict_error snapkv head) < $(evict_error streaming shared)) }")" 1 0
near "eval --evict: whole blocks cost little, layers that share gain" \
    "$(awk "BEGIN { print ($(evict_error snapkv apart) < 1.1 * $(evict_error snapkv adaptive) && $(evict_error snapkv across) < $(evict_error snapkv apart)) }")" 1 0

eval_fields="k v transform bits layer sqnr_k_db sqnr_v_db attention_tv output_error output_error_999 top1"
# figures FILE OPTIONS… -- TV ERROR TOP1: the first row within 2 % (top-1: half a point).
figures() {
    name=$1
    shift
    set -- "$@"
    options=
    while [ "$1" != -- ]; do
        options="$options $1"
        shift
    done
    shift
    # shellcheck disable=SC2086
    "$ANYKV" eval --json --device cpu $options >"$work/eval" 2>"$work/err" || fail "$name" "$work/err"
    near "$name: attention_tv" "$(value attention_tv "$work/eval")" "$1" "$1 * 0.02"
    near "$name: output_error" "$(value output_error "$work/eval")" "$2" "$2 * 0.02"
    [ -z "${3-}" ] || near "$name: top1" "$(value top1 "$work/eval")" "$3" 0.005
}
"$ANYKV" eval "$cut" --json --layers --formats q8,I8/N4,N4,F16 --device cpu >"$work/eval" 2>"$work/err" ||
    fail "eval of the bundled cut" "$work/err"
# shellcheck disable=SC2086
fields "eval: fields" "$work/eval" $eval_fields method bytes search scales
near "eval: searched, and no given scales" "$(grep -c '"search": true, "scales": null}' "$work/eval")" 16 0
near "eval: a row for each pair and layer, and their means" "$(wc -l <"$work/eval")" 16 0
near "eval: rows of layer 14" "$(grep -c '"layer": 14,' "$work/eval")" 4 0
near "eval: exact rows change nothing" \
    "$(grep -c '"k": "F16".*"sqnr_k_db": null.*"attention_tv": 0, "output_error": 0, .*"top1": 1,' "$work/eval")" 4 0
"$ANYKV" eval "$cut" --json --formats BF16 --compress bx16 --device cpu >"$work/eval" 2>"$work/err" ||
    fail "eval --compress" "$work/err"
# shellcheck disable=SC2086
fields "eval --compress: fields" "$work/eval" $eval_fields method bytes search scales
near "eval --compress: BX16 has the error of BF16" \
    "$(sed 's/.*"attention_tv"/"attention_tv"/; s/, "method".*//' "$work/eval" | sort -u | wc -l)" 1 0
grep '"method": "bx16"' "$work/eval" >"$work/one"
near "eval --compress: bits of BX16" "$(value bits "$work/one")" 12.1 0.2
"$ANYKV" eval "$cut" --json --formats F16 --compress sparse:0.5,channels:0.5 --device cpu >"$work/eval" 2>"$work/err" ||
    fail "eval --compress sparse" "$work/err"
for kept in sparse channels; do
    grep "\"method\": \"$kept:0.5\"" "$work/eval" >"$work/one"
    near "eval --compress: $kept takes what it keeps" "$(value bits "$work/one")" 8.5 0.4
    near "eval --compress: $kept does harm" "$(awk "BEGIN { print ($(value output_error "$work/one") > 0.01) }")" 1 0
done
figures "cut, I8" "$cut" --formats I8 -- 0.0039 0.0086 0.995
near "cut, I8: bits" "$(value bits "$work/eval")" 8.25 0
figures "cut, N4" "$cut" --formats N4 -- 0.0536 0.1191 0.962
near "cut, N4: SQNR of keys" "$(value sqnr_k_db "$work/eval")" 22.08 0.1
"$ANYKV" eval "$cut" --json --formats N4 --transforms none --device cpu >"$work/eval"
unrotated=$(value attention_tv "$work/eval")
near "cut, N4: rotation pays" "$(awk "BEGIN { print ($unrotated > 0.0536 * 1.1) }")" 1 0
status "--scales unknown" 2 "none of one, tensor, head" "$ANYKV" eval "$cut" --scales row
figures "cut, N4 without search" "$cut" --formats N4 --no-search -- 0.0573 0.1280 0.959
"$ANYKV" eval "$cut" --json --formats N4 --sinks 16 --recent 128 --device cpu >"$work/eval"
near "sinks and recent tokens at 16 bit cost bits" "$(value bits "$work/eval")" \
    "4.25 + (16 - 4.25) * 144 / 1024" 1e-6
near "and halve the error at least" \
    "$(awk "BEGIN { print ($(value output_error "$work/eval") < 0.1191 / 2) }")" 1 0
# ---- import-config ----
printf 'kv_cache:\n  max_tokens: 512\n  dtype: float16\n' >"$work/config.yaml"
check "import-config accepts" "$ANYKV" import-config "$work/config.yaml"
"$ANYKV" import-config "$work/config.yaml" --json >"$work/out"
fields "import-config: fields" "$work/out" field value verdict note
printf 'colour: blue\n' >"$work/config.yaml"
"$ANYKV" import-config "$work/config.yaml" >"$work/out" && fail "a refused field: exit status 0"
if grep -q "refused.*unknown name" "$work/out"; then
    pass "import-config refuses by name"
else
    fail "import-config refuses by name" "$work/out"
fi
printf 'a: [1]\n' >"$work/config.yaml"
status "a damaged configuration" 1 "line 1" "$ANYKV" import-config "$work/config.yaml"
status "a configuration that is not there" 3 "No such file" "$ANYKV" import-config "$work/none"

# ---- calibrate ----
# The cut has 128 positions of queries: enough for means, too few for matrices.
status "too few queries for a matrix" 1 "128 positions of queries, a matrix needs 256" \
    "$ANYKV" calibrate "$cut" -o "$work/x"
check "the cut's means" "$ANYKV" calibrate "$cut" -o "$work/means" --keys centre
"$ANYKV" calibrate "$cut" -o "$work/means" --keys centre --json >"$work/out"
fields "calibrate: fields" "$work/out" layer side head transform predicted_error_rotate \
    predicted_error_centre predicted_error_matrix
near "calibrate: a row for each layer, side and head" "$(wc -l <"$work/out")" 18 0
near "calibrate: keys are centred" "$(grep -c '"side": "k".*"transform": "centre"' "$work/out")" 9 0
near "calibrate: values are rotated" "$(grep -c '"side": "v".*"transform": "rotate"' "$work/out")" 9 0
figures "cut, N4 auto with means" "$cut" --formats N4 --sinks 16 --calibration "$work/means" -- 0.0265 0.0561
centred=$(value attention_tv "$work/eval")
figures "cut, N4 its own mean" "$cut" --formats N4 --sinks 16 --transforms centre -- 0.0268 0.0558
near "centring pays" "$(awk "BEGIN { print ($centred < 0.0536 * 0.75) }")" 1 0
head -c 1000 "$work/means" >"$work/x"
status "damaged calibration" 1 "calibration: bytes is" "$ANYKV" eval "$cut" --calibration "$work/x"
status "no calibration at all" 1 "calibration: magic" "$ANYKV" eval "$cut" --calibration "$cut"
"$ANYKV" eval "$cut" --json --formats all --pareto "$work/drawing.svg" --device cpu >"$work/eval"
for pair in KIVI4/KIVI4 KIVI2/KIVI2 F16/F16 BF16/BF16 I8/I8 N6/N6 N5/N5 N4/N4 N3/N3 N2/N2 I8/N4 N5/N4 N3/N2; do
    grep -q "\"k\": \"${pair%/*}\", \"v\": \"${pair#*/}\"" "$work/eval" || echo "$pair"
done >"$work/lacks"
empty "eval: all has every format" "$work/lacks"
check "eval --pareto draws every pair with an error" test "$(grep -c '<circle.*<title>' "$work/drawing.svg")" -ge 22
check "eval --pareto ends the drawing" grep -q '^</svg>' "$work/drawing.svg"

if [ -n "${ANYKV_TEST_DATA-}" ] && [ -r "$ANYKV_TEST_DATA/smollm2-prose.safetensors" ]; then
    prose=$ANYKV_TEST_DATA/smollm2-prose.safetensors
    code=$ANYKV_TEST_DATA/smollm2-code.safetensors
    figures "prose, I8" "$prose" --formats I8 --transforms rotate -- 0.0050 0.0080
    figures "prose, N4" "$prose" --formats N4 --transforms rotate -- 0.0693 0.1095
    figures "prose, KIVI4" "$prose" --formats KIVI4 -- 0.0395 0.0821
    figures "prose, KIVI2" "$prose" --formats KIVI2 -- 0.2043 0.4645
    figures "code, I8" "$code" --formats I8 --transforms rotate --sinks 16 -- 0.0044 0.0068 0.994
    figures "code, N4" "$code" --formats N4 --transforms rotate --sinks 16 -- 0.0597 0.0924 0.918
    figures "prose, Q4_0" "$prose" --formats Q4_0 --transforms rotate -- 0.0750 0.1217
    figures "code, Q4_0" "$code" --formats Q4_0 --transforms rotate --sinks 16 -- 0.0652 0.1021 0.915
    figures "code, KIVI4" "$code" --formats KIVI4 --sinks 16 -- 0.0291 0.0630 0.958
    figures "code, KIVI2" "$code" --formats KIVI2 --sinks 16 -- 0.1578 0.3969 0.811
    check "calibrate on prose" "$ANYKV" calibrate "$prose" -o "$work/cal"
    set -- --sinks 16 --calibration "$work/cal"
    figures "code, N4 centred" "$code" "$@" --formats N4 --transforms centre -- 0.0319 0.0620 0.947
    figures "code, N4 matrix" "$code" "$@" --formats N4 --transforms matrix -- 0.0244 0.0536 0.962
    figures "code, N4 auto" "$code" "$@" --formats N4 -- 0.0244 0.0536 0.962
    figures "code, N5/N4 centred" "$code" "$@" --formats N5/N4 --transforms centre -- 0.0166 0.0467 0.974
    figures "code, N5/N4 matrix" "$code" "$@" --formats N5/N4 --transforms matrix -- 0.0134 0.0445 0.977
    figures "code, N3 centred" "$code" "$@" --formats N3 --transforms centre -- 0.0638 0.1263 0.904
    figures "code, N3 matrix" "$code" "$@" --formats N3 --transforms matrix -- 0.0483 0.1108 0.922
else
    skip "eval: reference figures" "ANYKV_TEST_DATA has no smollm2-prose.safetensors"
fi

# ---- replay ----
replay_fields="policy blocks requests lookups hits hit_share optimum share_of_optimum evictions ns_per_touch"
replay_fields="$replay_fields ns_per_eviction"
# Two conversations of three blocks in room for four, then the first again; the longest has six.
for ids in 1,2,3 1,4,5 1,2,3 1,2,3,6,7,8; do
    echo "{\"timestamp\":1,\"input_length\":1536,\"output_length\":1,\"hash_ids\":[$ids]}"
done >"$work/trace"
"$ANYKV" replay "$work/trace" --json --policy lru --blocks 4 --optimum >"$work/replay" 2>"$work/err" ||
    fail "replay" "$work/err"
# shellcheck disable=SC2086
fields "replay: fields" "$work/replay" $replay_fields
near "replay: lookups" "$(value lookups "$work/replay")" 15 0
# Request 2 finds 1, evicts 3; request 3 finds 1 and 2, evicts 5; request 4 finds 1, 2, 3, takes in 6.
near "replay: hits" "$(value hits "$work/replay")" 6 0
near "replay: evictions" "$(value evictions "$work/replay")" 3 0
near "replay: optimum" "$(value optimum "$work/replay")" "7 / 15" 1e-6
"$ANYKV" replay "$work/trace" --json --blocks 4 --policy lru,default,all >"$work/replay"
near "replay: a policy is replayed once" "$(wc -l <"$work/replay")" 7 0
near "replay: no optimum unless asked" "$(grep -c '"optimum": null, "share_of_optimum": null' "$work/replay")" 7 0
"$ANYKV" replay "$work/trace" --json --policy all --optimum --blocks 2,4 --svg "$work/a<b.svg" >"$work/replay"
near "replay: a curve for each policy and the optimum" "$(grep -c '<polyline' "$work/a<b.svg")" 8 0
status "replay: plot of capacities out of order" 2 "svg: --blocks must be in ascending order" \
    "$ANYKV" replay "$work/trace" --blocks 4,2 --svg "$work/b.svg"
status "replay: plot that cannot be written" 3 "svg: .* cannot be written" \
    "$ANYKV" replay "$work/trace" --blocks 4 --svg "$work/none/b.svg"
trace=${ANYKV_TEST_DATA:-none}/traces/mooncake_conversation.jsonl
if [ -r "$trace" ]; then
    # docs/eviction.md; other implementations of the same rules gave these
    for line in "lru 0.2 4.5 6.5 21.2 32.6" "adaptive 0.3 7.9 13.3 22.9 33.3" \
        "adaptive,--done-hints 1 10.0 20.7 34.7 36.3" "arc 0.3 5.3 8.6 22.3 31.1"; do
        # shellcheck disable=SC2086
        set -- $line
        policy=${1%,*} hints=$(echo "$1" | sed -n 's/.*,//p') within=$2
        shift 2
        for blocks in 1000 3000 10000 30000; do
            # shellcheck disable=SC2086
            "$ANYKV" replay "$trace" --json --policy "$policy" $hints --blocks $blocks >"$work/replay"
            near "replay: hit % of $policy $hints at $blocks blocks" \
                "$(awk "BEGIN { print 100 * $(value hit_share "$work/replay") }")" "$1" "$within"
            shift
        done
    done
    set -- 19.1 29.4 36.6 36.6
    for blocks in 1000 3000 10000 30000; do
        "$ANYKV" replay "$trace" --json --policy lru --optimum --blocks $blocks >"$work/replay"
        near "replay: optimum % at $blocks blocks" \
            "$(awk "BEGIN { print 100 * $(value optimum "$work/replay") }")" "$1" 0.2
        shift
    done
else
    skip "replay: figures of the conversation trace" "ANYKV_TEST_DATA has no traces/"
fi
# ---- demo ----
"$ANYKV" demo --json --device cpu >"$work/demo" 2>"$work/err"
near "demo: exit status" $? 0 0
grep '"section": "pages"' "$work/demo" >"$work/pages"
# shellcheck disable=SC2086
fields "demo: pages have the fields of eval" "$work/pages" $eval_fields packed_bytes hot_bytes attend_us
near "demo: pairs" "$(wc -l <"$work/pages")" 7 0
# error PAIR LIMIT: what the cache's own attention may differ from exact attention.
error() {
    grep "\"k\": \"${1%/*}\", \"v\": \"${1#*/}\"" "$work/pages" >"$work/pair"
    near "demo: $1 through pages, output error up to $2" "$(value output_error "$work/pair")" "$2 / 2" "$2 / 2"
}
# added PAIR SHARE: approximations made for speed add at most this share of the format's own error.
added() {
    grep "\"k\": \"${1%/*}\", \"v\": \"${1#*/}\"" "$work/pages" >"$work/pair"
    near "demo: $1, what approximations add to the output error" \
        "$(awk "BEGIN { print $(value output_error "$work/pair") / $(value output_error_precise "$work/pair") - 1 }")" \
        0 "$2"
}
error F16/F16 1e-5
error I8/I8 0.0025
error N4/N4 0.025
error N3/N2 0.07
added I8/I8 0.4
added N5/N4 0.05
added N4/N4 0.05
added N3/N2 0.05
grep '"section": "sharing"' "$work/demo" >"$work/sharing"
# shellcheck disable=SC2086
fields "demo: sharing has the fields of replay" "$work/sharing" $replay_fields budget_bytes peak_bytes
near "demo: no cache was above its budget" "$(grep -c '"within_budget": true' "$work/sharing")" 3 0
near "demo: every cache had to evict" "$(grep -c '"evictions": [1-9]' "$work/sharing")" 3 0
near "demo: shared and evicted rows give the same output" "$(value output_error "$work/sharing")" 0.015 0.01
check "demo: speed" grep -q '"bench": "attend"' "$work/demo"
check "demo: bytes" grep -q '"summary": true.*"differ": 0' "$work/demo"
finish
