#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# kernels-cu without a card: compiled by the C++ compiler, its threads run by tests/cuda_host behind the fake
# driver, and the conformance harness on that device.
# shellcheck source=tests/tap.inc
. "$srcdir/tests/tap.inc"
why=
[ -n "${CXX-}" ] || why="no C++ compiler"
[ -z "${SANITIZERS-}" ] || why="sanitizers do not follow its threads"
ANYKV_CUDA_LIBRARY=/nonexistent "$ANYKV" devices 2>/dev/null | grep -q cuda ||
    why="this build has no CUDA backend"
if [ -n "$why" ]; then
    skip "CUDA kernels on the host" "$why"
    finish
fi
check "kernels-cu compiles as C++" sh "$top_srcdir/tests/cuda_host/build" "$top_srcdir" "$work/cuda_host.so" \
    "$CC" "$CXX"
export ANYKV_CUDA_LIBRARY="$work/cuda_host.so"
# run NAME ARGUMENT…
run() {
    name=$1
    shift
    check "$name" "$ANYKV" verify --device cuda --require cuda --elements 100 "$@"
}
run "quantised formats" --kernel '[edrs]*code' --format '[IN]*'
run "page and evict" --kernel '[agmc]*' --format 'N4'
run "seal, rotate" --kernel '[sr]*[le]' --format '[FN]*'
run "compress" --kernel 'bx16*'
run "rANS" --kernel 'rans*' --format 'N[46]'
FAKE_CUDA=small
export FAKE_CUDA
run "rANS with little shared memory" --kernel rans_decode --format 'N[46]'
unset FAKE_CUDA
run "low rank" --kernel 'lowrank*'
run "products" --kernel multiply
run "attention" --kernel attend
finish
