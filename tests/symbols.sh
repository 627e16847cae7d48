#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Exported symbols, and library manners: what the library's objects define and call.
# shellcheck source=tests/tap.inc
. "$srcdir/tests/tap.inc"
shared=$top_builddir/.libs/libanykv.so
internal=$top_builddir/.libs/libanykv-internal.a
[ -f "$internal" ] || internal=$top_builddir/libanykv-internal.a

declared() {
    tr '\n' ' ' <"$top_srcdir/lib/anykv.h" | sed 's/ANYKV_API/\n&/g' |
        sed -n 's/^ANYKV_API [^;({]*[ *]\(anykv_[a-z0-9_]*\)(.*/\1/p' | sort -u
}
mapped() { sed -n 's/^ *\(anykv_[a-z0-9_]*\);.*/\1/p' "$top_srcdir/lib/anykv.map" | sort -u; }

declared >"$work/declared"
mapped >"$work/mapped"
check "the header declares something" test -s "$work/declared"
check "the version map lists what the header declares" diff "$work/declared" "$work/mapped"
if [ -f "$shared" ]; then
    $NM -D --defined-only "$shared" | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' |
        grep -Ev '^(_init|_fini|__.*)$' | sort -u >"$work/exported"
    check "the shared library exports what the map lists" diff "$work/mapped" "$work/exported"
else
    skip "exports of the shared library" "no shared library was built"
fi

$NM -A --defined-only "$internal" 2>/dev/null | awk '$2 ~ /^[A-TV-Z]$/ { print $3, $1 }
    $3 ~ /^[A-TV-Z]$/ { print $4, $1 }' | grep -Ev '^(anykv_|akv_)' |
    grep -Ev '^(__asan|__odr|__tsan|__ubsan|DW\.ref|__x86\.get_pc)' >"$work/foreign"
empty "every global symbol begins with anykv_ or akv_" "$work/foreign"

# What a library must not call: it does not end, print, fork, catch signals or keep exit handlers.
$NM -A --undefined-only "$internal" 2>/dev/null | awk '{ print $NF, $1 }' | sort -u >"$work/calls"
grep -E '^(abort|exit|_exit|_Exit|quick_exit|printf|__printf_chk|vprintf|__vprintf_chk|puts|putchar|putc|fputs|perror|stdout|stderr|fork|vfork|system|popen|signal|sigaction|bsd_signal|sigprocmask|atexit|on_exit|__cxa_atexit|pthread_atfork|__register_atfork|setlocale|rand|srand|random|srandom|fesetround|feenableexcept|environ|setenv|putenv|unsetenv|chdir|umask|malloc_usable_size|dlclose_all) ' \
    "$work/calls" >"$work/rude"
empty "no abort, exit, print, fork, signal or exit handler" "$work/rude"
if grep -q '^__assert_fail ' "$work/calls"; then
    if $NM "$top_builddir/.libs/libanykv.so" 2>/dev/null | grep -q __assert_fail &&
        ! grep -q '^AKV_NDEBUG = *$' "$top_builddir/Makefile"; then
        fail "no assertion in a build for users"
    else
        skip "no assertion in a build for users" "configured with --enable-assert"
    fi
else
    pass "no assertion in a build for users"
fi
# Memory comes through the seam: only alloc.c may call the C allocator.
grep -E '^(malloc|calloc|realloc|reallocarray|free|aligned_alloc|posix_memalign|memalign|strdup|strndup|asprintf|vasprintf|getline) ' \
    "$work/calls" | grep -Ev '[-_]alloc\.o:' >"$work/heap"
empty "only alloc.c calls the C allocator" "$work/heap"

if [ -n "$SANITIZERS" ]; then
    skip "no constructor" "the sanitizers put their own in"
elif command -v objdump >/dev/null 2>&1; then
    objdump -h "$internal" 2>/dev/null |
        awk '/file format/ { file = $1 } $2 ~ /^\.(init_array|ctors|fini_array|dtors|preinit_array)/ { print file, $2 }' \
            >"$work/constructors"
    empty "no constructor or destructor" "$work/constructors"
else
    skip "no constructor" "no objdump"
fi
finish
