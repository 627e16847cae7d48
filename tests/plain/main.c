/* SPDX-License-Identifier: Apache-2.0 */
/* Runner of the plain suites: each test in a process of its own, TAP on standard output.
 * --filter 'SUITE/TEST' takes a shell pattern, as Criterion does. */
#include "criterion/criterion.h"
#include <fnmatch.h>
#include <sys/wait.h>
#include <unistd.h>

#define SKIPPED 77

static struct plain_test *tests, *suites;
static bool failed; /* in the test's process */

void plain_add(struct plain_test *test)
{
    test->next = tests;
    tests = test;
}

void plain_adds(struct plain_test *suite)
{
    suite->next = suites;
    suites = suite;
}

void plain_check(bool fatal, bool good, const char *file, int line, const char *what, const char *format,
                 ...)
{
    va_list arguments;
    if (good)
        return;
    va_start(arguments, format);
    printf("# %s:%d: %s: ", file, line, what);
    vprintf(format, arguments);
    putchar('\n');
    va_end(arguments);
    failed = true;
    if (fatal)
        exit(1);
}

_Noreturn void plain_skip(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    printf("# skipped: ");
    vprintf(format, arguments);
    putchar('\n');
    va_end(arguments);
    exit(failed ? 1 : SKIPPED);
}

/* In the child: exit status 0, SKIPPED, or anything else for a failure (66: a sanitizer's report). */
static _Noreturn void run(const struct plain_test *test)
{
    struct plain_test suite = {.timeout = 0};
    for (struct plain_test *s = suites; s; s = s->next)
        if (strcmp(s->suite, test->suite) == 0)
            suite = *s;
    double seconds = test->timeout > 0 ? test->timeout : suite.timeout > 0 ? suite.timeout : 600;
    alarm((unsigned)seconds * 10u); /* sanitizers are slow */
    if (suite.init)
        suite.init();
    if (test->init)
        test->init();
    test->run();
    if (test->fini)
        test->fini();
    if (suite.fini)
        suite.fini();
    exit(failed);
}

int main(int argc, char **argv)
{
    unsigned number = 0, bad = 0;
    const char *filter = NULL;
    for (int i = 1; i + 1 < argc; i++)
        if (strcmp(argv[i], "--filter") == 0)
            filter = argv[i + 1];
    for (struct plain_test *test = tests; test; test = test->next) {
        char name[256];
        int status = -1;
        snprintf(name, sizeof name, "%s/%s", test->suite, test->name);
        if (filter && fnmatch(filter, name, 0) != 0)
            continue;
        snprintf(name, sizeof name, "%s::%s", test->suite, test->name);
        fflush(stdout);
        pid_t child = test->disabled ? 0 : fork();
        if (child == 0 && !test->disabled)
            run(test);
        bool skipped = test->disabled;
        if (child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status))
            skipped = WEXITSTATUS(status) == SKIPPED;
        bool ended = child > 0 && WIFSIGNALED(status) ? WTERMSIG(status) == test->signal
                                                      : status >= 0 && WIFEXITED(status) &&
                                                            WEXITSTATUS(status) == test->exit_code;
        bool good = skipped || (ended && (test->signal == 0 || WIFSIGNALED(status)));
        if (!good && child > 0 && WIFSIGNALED(status))
            printf("# ended by signal %d\n", WTERMSIG(status));
        printf("%sok %u - %s%s\n", good ? "" : "not ", ++number, name, skipped ? " # SKIP" : "");
        bad += !good;
    }
    printf("1..%u\n", number);
    return bad != 0;
}
