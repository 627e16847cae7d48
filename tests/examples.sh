#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The examples use the public header only, run, and print what their comments promise.
# shellcheck source=tests/tap.inc
. "$srcdir/tests/tap.inc"
grep -nE '^ *# *include *["<]' "$top_srcdir"/examples/*.c | grep -E 'internal|backends|kernel|"' >"$work/private"
empty "examples include nothing private" "$work/private"
for name in minimal codec; do
    if [ -x "$top_builddir/examples/$name" ]; then
        check "$name runs" "$top_builddir/examples/$name"
        cp "$work/tap.out" "$work/$name"
    else
        fail "$name was not built"
    fi
done
check "minimal: 320 tokens, some of them packed" \
    grep -Eq '^320 tokens, [1-9][0-9]* blocks at 16 bit, [1-9][0-9]* packed' "$work/minimal"
check "codec: raw rows come back exactly" grep -Eq '^F32 +32\.000 +[0-9]+ +exact' "$work/codec"
# Gaussian noise through N4 with rotation and search gives about 20 dB; far below it something is broken.
check "codec: N4 keeps at least 18 dB" awk '$1 == "N4" && $4 >= 18 { ok = 1 } END { exit !ok }' "$work/codec"
finish
