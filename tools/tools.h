/* SPDX-License-Identifier: Apache-2.0 */
/* The subcommands of `anykv`: each gets its own argv (argv[0] is its name) and returns an exit
 * status. */
#ifndef AKV_TOOLS_H
#define AKV_TOOLS_H

int akv_tool_devices(int argc, char **argv);
int akv_tool_demo(int argc, char **argv);
int akv_tool_verify(int argc, char **argv);
int akv_tool_bench(int argc, char **argv);
int akv_tool_calibrate(int argc, char **argv);
int akv_tool_eval(int argc, char **argv);
int akv_tool_import_config(int argc, char **argv);
int akv_tool_replay(int argc, char **argv);

#endif
