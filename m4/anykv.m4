dnl SPDX-License-Identifier: Apache-2.0
dnl The project's own configure macros: compiler, instruction sets, libraries, backends, summary.

dnl AKV_ADD_FLAGS(VARIABLE, FLAG, [required], [ADDED]): adds FLAG (or ADDED) to VARIABLE if the compiler
dnl takes FLAG.
AC_DEFUN([AKV_ADD_FLAGS], [
  AS_VAR_PUSHDEF([akv_flag], [akv_cv_cc_flag_$2])
  AC_CACHE_CHECK([whether $CC accepts $2], [akv_flag],
    [akv_save_CFLAGS=$CFLAGS
     CFLAGS="$CFLAGS -Werror $2"
     AC_COMPILE_IFELSE([AC_LANG_PROGRAM([], [])], [AS_VAR_SET([akv_flag], [yes])],
       [AS_VAR_SET([akv_flag], [no])])
     CFLAGS=$akv_save_CFLAGS])
  AS_VAR_IF([akv_flag], [yes], [$1="$$1 m4_default([$4], [$2])"],
    [m4_if([$3], [required],
      [AC_MSG_ERROR([the compiler $CC must accept $2: stored bytes depend on it])], [:])])
  AS_VAR_POPDEF([akv_flag])
])

dnl Refuses machines and flags on which stored bytes would differ.
AC_DEFUN([AKV_CHECK_MACHINE], [
  AC_MSG_CHECKING([that the target is little-endian])
  AC_COMPILE_IFELSE([AC_LANG_SOURCE([[
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "big-endian"
#endif
int x;]])], [AC_MSG_RESULT([yes])],
    [AC_MSG_RESULT([no])
     AC_MSG_ERROR([anykv stores little-endian data and does not build for big-endian machines])])
  AC_MSG_CHECKING([that float arithmetic is rounded to float])
  AC_COMPILE_IFELSE([AC_LANG_SOURCE([[
#if defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ != 0
#error "x87"
#endif
int x;]])], [AC_MSG_RESULT([yes])],
    [AC_MSG_RESULT([no])
     AC_MSG_ERROR([anykv does not build for x87 arithmetic: use CFLAGS with -msse2 -mfpmath=sse, or a 64-bit target])])
  AC_MSG_CHECKING([that no flag relaxes floating-point arithmetic])
  AC_COMPILE_IFELSE([AC_LANG_SOURCE([[
#ifdef __FAST_MATH__
#error "fast math"
#endif
int x;]])], [akv_strict=yes], [akv_strict=no])
  case " $CPPFLAGS $CFLAGS $CC " in
    *[[\ ]]-ffast-math* | *[[\ ]]-Ofast* | *[[\ ]]-funsafe-math* | *[[\ ]]-fassociative-math* | *[[\ ]]-freciprocal-math* | *[[\ ]]-ffinite-math-only* | *[[\ ]]-ffp-contract=[[fo]][[an]]*)
      akv_strict=no ;;
  esac
  AC_MSG_RESULT([$akv_strict])
  AS_IF([test "$akv_strict" = no],
    [AC_MSG_ERROR([-ffast-math, its parts and -ffp-contract other than off are refused: stored bytes would differ between machines])])
])

dnl --enable-sanitizers=LIST
AC_DEFUN([AKV_SANITIZERS], [
  AC_ARG_ENABLE([sanitizers],
    [AS_HELP_STRING([--enable-sanitizers=LIST],
      [build with sanitizers, a comma list of address, undefined, thread, leak])],
    [], [enable_sanitizers=no])
  AS_CASE([$enable_sanitizers],
    [no], [],
    [yes], [AC_MSG_ERROR([--enable-sanitizers needs a list, for example address,undefined])],
    [for akv_one in `echo "$enable_sanitizers" | tr , ' '`; do
       AS_CASE([$akv_one], [address | undefined | thread | leak], [],
         [AC_MSG_ERROR([--enable-sanitizers: unknown sanitizer "$akv_one"; known are address, undefined, thread, leak])])
     done
     AKV_SAN="-fsanitize=$enable_sanitizers -fno-omit-frame-pointer"
     AS_CASE([,$enable_sanitizers,], [*,undefined,*], [AKV_SAN="$AKV_SAN -fno-sanitize-recover=undefined"])
     akv_save_CFLAGS=$CFLAGS
     CFLAGS="$CFLAGS $AKV_SAN"
     AC_MSG_CHECKING([whether $CC links with $AKV_SAN])
     AC_LINK_IFELSE([AC_LANG_PROGRAM([], [])], [AC_MSG_RESULT([yes])],
       [AC_MSG_RESULT([no])
        AC_MSG_ERROR([--enable-sanitizers=$enable_sanitizers does not work with $CC])])
     CFLAGS=$akv_save_CFLAGS])
  AC_SUBST([AKV_SAN])
  AM_CONDITIONAL([SANITIZED], [test "x$enable_sanitizers" != xno])
])

