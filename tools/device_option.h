/* SPDX-License-Identifier: Apache-2.0 */
/* --device: the context and the device that a subcommand works on. */
#ifndef AKV_TOOLS_DEVICE_OPTION_H
#define AKV_TOOLS_DEVICE_OPTION_H
#include "cli.h"

/* The option's line for a subcommand's list; name is a const char * that starts as "auto". */
#define AKV_DEVICE_OPTION(name)                                                                    \
    {                                                                                              \
        "device", AKV_CLI_TEXT, &(name), 0, 0, "NAME",                                             \
            "cpu, opencl, cuda, a device's name or its number in `anykv devices`\n(default: auto)" \
    }
#define AKV_JSON_OPTION(json)                                                                      \
    {                                                                                              \
        "json", AKV_CLI_FLAG, &(json), 0, 0, NULL, "print JSON lines instead of tables"            \
    }

struct akv_tool {
    const char *command;
    anykv_context *context;
    anykv_device *device;
    anykv_device_info info;
    char label[16]; /* what --device takes to get this very device: the `device` field of JSON */
};

/* Context alone (device stays NULL), or context and device; warnings of the library go to standard
 * error.  Returns AKV_CLI_GO or an exit status with the message printed; close in either case. */
int akv_tool_context(struct akv_tool *tool, const char *command);
int akv_tool_open(struct akv_tool *tool, const char *command, const char *device,
                  const anykv_device_options *options);
void akv_tool_close(struct akv_tool *tool);
/* What --device takes for a listed device. */
void akv_tool_label(anykv_context *context, const anykv_device_info *info, char *label,
                    size_t bytes);

#endif
