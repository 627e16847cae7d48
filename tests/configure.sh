#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# configure refuses what would change stored bytes and options it does not know, and says why.
# shellcheck source=tests/tap.inc
. "$srcdir/tests/tap.inc"
cd "$work" || exit 99
unset MAKEFLAGS MFLAGS MAKELEVEL CFLAGS CPPFLAGS
c=$top_srcdir/configure
# The source directory must not be configured itself for a build elsewhere.
if [ -f "$top_srcdir/config.status" ]; then
    skip "refusals of configure" "the source directory is configured"
    finish
fi
refuse "CFLAGS=-ffast-math" "ffast-math" "$c" -q CC="$CC" CFLAGS="-O2 -ffast-math"
refuse "CFLAGS=-Ofast" "ffast-math" "$c" -q CC="$CC" CFLAGS="-Ofast"
refuse "CFLAGS=-ffp-contract=fast" "ffp-contract" "$c" -q CC="$CC" CFLAGS="-O2 -ffp-contract=fast"
case $(uname -m) in
x86_64) refuse "x87 arithmetic" "x87" "$c" -q CC="$CC" CFLAGS="-mfpmath=387" ;;
*) skip "x87 arithmetic" "not an x86-64 machine" ;;
esac
refuse "a big-endian target" "big-endian" "$c" -q CC="$CC" \
    CPPFLAGS="-Wno-builtin-macro-redefined -U__BYTE_ORDER__ -D__BYTE_ORDER__=4321"
refuse "--enable-sanitizers=nonsense" 'unknown sanitizer "nonsense"' "$c" -q -C CC="$CC" \
    --enable-sanitizers=nonsense
refuse "a missing nettle" "nettle library is required" "$c" -q -C CC="$CC" NETTLE_LIBS=-lno-such-library
refuse "--with-cuda=clang without clang" "makes no PTX" "$c" -q -C CC="$CC" --with-cuda=clang CUDA_CLANG=false
refuse "--with-opencl=maybe" "not one of auto, yes, no" "$c" -q -C CC="$CC" --with-opencl=maybe
finish
