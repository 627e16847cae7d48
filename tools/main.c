/* SPDX-License-Identifier: Apache-2.0 */
/* The `anykv` command: finds the subcommand. */
#include "cli.h"
#include "tools.h"

struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *about;
};
static const struct command commands[];

static int usage(FILE *out)
{
    fputs("Usage: anykv COMMAND [OPTION]... [FILE]\n\n"
          "The key/value cache of transformer inference: quantised, paged, shared, under a byte "
          "budget.\n\nCommands:\n",
          out);
    for (const struct command *command = commands; command->name != NULL; command++)
        fprintf(out, "  %-14s%s\n", command->name, command->about);
    fputs("\n  --help    show this text; `anykv COMMAND --help` shows a command's options\n"
          "  --version show the version\n\n"
          "Exit status: 0 done and good, 1 the check failed, 2 wrong use, 3 a required device or "
          "file "
          "is missing.\n\n"
          "Example:\n  anykv demo\n",
          out);
    return fflush(out) == 0 ? AKV_EXIT_GOOD : AKV_EXIT_FAILED;
}

static int version(void)
{
    static const char *const features[] = {"avx2", "avx512", "neon", "opencl", "cuda"};
    printf("anykv %s\nbuilt with:", anykv_version());
    for (size_t i = 0; i < sizeof features / sizeof features[0]; i++)
        if (anykv_feature(features[i]) == 1)
            printf(" %s", features[i]);
    putchar('\n');
    return fflush(stdout) == 0 ? AKV_EXIT_GOOD : AKV_EXIT_FAILED;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        usage(stderr);
        return AKV_EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0)
        return usage(stdout);
    if (strcmp(argv[1], "--version") == 0)
        return version();
    for (const struct command *command = commands; command->name != NULL; command++)
        if (strcmp(argv[1], command->name) == 0)
            return command->run(argc - 1, argv + 1);
    fprintf(stderr, "anykv: unknown command \"%s\"\nTry `anykv --help`.\n", argv[1]);
    return AKV_EXIT_USAGE;
}

static const struct command commands[] = {
    {"devices", akv_tool_devices, "list the devices, usable or not"},
    {"demo", akv_tool_demo, "show the engine at work on real keys and values"},
    {"bench", akv_tool_bench, "measure the codec, attention and the cache"},
    {"verify", akv_tool_verify, "compare every kernel's bytes with the scalar reference"},
    {"eval", akv_tool_eval, "measure formats on the keys and values of a real model"},
    {"calibrate", akv_tool_calibrate, "make the calibration of a model from its keys and queries"},
    {"import-config", akv_tool_import_config,
     "say what becomes of a configuration of the original engine"},
    {"replay", akv_tool_replay, "replay a request trace through the prefix index and the policy"},
    {NULL, NULL, NULL},
};
