/* SPDX-License-Identifier: Apache-2.0 */
/* Option parser of the subcommands: long options, numbers with limits, lists, help with an example.
 */
#include "cli.h"
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

void akv_cli_message(const char *command, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fflush(stdout);
    fprintf(stderr, "anykv %s: ", command);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
}

int akv_cli_wrong(const char *command, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "anykv %s: ", command);
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\nTry `anykv %s --help`.\n", command);
    va_end(arguments);
    return AKV_EXIT_USAGE;
}

int akv_cli_status(const char *command, const char *what, anykv_status status)
{
    const char *detail = anykv_error_detail();
    akv_cli_message(command, "%s: %s (%s)", what, detail[0] ? detail : anykv_status_text(status),
                    anykv_status_name(status));
    switch (status) {
    case ANYKV_OK:
        return AKV_EXIT_GOOD;
    case ANYKV_E_NOT_FOUND:
    case ANYKV_E_DEVICE:
    case ANYKV_E_IO:
        return AKV_EXIT_MISSING;
    case ANYKV_E_ARG:
    case ANYKV_E_SHAPE:
    case ANYKV_E_UNSUPPORTED:
        return AKV_EXIT_USAGE;
    default:
        return AKV_EXIT_FAILED;
    }
}

/* Powers of ten ("1e7") and binary suffixes ("64M") spare counting zeros. */
bool akv_cli_u64(const char *text, uint64_t *value_out)
{
    const char *at = text;
    uint64_t value = 0, factor = 1;
    if (*at < '0' || *at > '9')
        return false;
    for (; *at >= '0' && *at <= '9'; at++) {
        uint64_t digit = (uint64_t)(*at - '0');
        if (value > (UINT64_MAX - digit) / 10)
            return false;
        value = value * 10 + digit;
    }
    if ((*at == 'e' || *at == 'E') && at[1] >= '0' && at[1] <= '9') {
        unsigned exponent = 0;
        for (at++; *at >= '0' && *at <= '9'; at++)
            if ((exponent = exponent * 10 + (unsigned)(*at - '0')) > 19)
                return false;
        while (exponent-- > 0)
            factor *= 10;
    } else if (*at == 'K' || *at == 'M' || *at == 'G') {
        factor = *at == 'K' ? 1u << 10 : *at == 'M' ? 1u << 20 : 1u << 30;
        at++;
    }
    if (*at != '\0' || (value != 0 && factor > UINT64_MAX / value))
        return false;
    *value_out = value * factor;
    return true;
}

static bool limited(const struct akv_cli_option *option)
{
    return option->min != 0 || option->max != 0;
}

static int set_number(const struct akv_cli *cli, const struct akv_cli_option *option,
                      const char *text, uint64_t *value)
{
    uint64_t number;
    if (!akv_cli_u64(text, &number))
        return akv_cli_wrong(cli->command, "--%s: \"%s\" is not a whole number", option->name,
                             text);
    if (limited(option) && (number < option->min || (option->max != 0 && number > option->max))) {
        if (option->max == 0 || option->max == UINT64_MAX)
            return akv_cli_wrong(cli->command, "--%s: %s is below %" PRIu64, option->name, text,
                                 option->min);
        return akv_cli_wrong(cli->command, "--%s: %s is not within %" PRIu64 " … %" PRIu64,
                             option->name, text, option->min, option->max);
    }
    *value = number;
    return AKV_CLI_GO;
}

/* Cuts text at commas; `used`: an earlier use has already replaced the default. */
static int set_list(const struct akv_cli *cli, const struct akv_cli_option *option,
                    const char *text, bool used)
{
    struct akv_u64_list *numbers = option->value;
    struct akv_text_list *texts = option->value;
    uint32_t *count = option->kind == AKV_CLI_U64_LIST ? &numbers->count : &texts->count;
    if (!used)
        *count = 0;
    for (const char *at = text;; at++) {
        size_t length = strcspn(at, ",");
        char item[AKV_ITEM_MAX];
        if (length == 0)
            return akv_cli_wrong(cli->command, "--%s: an empty item in \"%s\"", option->name, text);
        if (length >= sizeof item)
            return akv_cli_wrong(cli->command, "--%s: an item has more than %d characters",
                                 option->name, AKV_ITEM_MAX - 1);
        if (*count == AKV_LIST_MAX)
            return akv_cli_wrong(cli->command, "--%s: more than %d items", option->name,
                                 AKV_LIST_MAX);
        memcpy(item, at, length);
        item[length] = '\0';
        if (option->kind == AKV_CLI_U64_LIST) {
            int go = set_number(cli, option, item, &numbers->item[*count]);
            if (go != AKV_CLI_GO)
                return go;
        } else {
            memcpy(texts->item[*count], item, length + 1);
        }
        (*count)++;
        at += length;
        if (*at == '\0')
            return AKV_CLI_GO;
    }
}

