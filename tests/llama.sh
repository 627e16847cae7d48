#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# examples/llama as a user sees it: bad input without a model, then a real model on a real text.  The model
# is the file that ANYKV_TEST_MODEL names, or the one that `./dev model` has put into build/model/.
# shellcheck source=tests/tap.inc
. "$srcdir/tests/tap.inc"
llama=$top_builddir/examples/llama/llama
text=$top_srcdir/tests/data/alice.txt
export OPENBLAS_NUM_THREADS="${OPENBLAS_NUM_THREADS-2}"

# exit_is STATUS NAME TEXT COMMAND…: the command ends with this status and says TEXT.
exit_is() {
    wanted=$1 name=$2 says=$3
    shift 3
    status=0
    "$@" >"$work/out" 2>&1 || status=$?
    if [ "$status" -ne "$wanted" ]; then
        fail "$name: exit status $status, not $wanted" "$work/out"
    elif ! grep -Eq -- "$says" "$work/out"; then
        fail "$name: it does not say \"$says\"" "$work/out"
    else
        pass "$name"
    fi
}

exit_is 0 "help" "^example: llama kld" "$llama" --help
exit_is 2 "no command" "^usage: llama" "$llama"
exit_is 2 "unknown command" "^usage: llama" "$llama" fly model.gguf
exit_is 2 "run takes no text" "^usage: llama" "$llama" run model.gguf text
exit_is 2 "a number with letters" 'is not a whole number from 32' "$llama" kld m t --ctx 12x
exit_is 2 "a budget of nothing" 'neither bytes nor a percentage' "$llama" run m -p a --budget 0
exit_is 3 "a model that is not there" 'no-such-file: No such file' "$llama" run "$work/no-such-file" -p a
exit_is 3 "a model that is a text" 'no GGUF file' "$llama" run "$text" -p a
printf 'GGUF\003\000\000\000\001\000\000\000\000\000\000\000\001\000\000\000\000\000\000\000' >"$work/short.gguf"
exit_is 3 "a model cut off in its first key" 'GGUF: a key is cut off' "$llama" run "$work/short.gguf" -p a

model=${ANYKV_TEST_MODEL-}
[ -n "$model" ] || model=$(find "$top_srcdir/build/model" -name '*.gguf' 2>/dev/null | head -n 1)
if [ ! -r "${model:-/nonexistent/model}" ]; then
    reason="no model: ./dev model fetches it, ANYKV_TEST_MODEL names another"
    if [ "${ANYKV_REQUIRE_MODEL-}" = 1 ]; then fail "a real model: $reason"; else skip "a real model" "$reason"; fi
    finish
fi

# ---- bad input beside a good model ----
printf 'caf\377' >"$work/bad.txt"
head -c 2000000 "$model" >"$work/cut.gguf"
exit_is 3 "a model that is cut off" 'GGUF: .*(past the end|outside the file|cut off)' \
    "$llama" run "$work/cut.gguf" -p a
exit_is 1 "a text with invalid UTF-8" 'not valid UTF-8 at byte 3' \
    "$llama" dump "$model" "$work/bad.txt" "$work/bad.st" --device cpu
exit_is 1 "a text that is too short" 'less than one chunk' "$llama" kld "$model" "$top_srcdir/NEWS" --ctx 8192
exit_is 1 "a context beyond the model's" 'beyond the model.s context' \
    "$llama" kld "$model" "$text" --ctx 16384 --device cpu
exit_is 1 "an unknown format" 'Q9' "$llama" run "$model" -p a --kv Q9 --device cpu
exit_is 3 "an unknown device" 'nosuchdevice' "$llama" run "$model" -p a --device nosuchdevice
exit_is 1 "a budget below the minimum" 'budget_bytes: 1000 is below' \
    "$llama" run "$model" -p a --budget 1000 --device cpu
exit_is 1 "layers that the model lacks" 'ascending list of layers below' \
    "$llama" dump "$model" "$text" "$work/none.st" --layers 3,900 --device cpu
if [ -e "$work/bad.st" ] || [ -e "$work/none.st" ]; then fail "a failed dump left a file"; else pass "a failed dump leaves nothing"; fi

# ---- text ----
prompt='The capital of France is'
run() {
    name=$1
    shift
    "$llama" run "$model" "$@" >"$work/$name" 2>"$work/$name.figures" || fail "run $name" "$work/$name.figures"
}
run cpu -p "$prompt" -n 64 --kv F16 --device cpu
check "greedy text begins with Paris" grep -q '^ Paris' "$work/cpu"
check "figures: tokens per second, bytes, evictions" \
    grep -Eq 'decode [0-9]+, [0-9.]+ tokens/s' "$work/cpu.figures"
run batch -p "$prompt" -p 'Once upon a time, there was a' -n 24 --sequences 2 --kv F16 --device cpu
check "a ragged batch with forks: four sequences" grep -q '^llama: 4 sequences' "$work/batch.figures"
if [ "$(head -c 25 "$work/batch")" = "$(head -c 25 "$work/cpu")" ]; then
    pass "the same first words in a batch"
else
    fail "other words in a batch" "$work/batch"