dnl --enable-fuzzers: the tests/fuzz_* programs become libFuzzer targets instead of short smoke tests.
AC_DEFUN([AKV_FUZZERS], [
  AC_ARG_ENABLE([fuzzers], [AS_HELP_STRING([--enable-fuzzers],
    [link tests/fuzz_* with libFuzzer (needs clang)])], [], [enable_fuzzers=no])
  AS_IF([test "x$enable_fuzzers" = xyes],
    [akv_save_CFLAGS=$CFLAGS
     CFLAGS="$CFLAGS -fsanitize=fuzzer"
     AC_MSG_CHECKING([whether $CC has libFuzzer])
     AC_LINK_IFELSE([AC_LANG_SOURCE([[
#include <stddef.h>
int LLVMFuzzerTestOneInput(const unsigned char *d, size_t n);
int LLVMFuzzerTestOneInput(const unsigned char *d, size_t n) { return d == 0 && n != 0; }]])],
       [AC_MSG_RESULT([yes])],
       [AC_MSG_RESULT([no])
        AC_MSG_ERROR([--enable-fuzzers needs clang with libFuzzer (CC=clang)])])
     CFLAGS=$akv_save_CFLAGS
     AKV_FUZZ_LIBS=-fsanitize=fuzzer
     AKV_SAN="$AKV_SAN -fsanitize=fuzzer-no-link"])
  AC_SUBST([AKV_FUZZ_LIBS])
  AM_CONDITIONAL([FUZZERS], [test "x$enable_fuzzers" = xyes])
])

dnl AKV_CHECK_ISA: compiler support for the SIMD overrides of the CPU backend.
AC_DEFUN([AKV_CHECK_ISA], [
  AKV_AVX2_FLAGS="-mavx2 -mfma -mf16c -mbmi2"
  AKV_AVX512_FLAGS="-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vbmi -mavx512vnni -mfma -mf16c -mbmi2"
  AKV_TRY_ISA([avx2], [$AKV_AVX2_FLAGS], [[
#include <immintrin.h>
__m256i f(__m256i a, __m256i b);
__m256i f(__m256i a, __m256i b) { return _mm256_maddubs_epi16(a, _mm256_shuffle_epi8(a, b)); }]])
  AKV_TRY_ISA([avx512], [$AKV_AVX512_FLAGS], [[
#include <immintrin.h>
__m512i f(__m512i a, __m512i b);
__m512i f(__m512i a, __m512i b) { return _mm512_dpbusd_epi32(a, _mm512_permutexvar_epi8(a, b), b); }]])
  AKV_ISA_CPPFLAGS=
  AS_IF([test "x$akv_cv_isa_avx2" = xyes], [AKV_ISA_CPPFLAGS="$AKV_ISA_CPPFLAGS -DAKV_HAVE_AVX2=1"])
  AS_IF([test "x$akv_cv_isa_avx512" = xyes], [AKV_ISA_CPPFLAGS="$AKV_ISA_CPPFLAGS -DAKV_HAVE_AVX512=1"])
  AM_CONDITIONAL([HAVE_AVX2], [test "x$akv_cv_isa_avx2" = xyes])
  AM_CONDITIONAL([HAVE_AVX512], [test "x$akv_cv_isa_avx512" = xyes])
  AC_SUBST([AKV_AVX2_FLAGS])
  AC_SUBST([AKV_AVX512_FLAGS])
  AC_SUBST([AKV_ISA_CPPFLAGS])
])
AC_DEFUN([AKV_TRY_ISA], [
  AC_CACHE_CHECK([whether $CC compiles for $1], [akv_cv_isa_$1],
    [akv_save_CFLAGS=$CFLAGS
     CFLAGS="$CFLAGS $2"
     AC_COMPILE_IFELSE([AC_LANG_SOURCE([$3])], [akv_cv_isa_$1=yes], [akv_cv_isa_$1=no])
     CFLAGS=$akv_save_CFLAGS])
])

