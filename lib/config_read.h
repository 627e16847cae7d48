/* SPDX-License-Identifier: Apache-2.0 */
/* Reader of flat configurations: a strict subset of YAML, or a JSON object.
 *
 * YAML: comments, empty lines, `name: scalar` lines of one indentation, optionally under one
 * `section:` line.  Scalars are plain, 'quoted' or "quoted" without escapes.  Lists, flow
 * collections, anchors, tags, several documents, tabs as indentation and a name that occurs twice
 * are refused with the line.  JSON: an object of strings, numbers and words, optionally inside one
 * other object. */
#ifndef AKV_CONFIG_READ_H
#define AKV_CONFIG_READ_H
#include "internal.h"

#define AKV_CONFIG_BYTES  65536u /* of a text */
#define AKV_CONFIG_FIELDS 64u

struct akv_config_text {
    uint32_t count;
    struct {
        char name[ANYKV_CONFIG_NAME];
        char value[ANYKV_CONFIG_VALUE];
    } field[AKV_CONFIG_FIELDS];
};

/* E_DATA names the line. */
anykv_status akv_config_read(anykv_context *context, const char *text, size_t bytes,
                             struct akv_config_text *out);

#endif