static void print_indented(const char *text, int column)
{
    for (; *text != '\0'; text++) {
        putchar(*text);
        if (*text == '\n')
            printf("%*s", column, "");
    }
    putchar('\n');
}

static void print_option(const char *name, const char *argument, const char *help)
{
    int width = printf("  --%s%s%s", name, argument ? " " : "", argument ? argument : "");
    const int column = 26;
    if (width > column - 2) {
        putchar('\n');
        width = 0;
    }
    printf("%*s", column - width, "");
    print_indented(help, column);
}

static int print_help(const struct akv_cli *cli)
{
    printf("Usage: anykv %s %s\n\n%s\n\nOptions:\n", cli->command, cli->usage, cli->about);
    for (const struct akv_cli_option *option = cli->options; option->name != NULL; option++)
        if (option->help != NULL)
            print_option(option->name, option->argument, option->help);
    print_option("help", NULL, "show this text");
    printf("\nExample:\n  ");
    print_indented(cli->example, 2);
    return fflush(stdout) == 0 ? AKV_EXIT_GOOD : AKV_EXIT_FAILED;
}

/* The option that a word "--name" or "--name=value" means; value_out: behind the "=", or NULL. */
static const struct akv_cli_option *find_option(const struct akv_cli *cli, const char *word,
                                                const char **value_out)
{
    size_t length = strcspn(word, "=");
    *value_out = word[length] == '=' ? word + length + 1 : NULL;
    for (const struct akv_cli_option *option = cli->options; option->name != NULL; option++)
        if (strlen(option->name) == length && memcmp(option->name, word, length) == 0)
            return option;
    return NULL;
}

static int set_option(const struct akv_cli *cli, const struct akv_cli_option *option,
                      const char *value, bool used)
{
    switch (option->kind) {
    case AKV_CLI_FLAG:
        *(bool *)option->value = true;
        return AKV_CLI_GO;
    case AKV_CLI_TEXT:
        if (value[0] == '\0')
            return akv_cli_wrong(cli->command, "--%s: the value is empty", option->name);
        *(const char **)option->value = value;
        return AKV_CLI_GO;
    case AKV_CLI_U64:
        return set_number(cli, option, value, option->value);
    case AKV_CLI_U64_LIST:
    case AKV_CLI_TEXT_LIST:
        return set_list(cli, option, value, used);
    }
    return AKV_CLI_GO;
}

int akv_cli_parse(const struct akv_cli *cli, int argc, char **argv, const char **positional,
                  uint32_t *count_out)
{
    uint32_t count = 0;
    uint64_t used = 0; /* bit i: option i was given */
    bool options = true;
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i], *value;
        if (options && strcmp(word, "-o") == 0 && find_option(cli, "output", &value) != NULL)
            word = "--output"; /* the one short option, where there is an output to name */
        if (!options || strncmp(word, "--", 2) != 0) {
            if (options && word[0] == '-' && word[1] != '\0')
                return akv_cli_wrong(cli->command, "unknown option %s (options begin with --)",
                                     word);
            if (count == cli->most)
                return akv_cli_wrong(cli->command, "unexpected argument \"%s\"", word);
            positional[count++] = word;
            continue;
        }
        if (word[2] == '\0') {
            options = false;
            continue;
        }
        if (strcmp(word, "--help") == 0)
            return print_help(cli);
        const struct akv_cli_option *option = find_option(cli, word + 2, &value);
        if (option == NULL)
            return akv_cli_wrong(cli->command, "unknown option %s", word);
        if (option->kind == AKV_CLI_FLAG && value != NULL)
            return akv_cli_wrong(cli->command, "--%s takes no value", option->name);
        if (option->kind != AKV_CLI_FLAG && value == NULL) {
            if (i + 1 == argc)
                return akv_cli_wrong(cli->command, "--%s needs a value", option->name);
            value = argv[++i];
        }
        uint64_t bit = UINT64_C(1) << (unsigned)(option - cli->options);
        int go = set_option(cli, option, value, (used & bit) != 0);
        if (go != AKV_CLI_GO)
            return go;
        used |= bit;
    }
    if (count < cli->least)
        return akv_cli_wrong(cli->command, "%s",
                             count == 0 ? "a file name is missing" : "an argument is missing");
    if (count_out != NULL)
        *count_out = count;
    return AKV_CLI_GO;
}
