#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What writes storage is EXACT on CUDA: its device code has no fused multiply-add but those that the source
# asks for, and no product or sum that an assembler may fuse later.  Compiled to PTX with the flags of the
# images, explicit ones marked.
# shellcheck source=tests/tap.inc
. "$srcdir/tests/tap.inc"
mkdir "$work/lib"
cp -r "$top_srcdir/lib/kernel" "$work/lib/"
cp -r "$top_srcdir/kernels-cu" "$work/"
sed 's/__fmaf_rn((a), (b), (c))/marked_fma((a), (b), (c))/' "$top_srcdir/lib/kernel/platform.h" >"$work/lib/kernel/platform.h"
cat >"$work/mark.cuh" <<'END'
static __device__ __forceinline__ float marked_fma(float a, float b, float c)
{
    float d;
    asm("fma.rn.f32 %0, %1, %2, %3; // asked for" : "=f"(d) : "f"(a), "f"(b), "f"(c));
    return d;
}
END
# What a kernel may not have, with the kernel's name; at the end how many fused ones were asked for.
inspect() {
    awk '
    /\.entry|\.func/ { name = $0; sub(/.*akv_k_/, "akv_k_", name); sub(/\(.*/, "", name) }
    /asked for/ { asked++; next }
    /fma\.r[mp]\.f32/ { next } # rounded down or up: nothing is fused into these
    /(fma|mad)\.[a-z.]*(f32|f16|f64|f16x2|bf16)/ { print name ": " $0; next }
    /(add|sub|mul)\.(ftz\.|sat\.)*(f32|f64|f16|f16x2)/ { print name ", may be fused: " $0 }
    END { print asked + 0 >count }' count="$work/asked" "$work/ptx"
}

# What clang makes where there is no nvcc; the codec's image, which takes it minutes, is like the others.
clang=${CUDA_CLANG:-$(command -v clang || true)}
clang_flags=$(sed -n 's/^CLANG_CUDA_FLAGS = //p' "$top_builddir/Makefile")
if [ -z "$clang" ] || [ -z "$clang_flags" ]; then
    skip "PTX by clang" "no clang, or built without --with-cuda"
else
    for name in page evict compress rans lowrank; do
        # shellcheck disable=SC2086
        if "$clang" $clang_flags -I"$work/kernels-cu/clang" -include cuda_fp16.h -include "$work/mark.cuh" -S \
            -o "$work/ptx" "$work/kernels-cu/$name.cu" >"$work/log" 2>&1; then
            inspect >"$work/bad"
            empty "$name by clang: nothing fused, nothing that may be" "$work/bad"
        else
            fail "$name: clang does not compile it" "$work/log"
        fi
    done
fi

if [ -z "${NVCC-}" ] || ! grep -q '^#define AKV_WITH_CUDA\|-DAKV_WITH_CUDA=1' "$top_builddir/Makefile"; then
    skip "images of the CUDA backend" "this build has no CUDA backend"
    finish
fi

# image_flags NAME: what the build compiles kernels-cu/NAME.cu with.  -W takes a file by the name that make has for it.
source_folder=$(sed -n 's/^top_srcdir = //p' "$top_builddir/Makefile")
image_flags() {
    "$MAKE" -s -n -C "$top_builddir" -W "$source_folder/kernels-cu/$1.cu" \
        "kernels-cu/$1.fatbin" 2>/dev/null | tr '\n' ' ' | sed -n 's/.* -fatbin //p' | sed 's/ -gencode.*//'
}
# ptx SOURCE FLAGS…: to $work/ptx.
ptx() {
    source=$1
    shift
    "$NVCC" -ptx -arch=compute_80 "$@" -include "$work/mark.cuh" -o "$work/ptx" "$source"
}
for name in quant quant_blocks page evict compress rans; do
    flags=$(image_flags "$name")
    case " $flags " in
    *" -fmad=false "*) pass "$name: the build forbids fusing" ;;
    *) fail "$name: the build does not say -fmad=false but \"$flags\"" ;;
    esac
    # shellcheck disable=SC2086
    if ptx "$work/kernels-cu/$name.cu" $flags >"$work/log" 2>&1; then
        inspect >"$work/bad"
        empty "$name: nothing fused but the $(cat "$work/asked") that the source asks for" "$work/bad"
    else
        fail "$name: does not compile" "$work/log"
    fi
    asked=$(cat "$work/asked" 2>/dev/null || echo 0)
    case $name in
    quant) if [ "$asked" -gt 100 ]; then pass "explicit ones are seen"; else fail "$asked explicit ones seen"; fi ;;
    esac
done

# The host's tests (cuda_host.sh) have instructions of their own: these are what they stand for.
cat >"$work/sign.cu" <<END
#include "$work/kernels-cu/mma.cuh"
extern "C" __global__ void akv_k_sign(unsigned *x)
{
    x[0] = akv_prmt(x[1], x[2], 0x9D8C);
}
END
if ptx "$work/sign.cu" -std=c++17 -O3 >"$work/log" 2>&1 && [ -n "$(awk '
    /mov\.(b32|u32)/ && /, 40332;/ { held = $2 }
    /prmt\.b32/ { sub(/;/, "", $NF); if ($NF == 40332 || $NF "," == held) print }' "$work/ptx")" ]; then
    pass "selectors of bytes keep their sign bits"
else
    fail "selectors of bytes lose their sign bits" "$work/ptx"
fi

# A kernel that is contracted is found, and one that could be.
cat >"$work/planted.cu" <<'END'
extern "C" __global__ void akv_k_planted(float *x)
{
    x[0] = x[1] * x[2] + x[3];
}
END
if ptx "$work/planted.cu" -std=c++17 -O3 >"$work/log" 2>&1; then
    inspect >"$work/bad"
    if grep -q '^akv_k_planted: .*fma' "$work/bad"; then
        pass "a contracted kernel is found"
    else
        fail "a contracted kernel is not found" "$work/ptx"
    fi
else
    fail "the planted kernel does not compile" "$work/log"
fi
ptx "$work/planted.cu" -std=c++17 -O3 -fmad=false >"$work/log" 2>&1 && inspect >"$work/bad"
empty "the same with the images' flag passes" "$work/bad"
finish