dnl nettle: SHA-256 of block keys.  Required.
AC_DEFUN([AKV_CHECK_NETTLE], [
  AC_ARG_VAR([NETTLE_CFLAGS], [compiler flags for nettle, if it is not where the compiler looks])
  AC_ARG_VAR([NETTLE_LIBS], [linker flags for nettle (default: -lnettle)])
  : ${NETTLE_LIBS=-lnettle}
  akv_save_CPPFLAGS=$CPPFLAGS
  akv_save_LIBS=$LIBS
  CPPFLAGS="$CPPFLAGS $NETTLE_CFLAGS"
  LIBS="$NETTLE_LIBS $LIBS"
  AC_MSG_CHECKING([for nettle])
  AC_LINK_IFELSE([AC_LANG_PROGRAM([[#include <nettle/sha2.h>]],
      [[struct sha256_ctx c; sha256_init(&c);]])],
    [AC_MSG_RESULT([yes])],
    [AC_MSG_RESULT([no])
     AC_MSG_ERROR([the nettle library is required (Debian: nettle-dev, Fedora: nettle-devel); set NETTLE_CFLAGS and NETTLE_LIBS if it stands elsewhere])])
  CPPFLAGS=$akv_save_CPPFLAGS
  LIBS=$akv_save_LIBS
])

dnl CBLAS: only for examples/llama, which has loops of its own.  The reference BLAS is slower than those.
AC_DEFUN([AKV_CHECK_CBLAS], [
  AC_ARG_WITH([cblas], [AS_HELP_STRING([--with-cblas],
    [dense products of examples/llama through OpenBLAS, BLIS or MKL (auto, yes, no; default: auto)])],
    [], [with_cblas=auto])
  AC_ARG_VAR([CBLAS_CFLAGS], [compiler flags for cblas.h])
  AC_ARG_VAR([CBLAS_LIBS], [linker flags for a CBLAS])
  akv_save_CPPFLAGS=$CPPFLAGS
  akv_save_LIBS=$LIBS
  have_cblas=no
  AS_IF([test "x$with_cblas" != xno], [
    CPPFLAGS="$CPPFLAGS $CBLAS_CFLAGS"
    AC_MSG_CHECKING([for a CBLAS])
    for akv_one in ${CBLAS_LIBS:--lopenblas -lblis -lmkl_rt}; do
      AS_IF([test $have_cblas = no], [
        LIBS="$akv_one $akv_save_LIBS"
        AC_LINK_IFELSE([AC_LANG_PROGRAM([[#include <cblas.h>]], [[float x = 1.0f;
            cblas_sgemv(CblasRowMajor, CblasNoTrans, 1, 1, 1.0f, &x, 1, &x, 1, 0.0f, &x, 1);]])],
          [have_cblas=yes
           CBLAS_LIBS=$akv_one])])
    done
    AC_MSG_RESULT([$have_cblas $CBLAS_LIBS])])
  CPPFLAGS=$akv_save_CPPFLAGS
  LIBS=$akv_save_LIBS
  AS_IF([test "x$have_cblas$with_cblas" = xnoyes], [AC_MSG_ERROR([--with-cblas: none found (Debian: libopenblas-dev)])])
  AM_CONDITIONAL([WITH_CBLAS], [test $have_cblas = yes])
])

dnl Criterion: only for the test suites.
AC_DEFUN([AKV_CHECK_CRITERION], [
  AC_ARG_VAR([CRITERION_CFLAGS], [compiler flags for Criterion])
  AC_ARG_VAR([CRITERION_LIBS], [linker flags for Criterion (default: -lcriterion)])
  AC_ARG_WITH([criterion],
    [AS_HELP_STRING([--with-criterion], [build the Criterion test suites (auto, yes, no, or plain: on the
      runner of tests/plain; default: auto)])],
    [], [with_criterion=auto])
  have_criterion=no
  AS_CASE([$with_criterion],
    [no], [why_criterion="switched off by --without-criterion"],
    [plain],
      [CRITERION_CFLAGS='-I$(top_srcdir)/tests/plain'
       CRITERION_LIBS=
       have_criterion=plain],
    [: ${CRITERION_LIBS=-lcriterion}
     akv_save_CPPFLAGS=$CPPFLAGS
     akv_save_LIBS=$LIBS
     CPPFLAGS="$CPPFLAGS $CRITERION_CFLAGS"
     LIBS="$CRITERION_LIBS $LIBS"
     AC_MSG_CHECKING([for Criterion])
     AC_LINK_IFELSE([AC_LANG_SOURCE([[
#include <criterion/criterion.h>
Test(a, b) { cr_assert(1); }]])], [have_criterion=yes],
       [why_criterion="criterion/criterion.h or -lcriterion does not work (Debian: libcriterion-dev)"])
     AC_MSG_RESULT([$have_criterion])
     CPPFLAGS=$akv_save_CPPFLAGS
     LIBS=$akv_save_LIBS])
  AS_IF([test "x$have_criterion$with_criterion" = xnoyes],
    [AC_MSG_ERROR([--with-criterion: $why_criterion])])
  AM_CONDITIONAL([HAVE_CRITERION], [test "x$have_criterion" != xno])
  AM_CONDITIONAL([PLAIN_CRITERION], [test "x$have_criterion" = xplain])
])

dnl OpenCL: headers only; the loader is opened at run time.
AC_DEFUN([AKV_CHECK_OPENCL], [
  AC_ARG_WITH([opencl], [AS_HELP_STRING([--with-opencl],
    [build the OpenCL backend, needs the headers only (auto, yes, no; default: auto)])],
    [], [with_opencl=auto])
  have_opencl=no
  AS_CASE([$with_opencl],
    [no], [why_opencl="switched off by --without-opencl"],
    [auto | yes],
      [AS_IF([grep -q "akv_backend_opencl =" "$srcdir"/backends/opencl/*.c 2>/dev/null],
        [AC_CHECK_HEADER([CL/cl.h], [have_opencl=yes],
          [why_opencl="header CL/cl.h not found (Debian: opencl-headers)"],
          [[#define CL_TARGET_OPENCL_VERSION 120]])],
        [why_opencl="this source tree has no OpenCL backend"])],
    [AC_MSG_ERROR([--with-opencl: "$with_opencl" is not one of auto, yes, no])])
  AS_IF([test "x$have_opencl$with_opencl" = xnoyes], [AC_MSG_ERROR([--with-opencl: $why_opencl])])
  AM_CONDITIONAL([WITH_OPENCL], [test "x$have_opencl" = xyes])
  dnl An example links the loader library as a program of a user would.
  link_opencl=no
  AS_IF([test "x$have_opencl" = xyes],
    [AC_CHECK_LIB([OpenCL], [clGetPlatformIDs], [link_opencl=yes], [])])
  AM_CONDITIONAL([LINK_OPENCL], [test "x$link_opencl" = xyes])
])

dnl CUDA: nvcc makes the device images, without it clang makes PTX; the driver library is opened at run time.
AC_DEFUN([AKV_CHECK_CUDA], [
  AC_ARG_WITH([cuda], [AS_HELP_STRING([--with-cuda],
    [build the CUDA backend, needs nvcc or clang (auto, yes, clang, no; default: auto)])],
    [], [with_cuda=auto])
  AC_ARG_VAR([NVCC], [CUDA compiler])
  AC_ARG_VAR([CUDA_GENCODE], [nvcc flags that choose the architectures of the device images])
  AC_SUBST([CLANG_CUDA_FLAGS], ["-x cuda --cuda-gpu-arch=sm_75 --cuda-device-only -nocudalib -nocudainc \
-Xclang -target-feature -Xclang +ptx63 -std=c++17 -O3 -ffp-contract=off -Wno-unknown-cuda-version -Wno-pass-failed"])
  have_cuda=no
  cuda_by=nvcc
  AS_CASE([$with_cuda],
    [no], [why_cuda="switched off by --without-cuda"],
    [clang], [AKV_TRY_CLANG_CUDA],
    [auto | yes],
      [AS_IF([test -f "$srcdir/backends/cuda/images.c"],
        [AC_PATH_PROG([NVCC], [nvcc], [], [$PATH$PATH_SEPARATOR/usr/local/cuda/bin])
         AS_IF([test -n "$NVCC"], [AKV_TRY_NVCC], [AKV_TRY_CLANG_CUDA])],
        [why_cuda="this source tree has no CUDA backend"])],
    [AC_MSG_ERROR([--with-cuda: "$with_cuda" is not one of auto, yes, clang, no])])
  AS_CASE([$have_cuda$with_cuda], [noyes | noclang], [AC_MSG_ERROR([--with-cuda: $why_cuda])])
  AM_CONDITIONAL([WITH_CUDA], [test "x$have_cuda" = xyes])
  AM_CONDITIONAL([CUDA_BY_CLANG], [test "x$cuda_by" = xclang])
])
dnl PTX that every card since compute capability 7.5 takes; no toolkit is needed, only clang with its NVPTX target.
AC_DEFUN([AKV_TRY_CLANG_CUDA], [
  AC_ARG_VAR([CUDA_CLANG], [clang that makes PTX where there is no nvcc])
  AC_CHECK_PROGS([CUDA_CLANG], [clang clang-20 clang-19 clang-18 clang-17 clang-16 clang-15 clang-14])
  AS_IF([test -n "$CUDA_CLANG"],
    [AC_MSG_CHECKING([whether $CUDA_CLANG makes PTX])
     AS_IF([$CUDA_CLANG $CLANG_CUDA_FLAGS -I"$srcdir/kernels-cu/clang" -include cuda_fp16.h -S -o conftest.ptx \
            "$srcdir/kernels-cu/page.cu" >&AS_MESSAGE_LOG_FD 2>&1 && grep akv_k_copy conftest.ptx >/dev/null],
       [have_cuda=yes cuda_by=clang], [why_cuda="no nvcc (set NVCC), and $CUDA_CLANG makes no PTX"])
     AC_MSG_RESULT([$have_cuda])
     rm -f conftest.ptx],
    [why_cuda="neither nvcc nor clang found (set NVCC or CUDA_CLANG)"])
])
dnl Real code for the architectures that this nvcc knows, PTX of the lowest; all of it compressed.  Where the caller
dnl chooses them, a few, images stay as they are: the tests' driver looks there for the names of kernels.
AC_DEFUN([AKV_TRY_NVCC], [
  AC_SUBST([CUDA_COMPRESS])
  AC_MSG_CHECKING([which device images $NVCC makes])
  AS_IF([test -z "$CUDA_GENCODE"],
    [CUDA_COMPRESS=-Xfatbin=-compress-all
     akv_known=`$NVCC --list-gpu-arch 2>/dev/null`
     for akv_arch in 75 80 86 89 90 100 120; do
       AS_CASE([" "`echo $akv_known`" "], [*" compute_$akv_arch "*],
         [AS_IF([test -z "$CUDA_GENCODE"],
           [CUDA_GENCODE="-gencode arch=compute_$akv_arch,code=compute_$akv_arch"])
          CUDA_GENCODE="$CUDA_GENCODE -gencode arch=compute_$akv_arch,code=sm_$akv_arch"])
     done])
  AS_IF([test -n "$CUDA_GENCODE"], [have_cuda=yes],
    [why_cuda="$NVCC knows none of the architectures from compute_75 on (set CUDA_GENCODE)"])
  AC_MSG_RESULT([${CUDA_GENCODE:-none}])
])

AC_DEFUN([AKV_SUMMARY], [
  akv_line() { AS_ECHO(["  $[]1"]); }
  akv_isas=
  for akv_one in avx2 avx512; do
    AS_IF([eval test "x\$akv_cv_isa_$akv_one" = xyes], [akv_isas="$akv_isas, $akv_one"])
  done
  AS_ECHO([""])
  AS_ECHO(["anykv $PACKAGE_VERSION"])
  akv_line "compiler      $CC $CFLAGS"
  akv_line "install to    $prefix"
  akv_line "CPU           portable C$akv_isas (chosen at run time)"
  AS_IF([test "x$have_opencl" = xyes], [akv_line "OpenCL        yes (loaded at run time)"],
    [akv_line "OpenCL        no: $why_opencl"])
  AS_IF([test "x$have_cuda$cuda_by" = xyesclang],
    [akv_line "CUDA          yes (loaded at run time), PTX by $CUDA_CLANG: without the fast attention kernels"],
    [test "x$have_cuda" = xyes],
    [akv_line "CUDA          yes (loaded at run time), $NVCC"
     akv_line "              $CUDA_GENCODE"],
    [akv_line "CUDA          no: $why_cuda"])
  AS_CASE([$have_criterion], [yes], [akv_line "test suites   yes (Criterion)"],
    [plain], [akv_line "test suites   yes (plain runner)"],
    [akv_line "test suites   scripts only: $why_criterion"])
  AS_IF([test "x$have_cblas" = xyes], [akv_line "CBLAS         $CBLAS_LIBS (for examples/llama)"],
    [akv_line "CBLAS         no: examples/llama uses loops of its own"])
  akv_line "sanitizers    $enable_sanitizers"
  akv_line "assertions    ${enable_assert:-no}"
  akv_line "warnings      errors: ${enable_werror:-no}"
  AS_ECHO([""])
])
