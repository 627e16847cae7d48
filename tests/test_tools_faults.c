/* SPDX-License-Identifier: Apache-2.0 */
/* Subcommands with every allocation failed once: an exit status, a message, nothing left behind. */
#include "tools/cli.h"
#include "tools/tools.h"
#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

static char trace[64], dump[512], errors[64];

static void setup(void)
{
    snprintf(trace, sizeof trace, "anykv-faults.%ld.jsonl", (long)getpid());
    snprintf(errors, sizeof errors, "anykv-faults.%ld.err", (long)getpid());
    snprintf(dump, sizeof dump, "%s/tests/data/smollm2-code-cut.safetensors",
             getenv("top_srcdir") ? getenv("top_srcdir") : ".");
    FILE *file = fopen(trace, "wb");
    cr_assert(file != NULL);
    for (int i = 0; i < 40; i++)
        fprintf(file, "{\"timestamp\":%d,\"input_length\":1000,\"hash_ids\":[0,%d]}\n", i, 1 + i % 7);
    cr_assert(fclose(file) == 0);
    cr_assert(freopen("/dev/null", "wb", stdout) != NULL);
    cr_assert(freopen(errors, "wb", stderr) != NULL);
}
static void cleanup(void)
{
    unlink(trace);
    unlink(errors);
}
TestSuite(faults, .init = setup, .fini = cleanup, .timeout = 600);

/* At every n-th allocation; far behind the first ones every `stride`-th, so that it ends in time. */
static void fail_each(int (*tool)(int, char **), int count, char **words, uint64_t stride)
{
    for (uint64_t n = 1;; n += n < 40 ? 1 : stride) {
        uint64_t live = akv_alloc_live();
        char *arguments[16];
        memcpy(arguments, words, (size_t)count * sizeof *words);
        rewind(stderr);
        akv_alloc_fail_at(n, false);
        int status = tool(count, arguments);
        bool reached = akv_alloc_count() >= n;
        akv_alloc_fail_at(0, false);
        cr_assert(akv_alloc_live() == live, "%s, allocation %" PRIu64 ": %" PRIu64 " are left", words[0],
                  n, akv_alloc_live() - live);
        if (!reached) {
            cr_assert(status == AKV_EXIT_GOOD, "%s: exit status %d", words[0], status);
            cr_assert(n > 1, "%s allocates nothing", words[0]);
            return;
        }
        cr_assert(status == AKV_EXIT_GOOD || ftell(stderr) > 0,
                  "%s, allocation %" PRIu64 ": exit status %d without a message", words[0], n, status);
    }
}

Test(faults, devices)
{
    char *words[] = {"devices", "--json"};
    fail_each(akv_tool_devices, 2, words, 1);
}
Test(faults, replay)
{
    char *words[] = {"replay", "--blocks", "3", "--optimum", trace};
    fail_each(akv_tool_replay, 5, words, 1);
}
Test(faults, eval)
{
    char *words[] = {"eval", "--formats", "N4", "--device", "cpu", "--json", dump};
    if (access(dump, R_OK) != 0)
        cr_skip_test("tests/data is not here; run by make check");
    fail_each(akv_tool_eval, 7, words, 29);
}