fi
if "$ANYKV" devices --json | grep '"backend": "opencl"' | grep -q '"usable": true'; then
    run opencl -p "$prompt" -n 64 --kv F16 --device opencl
    check "the same 64 tokens on OpenCL" cmp "$work/cpu" "$work/opencl"
else
    skip "the same 64 tokens on OpenCL" "no OpenCL device"
fi

# ---- divergence: one short chunk; docs/quality.md has the long measurement ----
check "kld, with a drawing" sh -c "'$llama' kld '$model' '$text' --ctx 384 --chunks 1 --device cpu --json \
    --kv F16,q8,q4,q3 --svg '$work/kld.svg' >'$work/kld'"
field() { sed -n "s/.*\"k\":\"$1\".*\"$2\":\([0-9.e-]*\).*/\1/p" "$work/kld"; }
# shellcheck disable=SC2317
below() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a != "" && a + 0 <= b + 0) }'; }
check "every field is there" sh -c "[ \$(grep -Ec '^\{\"k\":\"[A-Z0-9_]+\",\"v\":.*\"sinks\":4,\"recent\":128,\"bits\":[0-9.]+,\"bits_limit\":[0-9.]+,\"kld\":[0-9.]+,\"kld_999\":[0-9.]+,\"top1\":[0-9.]+,\"ppl_ratio\":[0-9.]+,\"positions\":191' '$work/kld') = 4 ]"
check "F16 is exact to 0.0001" below "$(field F16 kld)" 0.0001
check "q8 stays below 0.001" below "$(field I8 kld)" 0.001
check "q4 stays below 0.01" below "$(field N4 kld)" 0.01
check "q4 is better than q3" below "$(field N4 kld)" "$(field N3 kld)"
check "the drawing has its points" sh -c "[ \$(grep -c '<circle' '$work/kld.svg') = 4 ] && grep -q '</svg>' '$work/kld.svg'"

# ---- eviction of tokens: with shares as many bytes stay ----
exit_is 1 "an unknown eviction" 'none of knorm' "$llama" kld "$model" "$text" --ctx 512 --evict best --device cpu
check "kld with evictions" sh -c "'$llama' kld '$model' '$text' --ctx 512 --chunks 1 --device cpu --json \
    --kv F16 --recent 32 --evict none,knorm,snapkv,snapkv:heads,snapkv:all >'$work/kld'"
evicted() { sed -n "s/.*\"evict\":\"$1\".*\"$2\":\([0-9.e-]*\).*/\1/p" "$work/kld"; }
check "half of the older rows went, of each" sh -c "[ \$(grep -c '\"bits\":12.0000' '$work/kld') = 4 ]"
check "attention says more than norms" below "$(evicted snapkv kld)" "$(evicted knorm kld)"
check "heads that share lose no more than norms" below "$(evicted snapkv:heads kld)" "$(evicted knorm kld)"
check "layers that share lose no more than norms" below "$(evicted snapkv:all kld)" "$(evicted knorm kld)"

# ---- dump: what eval and calibrate read ----
check "dump" "$llama" dump "$model" "$top_srcdir/tests/data/workshop.txt" "$work/dump.safetensors" \
    --tokens 320 --queries 256 --device cpu
check "anykv eval reads the dump" "$ANYKV" eval "$work/dump.safetensors" --formats q4 --device cpu
check "anykv calibrate reads the dump" "$ANYKV" calibrate "$work/dump.safetensors" -o "$work/calibration"

check "kld with that calibration" sh -c "'$llama' kld '$model' '$text' --ctx 384 --chunks 1 --device cpu --json \
    --kv q8,q4 --calibration '$work/calibration' >'$work/kld'"
check "calibrated q8 stays below 0.001" below "$(field I8 kld)" 0.001
check "calibrated q4 stays below 0.01" below "$(field N4 kld)" 0.01
exit_is 2 "a transform without its calibration" 'needs --calibration' "$llama" kld m t --transforms matrix

# ---- a budget that F16 does not fit into: the precision ladder keeps it, and says what it does ----
head -c 3500 "$text" | tail -c 2600 >"$work/prompt"
run budget -p "$(cat "$work/prompt")" -n 8 --kv F16 --budget 60% --device cpu
check "the ladder steps down" grep -Eq 'lowered [0-9]+ blocks' "$work/budget.figures"
check "within the budget" awk '/^llama: cache/ { ok = $3 <= $5 } END { exit !ok }' "$work/budget.figures"

# ---- the same prompt twice, forks ----
check "prefix" sh -c "'$llama' prefix '$model' '$text' --tokens 330 --kv F16 --device cpu >'$work/prefix'"
check "the second time computes the last block only" \
    grep -Eq '^second time +330 tokens, +320 from the cache, +10 computed' "$work/prefix"
check "its logits are the first's within rounding" awk '/^logits/ { ok = $4 + 0 < 0.01 } END { exit !ok }' "$work/prefix"
check "forks take no blocks" awk '/both hold/ { a = $3 } /with 2 forks/ { b = $4 } END { exit !(a == b && a > 0) }' "$work/prefix"
finish
