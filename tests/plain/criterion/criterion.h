/* SPDX-License-Identifier: Apache-2.0 */
/* The part of Criterion's interface that the suites use, on fork and pipes alone: Criterion's own runner
 * does not start under ThreadSanitizer.  Chosen by --with-criterion=plain. */
#ifndef AKV_TESTS_PLAIN_H
#define AKV_TESTS_PLAIN_H
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct plain_test {
    const char *suite, *name;
    void (*run)(void);
    void (*init)(void), (*fini)(void);
    double timeout; /* seconds; 0: 600 */
    bool disabled;
    const char *description;
    int signal, exit_code; /* expected ends, as in Criterion */
    struct plain_test *next;
};
void plain_add(struct plain_test *test);  /* of Test */
void plain_adds(struct plain_test *suite); /* of TestSuite: init, fini, timeout of its tests */
/* Reports a failed check; a fatal one ends the test. */
void plain_check(bool fatal, bool good, const char *file, int line, const char *what, const char *format,
                 ...);
_Noreturn void plain_skip(const char *format, ...);

#define PLAIN_REGISTER(add, id, ...)                                                               \
    static struct plain_test id##_record = {__VA_ARGS__};                                          \
    __attribute__((constructor)) static void id##_register(void)                                   \
    {                                                                                              \
        add(&id##_record);                                                                         \
    }
#define Test(suite_, name_, ...)                                                                   \
    static void suite_##_##name_##_run(void);                                                      \
    PLAIN_REGISTER(plain_add, suite_##_##name_, .suite = #suite_, .name = #name_,                  \
                   .run = suite_##_##name_##_run, ##__VA_ARGS__)                                   \
    static void suite_##_##name_##_run(void)
#define TestSuite(suite_, ...)                                                                     \
    PLAIN_REGISTER(plain_adds, suite_##_suite, .suite = #suite_, ##__VA_ARGS__)

#define PLAIN_CHECK(fatal, what, condition, ...)                                                   \
    plain_check(fatal, (condition), __FILE__, __LINE__, what, __VA_ARGS__)
#define PLAIN_ONE(fatal, a, ...)    PLAIN_CHECK(fatal, #a, !!(a), __VA_ARGS__)
#define PLAIN_NOT(fatal, a, ...)    PLAIN_CHECK(fatal, "not " #a, !(a), __VA_ARGS__)
#define PLAIN_TWO(fatal, op, a, b, ...) PLAIN_CHECK(fatal, #a " " #op " " #b, (a)op(b), __VA_ARGS__)
#define PLAIN_STR(fatal, op, a, b, ...)                                                            \
    PLAIN_CHECK(fatal, #a " " #op " " #b, strcmp((a), (b)) op 0, __VA_ARGS__)
#define PLAIN_ARR(fatal, a, b, n, ...)                                                             \
    PLAIN_CHECK(fatal, #a " equals " #b, memcmp((a), (b), (n)) == 0, __VA_ARGS__)
#define PLAIN_NEAR(fatal, a, b, e, ...)                                                            \
    PLAIN_CHECK(fatal, #a " near " #b, (a) - (b) <= (e) && (b) - (a) <= (e), __VA_ARGS__)

#define cr_assert(...)             PLAIN_ONE(true, __VA_ARGS__, "")
#define cr_expect(...)             PLAIN_ONE(false, __VA_ARGS__, "")
#define cr_assert_not(...)         PLAIN_NOT(true, __VA_ARGS__, "")
#define cr_expect_not(...)         PLAIN_NOT(false, __VA_ARGS__, "")
#define cr_assert_null(a, ...)     PLAIN_ONE(true, (a) == NULL, ##__VA_ARGS__, "")
#define cr_expect_null(a, ...)     PLAIN_ONE(false, (a) == NULL, ##__VA_ARGS__, "")
#define cr_assert_not_null(a, ...) PLAIN_ONE(true, (a) != NULL, ##__VA_ARGS__, "")
#define cr_expect_not_null(a, ...) PLAIN_ONE(false, (a) != NULL, ##__VA_ARGS__, "")
#define cr_assert_eq(...)          PLAIN_TWO(true, ==, __VA_ARGS__, "")
#define cr_expect_eq(...)          PLAIN_TWO(false, ==, __VA_ARGS__, "")
#define cr_assert_neq(...)         PLAIN_TWO(true, !=, __VA_ARGS__, "")
#define cr_expect_neq(...)         PLAIN_TWO(false, !=, __VA_ARGS__, "")
#define cr_assert_lt(...)          PLAIN_TWO(true, <, __VA_ARGS__, "")
#define cr_expect_lt(...)          PLAIN_TWO(false, <, __VA_ARGS__, "")
#define cr_assert_leq(...)         PLAIN_TWO(true, <=, __VA_ARGS__, "")
#define cr_expect_leq(...)         PLAIN_TWO(false, <=, __VA_ARGS__, "")
#define cr_assert_gt(...)          PLAIN_TWO(true, >, __VA_ARGS__, "")
#define cr_expect_gt(...)          PLAIN_TWO(false, >, __VA_ARGS__, "")
#define cr_assert_geq(...)         PLAIN_TWO(true, >=, __VA_ARGS__, "")
#define cr_expect_geq(...)         PLAIN_TWO(false, >=, __VA_ARGS__, "")
#define cr_assert_str_eq(...)      PLAIN_STR(true, ==, __VA_ARGS__, "")
#define cr_expect_str_eq(...)      PLAIN_STR(false, ==, __VA_ARGS__, "")
#define cr_assert_str_neq(...)     PLAIN_STR(true, !=, __VA_ARGS__, "")
#define cr_expect_str_neq(...)     PLAIN_STR(false, !=, __VA_ARGS__, "")
#define cr_assert_arr_eq(...)      PLAIN_ARR(true, __VA_ARGS__, "")
#define cr_expect_arr_eq(...)      PLAIN_ARR(false, __VA_ARGS__, "")
#define cr_assert_float_eq(...)    PLAIN_NEAR(true, __VA_ARGS__, "")
#define cr_expect_float_eq(...)    PLAIN_NEAR(false, __VA_ARGS__, "")
#define cr_assert_fail(...)        PLAIN_ONE(true, false, ##__VA_ARGS__, "")
#define cr_expect_fail(...)        PLAIN_ONE(false, false, ##__VA_ARGS__, "")
#define cr_fail(...)               PLAIN_ONE(false, false, ##__VA_ARGS__, "")
#define cr_skip_test(...)          plain_skip("" __VA_ARGS__)
#define cr_skip(...)               plain_skip("" __VA_ARGS__)
#define cr_log_info(...)           ((void)fprintf(stderr, __VA_ARGS__))
#define cr_log_warn(...)           ((void)fprintf(stderr, __VA_ARGS__))

#endif
