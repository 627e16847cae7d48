#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Writes a C file that holds the OpenCL programs as bytes: the kernel headers of lib/kernel without their
# include lines, then the shells.  Usage: embed.sh SOURCE-FOLDER > sources.c
set -eu
top=$1
arithmetic='platform format params fp rope map rotate quant pack ggml page'

# One translation unit; #line makes the messages of a driver's compiler name our files.
unit()
{
    for file in "$@"; do
        printf '#line 1 "%s"\n' "${file##*/}"
        sed -e '/^#include "/d' "$top/$file"
    done
}

headers()
{
    for name in "$@"; do
        printf 'lib/kernel/%s.h\n' "$name"
    done
}

bytes()
{
    od -An -v -tu1 | sed -e 's/  */,/g' -e 's/^,//' -e 's/$/,/'
}

# name, then its files
program()
{
    name=$1
    shift
    printf 'static const unsigned char %s_text[] = {\n' "$name"
    unit "$@" | bytes
    printf '0};\n'
    list="$list    {\"$name\", (const char *)${name}_text, sizeof ${name}_text - 1},
"
}

list=
printf '/* Written by embed.sh from lib/kernel and kernels-cl: do not edit. */\n#include "cl.h"\n\n'
# Word splitting of the lists is meant.
# shellcheck disable=SC2046,SC2086
program quant $(headers $arithmetic) kernels-cl/shape.h kernels-cl/common.cl kernels-cl/map.cl kernels-cl/vector.cl kernels-cl/quant.cl
# shellcheck disable=SC2046,SC2086
program page $(headers $arithmetic) kernels-cl/shape.h kernels-cl/common.cl kernels-cl/map.cl kernels-cl/page.cl
# shellcheck disable=SC2046,SC2086
program attend $(headers $arithmetic attend) kernels-cl/shape.h kernels-cl/common.cl kernels-cl/map.cl \
    kernels-cl/attend.cl kernels-cl/attend_cpu.cl kernels-cl/attend_rows.cl kernels-cl/attend_gpu.cl \
    kernels-cl/attend_dot.cl kernels-cl/attend_one.cl
# shellcheck disable=SC2046,SC2086
program evict $(headers $arithmetic attend evict) kernels-cl/shape.h kernels-cl/common.cl kernels-cl/map.cl kernels-cl/evict.cl
# shellcheck disable=SC2046,SC2086
program compress $(headers $arithmetic bx16) kernels-cl/shape.h kernels-cl/common.cl kernels-cl/compress.cl
# shellcheck disable=SC2046,SC2086
program rans $(headers $arithmetic bx16 rans) kernels-cl/shape.h kernels-cl/common.cl kernels-cl/rans.cl
# shellcheck disable=SC2046,SC2086
program lowrank $(headers $arithmetic lowrank) kernels-cl/shape.h kernels-cl/common.cl kernels-cl/lowrank.cl
printf '\nconst struct akv_cl_source akv_cl_sources[] = {\n%s    {NULL, NULL, 0},\n};\n' "$list"
