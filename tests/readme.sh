#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The README's C example, exactly as printed: extracted, compiled, run.
# shellcheck source=tests/tap.inc disable=SC2086
. "$srcdir/tests/tap.inc"
readme=$top_srcdir/README.md
awk '/^```c$/ { inside = 1; next } /^```$/ { inside = 0 } inside' "$readme" >"$work/example.c"
lines=$(wc -l <"$work/example.c")
check "the README has an example of at most 40 lines (it has $lines)" test "$lines" -ge 10 -a "$lines" -le 40
library=$top_builddir/.libs
check "it compiles without a warning" $CC -std=c11 -Wall -Wextra -Werror $SANITIZERS -I"$top_srcdir/lib" \
    -o "$work/example" "$work/example.c" -L"$library" -lanykv -Wl,-rpath,"$library"
check "it runs" "$work/example"
cp "$work/tap.out" "$work/said"
printed=$(awk '/^```text$/ { inside = 1; next } /^```$/ { inside = 0 } inside' "$readme" | head -n 1)
check "it prints what the README says" grep -Fqx -- "$printed" "$work/said"
grep -oE '\./dev [a-z]+' "$readme" | awk '{ print $2 }' | sort -u | while read -r word; do
    grep -q "^$word)\|^$word |" "$top_srcdir/dev" || echo "./dev $word"
done >"$work/commands"
empty "every ./dev command in the README exists" "$work/commands"
finish
