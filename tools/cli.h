/* SPDX-License-Identifier: Apache-2.0 */
/* Option parser of the subcommands: long options, numbers with limits, lists, help with an example.
 */
#ifndef AKV_TOOLS_CLI_H
#define AKV_TOOLS_CLI_H
#include "internal.h"
#include <stdio.h>

/* Exit statuses of the command. */
#define AKV_EXIT_GOOD    0 /* done and good */
#define AKV_EXIT_FAILED  1 /* the check failed */
#define AKV_EXIT_USAGE   2 /* wrong use */
#define AKV_EXIT_MISSING 3 /* a required device or file is missing */

#define AKV_CLI_GO   (-1) /* akv_cli_parse: carry on */
#define AKV_LIST_MAX 64
#define AKV_ITEM_MAX 256 /* characters of a text item, terminator included */

struct akv_u64_list {
    uint32_t count;
    uint64_t item[AKV_LIST_MAX];
};
struct akv_text_list {
    uint32_t count;
    char item[AKV_LIST_MAX][AKV_ITEM_MAX];
};

enum akv_cli_kind {
    AKV_CLI_FLAG,     /* value: bool *; takes no argument */
    AKV_CLI_TEXT,     /* value: const char ** */
    AKV_CLI_U64,      /* value: uint64_t *; min … max; 10^7 may be written 1e7, K M G are 1024s */
    AKV_CLI_U64_LIST, /* value: struct akv_u64_list *; comma list; the first use replaces the
                       * default, further uses add */
    AKV_CLI_TEXT_LIST, /* value: struct akv_text_list *; the same */
};
struct akv_cli_option {
    const char *name; /* without the dashes */
    enum akv_cli_kind kind;
    void *value;
    uint64_t min, max;    /* of numbers; max 0 with min 0: no limit */
    const char *argument; /* shown in the help: "LIST"; NULL for flags */
    const char *help;     /* may hold new lines; names the default; NULL: not shown */
};
struct akv_cli {
    const char *command;                  /* "bench" */
    const char *usage;                    /* "[OPTION]... FILE" */
    const char *about;                    /* one or more sentences, with new lines */
    const char *example;                  /* whole command lines, one a line */
    const struct akv_cli_option *options; /* the last has name NULL */
    uint32_t least, most;                 /* number of positional arguments, at most AKV_LIST_MAX */
};

/* Parses argv[1 …] (argv[0] is the subcommand's name).  "--name value", "--name=value", "--" ends
 * the options, --help prints the help on standard output.  positional receives pointers into argv.
 * Returns AKV_CLI_GO or an exit status; what was wrong has then been printed on standard error. */
int akv_cli_parse(const struct akv_cli *cli, int argc, char **argv, const char **positional,
                  uint32_t *count_out);

/* A whole number as options take it; false and nothing written unless all of text is one. */
bool akv_cli_u64(const char *text, uint64_t *value_out);

/* "anykv COMMAND: message" on standard error; the second kind returns AKV_EXIT_USAGE. */
void akv_cli_message(const char *command, const char *format, ...) AKV_PRINTF(2, 3);
int akv_cli_wrong(const char *command, const char *format, ...) AKV_PRINTF(2, 3);
/* Prints what failed with the status's name and anykv_error_detail(); returns the exit status that
 * belongs to it (device or file missing: 3, wrong argument: 2, else 1). */
int akv_cli_status(const char *command, const char *what, anykv_status status);

#endif
