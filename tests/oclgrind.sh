#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The OpenCL kernels under Oclgrind, in both shapes, with race and bounds checking, on a few small cases.
# A skip unless Oclgrind is installed; ANYKV_REQUIRE_OPENCL=1 makes that a failure.
# shellcheck source=tests/tap.inc
. "$srcdir/tests/tap.inc"
runtime=
for file in ${ANYKV_OCLGRIND-} /usr/lib/oclgrind/liboclgrind-rt.so /usr/lib64/oclgrind/liboclgrind-rt.so \
    /usr/lib/*/oclgrind/liboclgrind-rt.so /usr/local/lib/liboclgrind-rt.so; do
    [ -n "$runtime" ] || [ ! -e "$file" ] || runtime=$file
done
why=
[ -n "$runtime" ] || why="Oclgrind is not installed (or set ANYKV_OCLGRIND to liboclgrind-rt.so)"
[ -n "$why" ] || ANYKV_OPENCL_LIBRARY=$runtime "$ANYKV" devices 2>/dev/null | grep -q '^opencl' ||
    why="this build has no OpenCL backend"
if [ -n "$why" ]; then
    case ${ANYKV_REQUIRE_OPENCL-} in
    '' | 0) skip "kernels under Oclgrind" "$why" ;;
    *) fail "kernels under Oclgrind: $why" ;;
    esac
    finish
fi

mkdir "$work/cache"
export ANYKV_OPENCL_LIBRARY="$runtime" XDG_CACHE_HOME="$work/cache" OCLGRIND_DATA_RACES=1 \
    OCLGRIND_MAX_ERRORS=4 OCLGRIND_GLOBAL_MEM_SIZE=268435456 OCLGRIND_LOCAL_MEM_SIZE=65536
# one SHAPE CASE [ELEMENTS]: nothing differs and the simulator says nothing (on stderr: its log file stays
# empty where the known answers of a device found something first).
one() {
    ANYKV_OPENCL_SHAPE=$1 "$ANYKV" verify --device opencl --require opencl --elements "${3-10}" \
        --kernel "${2%%/*}" --case "$2" >"$work/out" 2>"$work/log"
    status=$?
    if [ "$status" -ne 0 ]; then
        cat "$work/log" >>"$work/out"
        fail "$1 shape, $2: exit status $status" "$work/out"
    elif [ -s "$work/log" ]; then
        fail "$1 shape, $2: the simulator found something" "$work/log"
    else
        pass "$1 shape, $2"
    fi
}
for shape in gpu cpu; do
    one "$shape" encode/N4/d80-F16-rotate-search-0
    one "$shape" decode/N6/d64-F16-rotate-random-0
    one "$shape" encode/N4/maps-d64-1-keys
    one "$shape" decode/N4/maps-d64-0-keys
    one "$shape" gather/N4/maps-d64-1-keys
    one "$shape" rotate/F32/d64-store-0
    one "$shape" seal/N4/N4-N4-F16-d64-d64-t16-0
    one "$shape" reencode/N3/N6-N5-d64-d128-t16-plain-0
    one "$shape" encode/IQ4_NL/d80-F16-rotate-0
    one "$shape" seal/Q5_1/Q5_1-Q5_1-F16-d64-d64-t16-0
    one "$shape" shift/N4/d64-map-0
    one "$shape" shift/N3/d80-rotate-4
    one "$shape" shift/F16/d64-raw-0
    one "$shape" append/F16/d64-d64-BF16-t16-0
    one "$shape" gather/N4/d64-values-F32-rotate-t16-F16-Q4_0-0
    one "$shape" copy/-/pool-pool-48-0
    one "$shape" score/N4/d64-d512-m3-rotate-t256-0
    one "$shape" select/-/f1-u1-p5-0
    one "$shape" bx16_count/-/spread-4097-8
    one "$shape" bx16_encode/-/random-4097-8
    one "$shape" bx16_decode/-/random-4097-8
    one "$shape" rans_count/N3/quads-real-30-2
    one "$shape" rans_encode/N3/scales-columns-30-2
    one "$shape" rans_encode/N4/mixed-two-30-2
    one "$shape" rans_decode/N6/mixed-real-30-2
    one "$shape" lowrank_project/F16/halves-d80-t10-0
    one "$shape" lowrank_read/-/values-d80-t10-0
    one "$shape" lowrank_rows/F16/pairs-d80-t10-0
    one "$shape" multiply/-/9x17x33-3
    one "$shape" attend/N4/N4/d80-d80-mask-g2-t16-F16-precise-35
done
# Kernels that only the GPU shape has; work-groups whose rows are all there.
one gpu attend/F16/F16/d128-d128-decode-g4-t16-F16-precise-30
one gpu attend/N4/N4/d64-d64-decode-g4-t16-F16-precise-30
# Integer products; means and matrices with them.
one dot attend/N4/N4/d256-d256-decode-g4-t16-F16-common-30
one dot attend/N2/N2/d64-d64-decode-g4-t16-F16-centre-30
one dot attend/I8/I8/d256-d256-decode-g4-t16-F16-still-30
one dot attend/N5/N4/d128-d128-decode-g4-t16-F16-matrix-30
one odd seal/I8/I8-I8-F16-d128-d128-t16-0
one gpu encode/I8/d128-F32-1 400000
one gpu encode/N5/d192-F16-rotate-1 400000
one gpu decode/I8/d128-F32-rotate-random-1 400000
one gpu decode/N4/d192-F16-encoded-1 400000
finish
