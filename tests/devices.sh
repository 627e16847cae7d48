#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The suites of the cache and the demo once more on the first OpenCL device and on the first CUDA device.  (Not in the
# GPU shape on a processor: PoCL takes many minutes to compile its kernels.)  A device that is not there is
# a skip; ANYKV_REQUIRE_OPENCL=1 and ANYKV_REQUIRE_CUDA=1 make that a failure.  ANYKV_TEST_SUITES names
# other suites.
# shellcheck source=tests/tap.inc
. "$srcdir/tests/tap.inc"
suites=${ANYKV_TEST_SUITES-"step seq pool prefix model budget evict evict_tokens evict_shares ladder maps tenant \
    failures threads policy observe config"}

# absent NAME REASON REQUIRED: a skip, or a failure where the device is required.
absent() {
    case $3 in
    '' | 0) skip "cache suites on $1" "$2" ;;
    *) fail "cache suites on $1: $2" ;;
    esac
}
# Every test of a suite's TAP becomes a line of ours.
suite() {
    "$top_builddir/tests/test_$2" --tap=- --quiet --jobs 1 --ascii >"$work/tap" 2>"$work/log" </dev/null
    status=$?
    grep -E '^(not )?ok ' "$work/tap" >"$work/lines"
    while read -r line; do
        name="$1: $(printf '%s\n' "$line" | sed -e 's/^\(not \)\{0,1\}ok *-\{0,1\} *//' -e 's/ *#.*//' -e 's/ *([0-9.]*s)$//')"
        case $line in
        "ok "*"# SKIP"*) skip "$name" "${line##*SKIP}" ;;
        "ok "*) pass "$name" ;;
        *)
            # What the suite said of it stands in the lines behind.
            awk -v line="$line" '$0 == line { on = 1; next } /^(not )?ok / { on = 0 } on' "$work/tap" >"$work/said"
            fail "$name" "$work/said"
            ;;
        esac
    done <"$work/lines"
    if [ "$status" -gt 1 ] || ! [ -s "$work/lines" ]; then
        fail "$1: test_$2 ended with status $status" "$work/log"
    fi
}
# on NAME SUITE…
on() {
    device=$1
    shift
    for each; do suite "$device" "$each"; done
}

# demo NAME: its tables are the CPU's.  Formats: the same figures.  Pages: the same bytes, precise errors to the
# rounding of f32 sums, others within a tenth (the CPU's integer attention adds to its own).  Bytes: none differs.
demo() {
    [ -s "$work/demo-cpu" ] || "$ANYKV" demo --json --device cpu >"$work/demo-cpu" 2>"$work/log"
    if ! "$ANYKV" demo --json --device "$1" >"$work/demo-$1" 2>"$work/log"; then
        fail "demo on $1" "$work/log"
        return
    fi
    for one in cpu "$1"; do
        grep '^{"k": ' "$work/demo-$one" | grep -v '"section"' >"$work/formats-$one"
        grep '"section": "pages"' "$work/demo-$one" | sed -e 's/[{}"]//g' -e 's/, /\n/g' |
            awk -F': ' '$1 ~ /^(k|v|packed_bytes|hot_bytes|output_error|output_error_precise)$/ { print $1, $2 }' \
                >"$work/pages-$one"
    done
    if [ -s "$work/formats-$1" ] && cmp -s "$work/formats-cpu" "$work/formats-$1"; then
        pass "demo on $1: formats as on the CPU"
    else
        fail "demo on $1: formats as on the CPU" "$work/formats-$1"
    fi
    if paste -d ' ' "$work/pages-cpu" "$work/pages-$1" | awk '
        function near(a, b, share) { return a - b <= share * a + 2e-6 && b - a <= share * a + 2e-6 }
        { rows++; good = $1 == $3 && ($1 == "output_error" ? near($2, $4, 0.1) : \
              $1 == "output_error_precise" ? near($2, $4, 1e-5) : $2 == $4) }
        !good { print; bad = 1 }
        END { exit bad || rows != 42 }' >"$work/bad"; then
        pass "demo on $1: pages as on the CPU"
    else
        fail "demo on $1: pages as on the CPU" "$work/bad"
    fi
    if grep -q '"summary": true.*"differ": 0' "$work/demo-$1"; then
        pass "demo on $1: bytes"
    else
        fail "demo on $1: bytes" "$work/demo-$1"
    fi
}

if [ ! -x "$top_builddir/tests/test_pool" ]; then
    skip "cache suites on devices" "this build has no Criterion"
    finish
fi
# Programs are built once for all suites; a driver's own cache goes there, too.
mkdir -m 700 "$work/cache"
export XDG_CACHE_HOME="$work/cache"
usable() { "$ANYKV" devices --json 2>/dev/null | grep "\"backend\": \"$1\"" | grep -q '"usable": true'; }
if [ -n "$SANITIZERS" ]; then
    skip "cache suites on devices" "drivers and their compilers are not built for sanitizers"
    finish
fi
if usable opencl; then
    # shellcheck disable=SC2086
    ANYKV_TEST_DEVICE=opencl on opencl $suites
    demo opencl
else
    absent opencl "no usable OpenCL device" "${ANYKV_REQUIRE_OPENCL-}"
fi
if usable cuda; then
    # shellcheck disable=SC2086
    ANYKV_TEST_DEVICE=cuda on cuda $suites
    demo cuda
else
    absent cuda "no usable CUDA device" "${ANYKV_REQUIRE_CUDA-}"
fi
finish
