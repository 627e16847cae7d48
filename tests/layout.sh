#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The house rules that a script can check: who includes what, file lists, licence lines, private text.
# shellcheck source=tests/tap.inc
. "$srcdir/tests/tap.inc"
cd "$top_srcdir" || exit 99

# Every source file of the tree: what git tracks, or in a release tarball what lies there.
if [ -e .git ] && git ls-files >"$work/tracked" 2>/dev/null && [ -s "$work/tracked" ]; then
    while read -r file; do [ ! -f "$file" ] || echo "$file"; done <"$work/tracked" >"$work/files"
    from_git=yes
else
    find . -type f | sed 's|^\./||' | sort >"$work/files"
    from_git=no
fi
sources() { grep -E "^($1)\$" "$work/files" || true; }

# allow FILES SYSTEM OWN: the files (a regular expression of paths) include no <…> outside SYSTEM and no
# "…" outside OWN, both regular expressions of what stands between the brackets.
allow() {
    for file in $(sources "$1"); do
        sed -n 's/^ *# *include *\([<"][^>"]*\)[>"].*/\1/p' "$file" | while read -r include; do
            case $include in
            '<'*) echo "${include#<}" | grep -Eqx -- "$2" || echo "$file: <${include#<}>" ;;
            *) echo "${include#?}" | grep -Eqx -- "$3" || echo "$file: \"${include#?}\"" ;;
            esac
        done
    done >"$work/forbidden"
    empty "includes of $4" "$work/forbidden"
}
any_c='[a-z0-9_/]+\.h'
kernel='(\.\./)*(lib/)?kernel/[a-z0-9_]+\.(h|def)'
allow 'lib/anykv\.h' 'std(def|int)\.h' 'none' "the public header"
allow 'lib/kernel/.*\.(h|def)' '(math|stdint|string)\.h' '[a-z0-9_]+\.(h|def)' "the kernel arithmetic"
allow 'lib/(status|alloc|log|thread|hash)\.c|lib/internal\.h' '[a-z0-9_/-]+\.h' '(anykv|internal|objects)\.h' "the utilities"
allow 'backends/backend\.h' "$any_c" '\.\./lib/(anykv|internal)\.h|\.\./lib/kernel/(params\.h|kernels\.def)' \
    "the backend table"
allow 'backends/[a-z0-9_]+\.[ch]' "$any_c" \
    "[a-z0-9_]+\.h|\.\./lib/(anykv|internal)\.h|(\.\./lib/)?kernel/[a-z0-9_]+\.(h|def)" "backends/*.c"
# A device kernel's shape (group sizes) is known to its host side.
shapes='(\.\./)+kernels-c[lu]/[a-z0-9_]+\.h'
backend_own="[a-z0-9_]+\.(h|def|inc)|(\.\./backends/|\.\./)?backend\.h|\.\./(span|known)\.h|(\.\./\.\./lib/)?(anykv|internal)\.h|(\.\./\.\./lib/)?kernel/[a-z0-9_]+\.(h|def)"
allow 'backends/cpu/.*\.[ch]' "[a-z0-9_/]+\.h" "$backend_own" "the CPU backend"
allow 'backends/opencl/.*\.[ch]' '[a-z0-9_/]+\.h|CL/[a-z_]+\.h' "$shapes|$backend_own" "the OpenCL backend"
allow 'backends/cuda/.*\.[ch]' '[a-z0-9_/]+\.h' "$shapes|$backend_own" "the CUDA backend"
engine=$(sources 'lib/[a-z0-9_]+\.[ch]' | grep -Ev '^lib/(status|alloc|log|thread|hash)\.c$|^lib/(anykv|internal)\.h$' |
    sed 's/\./\\./' | tr '\n' '|')
allow "${engine}none" "$any_c" \
    '[a-z0-9_]+\.h|(\.\./)?backends/backend\.h|kernel/(format|params|platform|lowrank|bx16|rans)\.h|kernel/kernels\.def' "the engine"
