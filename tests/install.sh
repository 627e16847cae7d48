#!/bin/sh
# shellcheck disable=SC2046,SC2086
# SPDX-License-Identifier: Apache-2.0
# make install into a staging directory, then what a user's program does: pkg-config, compile, run.
# shellcheck source=tests/tap.inc
. "$srcdir/tests/tap.inc"
stage=$work/stage
unset MAKEFLAGS MFLAGS MAKELEVEL
check "make install DESTDIR=" $MAKE -C "$top_builddir" install DESTDIR="$stage"

prefix=$(sed -n 's/^prefix = //p' "$top_builddir/Makefile")
pc=$(find "$stage" -name anykv.pc)
header=$(find "$stage" -name anykv.h)
library=$(find "$stage" -name 'libanykv.so.0' -o -name 'libanykv.a' | head -n 1)
check "anykv.pc is installed" test -f "$pc"
check "anykv.h is installed" test -f "$header"
check "the library is installed under its soname" test -e "$library"
check "the command is installed" test -x "$stage$prefix/bin/anykv"
check "the manual pages are installed" \
    sh -c 'test -f "$1"/man1/anykv.1 && test -f "$1"/man3/anykv.3' sh "$(find "$stage" -type d -name man)"
find "$stage" -name '*internal*' -o -name 'libtools*' -o -name 'libtesting*' >"$work/private"
empty "nothing internal is installed" "$work/private"
check "the installed command starts" "$stage$prefix/bin/anykv" --version

if ! command -v pkg-config >/dev/null 2>&1; then
    skip "a program built by pkg-config" "no pkg-config"
else
    PKG_CONFIG_PATH=$(dirname "$pc")
    PKG_CONFIG_SYSROOT_DIR=$stage
    export PKG_CONFIG_PATH PKG_CONFIG_SYSROOT_DIR
    version=$(sed -n "s/^PACKAGE_VERSION='\(.*\)'/\1/p" "$top_builddir/config.log")
    check "pkg-config knows version $version" pkg-config --exact-version="$version" anykv
    static=
    [ -f "$(find "$stage" -name libanykv.so)" ] || static=--static
    check "a program built by pkg-config links" $CC -std=c11 $SANITIZERS -o "$work/user" \
        "$top_srcdir/examples/codec.c" $(pkg-config --cflags --libs $static anykv) -lm
    LD_LIBRARY_PATH=$(dirname "$library")
    export LD_LIBRARY_PATH
    check "and runs against the installed library" "$work/user"
fi

check "make uninstall DESTDIR=" $MAKE -C "$top_builddir" uninstall DESTDIR="$stage"
find "$stage" ! -type d >"$work/left"
empty "uninstall leaves nothing" "$work/left"
finish
