#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The manual pages: well-formed, and complete: every public function, every subcommand, every status.
# shellcheck source=tests/tap.inc
. "$srcdir/tests/tap.inc"
man=$top_srcdir/docs/man
if command -v mandoc >/dev/null 2>&1; then
    for page in "$man"/*.[0-9]; do
        check "mandoc -T lint ${page##*/}" mandoc -T lint -W warning "$page"
    done
else
    skip "mandoc -T lint" "no mandoc"
fi
sed -n 's/^ *\(anykv_[a-z0-9_]*\);.*/\1/p' "$top_srcdir/lib/anykv.map" | while read -r name; do
    grep -qw "$name" "$man/anykv.3" || echo "$name"
done >"$work/functions"
empty "anykv.3 names every exported function" "$work/functions"
sed -n 's/^ *X(\([A-Z_]*\), -\{0,1\}[0-9].*/\1/p' "$top_srcdir/lib/anykv.h" | while read -r name; do
    grep -qw "ANYKV_$name" "$man/anykv.3" || echo "ANYKV_$name"
done >"$work/codes"
empty "anykv.3 names every status code" "$work/codes"
for name in devices verify bench eval calibrate replay import-config demo; do
    grep -qw "^.Ss $name.*\|^.It Cm $name.*\|^.Nm $name.*" "$man/anykv.1" || echo "$name"
    "$ANYKV" "$name" --help 2>/dev/null | tr -s '[:space:]=,|[]' '\n' | sed 's/[^a-z0-9-]//g' | grep -E '^--[a-z]' | sort -u |
        while read -r option; do
            grep -q -- "Fl Fl *${option#--}\b" "$man/anykv.1" || grep -q -- "Fl -${option#--}\b" "$man/anykv.1" ||
                echo "$name $option"
        done
done >"$work/options"
empty "anykv.1 has every subcommand and every option that --help shows" "$work/options"
finish