allow 'kernels-cl/.*\.(cl|h)' 'none' "[a-z0-9_]+\.(cl|h)|$kernel" "the OpenCL kernels"
allow 'kernels-cu/clang/.*\.h' 'stddef\.h|__clang_cuda_builtin_vars\.h' 'none' "what stands for the CUDA toolkit"
allow 'kernels-cu/[^/]*\.(cu|cuh|h)' '(cuda_|mma)[a-z0-9_]*\.h|stdint\.h' "[a-z0-9_]+\.(cu|cuh|h)|$kernel" "the CUDA kernels"
allow 'examples/[a-z0-9_]+\.[ch]' '[a-z0-9_/]+\.h|CL/cl\.h' 'none' "the examples"
allow 'examples/llama/.*\.[ch]' '[a-z0-9_/]+\.h' '[a-z0-9_]+\.h' "the engine among the examples"

for file in $(sources 'lib/[a-z0-9_]+\.[ch]'); do
    grep -HnE '# *include *[<"](CL/|cuda)|\b(cl_mem|CUdeviceptr|cuMem[A-Z]|clCreate)[A-Za-z]*\(' "$file"
done | grep -v '^lib/anykv\.h' >"$work/gpu"
empty "the engine names no GPU interface" "$work/gpu"
for file in $(sources 'lib/[a-z0-9_]+\.c' | grep -v '^lib/version\.c$'); do
    grep -HnE 'akv_backend_(cpu|opencl|cuda)\b' "$file"
done >"$work/named"
empty "the engine names no backend" "$work/named"

# Lists of files.
if [ "$from_git" = yes ]; then
    for file in $(sources '(lib|backends|kernels-cl|kernels-cu|tools|tests|bench|examples|docs)/.*'); do
        case $file in
        lib/anykv.h | lib/anykv.map | tools/main.c | tests/run-suite | tests/tarball | tests/lsan.supp) continue ;;
        tests/fuzz_main.c | tests/plain/main.c | examples/opencl_share.c | examples/llama/main.c) continue ;; # in Makefile.am
        examples/llama/*.c) grep -qE "^	$file( |\$)" sources.am || echo "$file" ;;
        examples/*.c | tests/test_*.c | tests/fuzz_*.c) grep -qE "^	${file%.c}( |\$)" sources.am || echo "$file" ;;
        *) grep -qE "^	$file( |\$)" sources.am || echo "$file" ;;
        esac
    done >"$work/unlisted"
    empty "sources.am lists every file (else: ./dev sources)" "$work/unlisted"
fi
sed -n 's/^	\([^ ]*\).*/\1/p' sources.am | while read -r file; do
    [ -e "$file" ] || [ -e "$file.c" ] || echo "$file"
done >"$work/missing"
empty "sources.am lists no file that is gone" "$work/missing"

# First lines, private text, unfinished work.
for file in $(sources '(lib|backends|kernels-cl|kernels-cu|tools|tests|bench|examples)/.*\.(c|h|def|cl|cu|cuh|sh|map)'); do
    head -n 3 "$file" | grep -q 'SPDX-License-Identifier: Apache-2.0' || echo "$file"
done >"$work/unlicensed"
empty "every source file names its licence first" "$work/unlicensed"
# Spelt apart so that this script does not find itself.
private="(^|[^A-Za-z0-9_.])/(wo""rk|fa""rm|ro""ot)/|\.\./sha""red"
unfinished="\b(TO""DO|FIX""ME|XX""X)\b"
for file in $(sources '.*\.(c|h|def|cl|cu|cuh|sh|map|am|ac|m4|md|in|1|3|5|inc)|dev|bootstrap|\.ci/run' |
    grep -Ev '^(build|m4/l|aclocal|anykv-|LICENSE)'); do
    grep -HnE "$private" "$file"
done | cut -c1-160 >"$work/private"
empty "no text names a machine's private paths" "$work/private"
for file in $(sources '(lib|backends|kernels-cl|kernels-cu|tools|tests|bench|examples)/.*\.(c|h|def|cl|cu|cuh|sh)'); do
    grep -HnE "$unfinished" "$file"
done | cut -c1-160 >"$work/unfinished"
empty "no unfinished work by its own words" "$work/unfinished"
# lib/anykv.h is the reference: programs include one header, readers read one file.
for file in $(sources '(lib|backends|tools)/.*\.[ch]' | grep -v '^lib/anykv\.h$'); do
    awk -v file="$file" 'END { if (NR > 900) print file ": " NR " lines" }' "$file"
done >"$work/long"
empty "no file of more than 900 lines" "$work/long"
finish
