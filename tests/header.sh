#!/bin/sh
# shellcheck disable=SC2046,SC2086
# SPDX-License-Identifier: Apache-2.0
# The public header: compiles alone as C99, C11 and C++11 without a warning, links from C++, and refuses
# relaxed arithmetic where it matters.
# shellcheck source=tests/tap.inc
. "$srcdir/tests/tap.inc"
strict="-Wall -Wextra -Wpedantic -Wconversion -Werror"

echo '#include "anykv.h"' >"$work/alone.c"
cp "$work/alone.c" "$work/alone.cc"
for std in c99 c11 c17; do
    check "compiles alone as $std" $CC -std=$std $strict -I"$top_srcdir/lib" -fsyntax-only "$work/alone.c"
done
cat >"$work/twice.c" <<'C'
#include "anykv.h"
#include "anykv.h"
int ANYKV, akv_x;
anykv_context_options a = ANYKV_CONTEXT_OPTIONS_INIT;
anykv_device_info b = ANYKV_DEVICE_INFO_INIT;
anykv_device_options c = ANYKV_DEVICE_OPTIONS_INIT;
anykv_codec_options d = ANYKV_CODEC_OPTIONS_INIT;
anykv_layer e = ANYKV_LAYER_INIT;
anykv_layout_options f = ANYKV_LAYOUT_OPTIONS_INIT;
anykv_cache_options g = ANYKV_CACHE_OPTIONS_INIT;
anykv_estimate h = ANYKV_ESTIMATE_INIT;
anykv_seq_options i = ANYKV_SEQ_OPTIONS_INIT;
anykv_attend_params j = ANYKV_ATTEND_PARAMS_INIT;
C
cp "$work/twice.c" "$work/twice.cc"
check "twice in one file, every initialiser, C99" \
    $CC -std=c99 $strict -I"$top_srcdir/lib" -fsyntax-only "$work/twice.c"

if [ -z "$CXX" ]; then
    skip "C++" "no C++ compiler"
else
    for std in c++11 c++17; do
        check "compiles alone as $std" $CXX -std=$std $strict -I"$top_srcdir/lib" -fsyntax-only "$work/alone.cc"
        check "every initialiser as $std" \
            $CXX -std=$std $strict -I"$top_srcdir/lib" -fsyntax-only "$work/twice.cc"
    done
    cat >"$work/smoke.cc" <<'C'
#include "anykv.h"
#include <cstdio>
#include <cstring>
int main()
{
    anykv_context *context = nullptr;
    anykv_context_options options = ANYKV_CONTEXT_OPTIONS_INIT;
    if (anykv_context_create(&options, &context) != ANYKV_OK)
        return 1;
    anykv_context_destroy(context);
    return std::strcmp(anykv_status_name(ANYKV_E_BUDGET), "ANYKV_E_BUDGET") != 0;
}
C
    check "links from C++" $CXX -std=c++11 $SANITIZERS -I"$top_srcdir/lib" -o "$work/smoke" "$work/smoke.cc" \
        -L"$top_builddir/.libs" -lanykv -Wl,-rpath,"$top_builddir/.libs"
    check "runs from C++" "$work/smoke"
fi

echo '#include "kernel/platform.h"' >"$work/arith.c"
refuse "platform.h refuses -ffast-math" "fast-math" \
    $CC -std=c11 -ffast-math -I"$top_srcdir/lib" -fsyntax-only "$work/arith.c"
refuse "platform.h refuses big-endian" "little-endian" \
    $CC -std=c11 -Wno-builtin-macro-redefined -U__BYTE_ORDER__ -D__BYTE_ORDER__=4321 \
    -I"$top_srcdir/lib" -fsyntax-only "$work/arith.c"
refuse "platform.h refuses x87" "x87" \
    $CC -std=c11 -Wno-builtin-macro-redefined -U__FLT_EVAL_METHOD__ -D__FLT_EVAL_METHOD__=2 \
    -I"$top_srcdir/lib" -fsyntax-only "$work/arith.c"
finish
