/* SPDX-License-Identifier: Apache-2.0 */
/* Names of storage formats and profiles, and what an element costs in each. */
#include "internal.h"
#include "kernel/format.h"

static const struct {
    const char *name;
    anykv_format format;
} formats[] = {
    {"F32", ANYKV_F32}, {"F16", ANYKV_F16}, {"BF16", ANYKV_BF16},
    {"I8", ANYKV_I8},   {"N6", ANYKV_N6},   {"N5", ANYKV_N5},
    {"N4", ANYKV_N4},   {"N3", ANYKV_N3},   {"N2", ANYKV_N2},
    {"E4M3", ANYKV_E4M3}, {"Q8_0", ANYKV_Q8_0}, {"Q5_1", ANYKV_Q5_1}, {"Q5_0", ANYKV_Q5_0},
    {"Q4_1", ANYKV_Q4_1}, {"Q4_0", ANYKV_Q4_0}, {"IQ4_NL", ANYKV_IQ4_NL},
    {"E4M3G", ANYKV_E4M3G},
};

static const struct {
    const char *name;
    anykv_format k, v;
} profiles[] = {
    {"lossless", ANYKV_BF16, ANYKV_BF16},
    {"q8", ANYKV_I8, ANYKV_I8}, {"q6", ANYKV_I8, ANYKV_N4}, {"q5", ANYKV_N5, ANYKV_N4},
    {"q4", ANYKV_N4, ANYKV_N4}, {"q3", ANYKV_N3, ANYKV_N3}, {"q2", ANYKV_N3, ANYKV_N2},
};

#define FORMAT_COUNT  (sizeof formats / sizeof formats[0])
#define PROFILE_COUNT (sizeof profiles / sizeof profiles[0])

_Static_assert(AKV_F32 == (int)ANYKV_F32 && AKV_E4M3G == (int)ANYKV_E4M3G, "one numbering of formats");
_Static_assert(FORMAT_COUNT == AKV_FORMATS - 1, "every format has a name");

/* Whatever the locale: is text (of `length` characters) this name in any case? */
static bool same_name(const char *text, size_t length, const char *name)
{
    if (strlen(name) != length)
        return false;
    for (size_t i = 0; i < length; i++) {
        char a = text[i], b = name[i];
        if (a >= 'a' && a <= 'z')
            a = (char)(a - 'a' + 'A');
        if (b >= 'a' && b <= 'z')
            b = (char)(b - 'a' + 'A');
        if (a != b)
            return false;
    }
    return true;
}

static bool find_format(const char *text, size_t length, anykv_format *format_out)
{
    for (size_t i = 0; i < FORMAT_COUNT; i++)
        if (same_name(text, length, formats[i].name)) {
            *format_out = formats[i].format;
            return true;
        }
    return false;
}

const char *anykv_format_name(anykv_format format)
{
    for (size_t i = 0; i < FORMAT_COUNT; i++)
        if (formats[i].format == format)
            return formats[i].name;
    return "?";
}

anykv_status anykv_format_parse(const char *name, anykv_format *format_out)
{
    if (!name || !format_out)
        return akv_fail(NULL, ANYKV_E_ARG, "%s: NULL", name ? "format_out" : "name");
    if (!find_format(name, strlen(name), format_out))
        return akv_fail(NULL, ANYKV_E_ARG,
                        "format: \"%.32s\" is none of F32 F16 BF16 I8 N6 N5 N4 N3 N2 E4M3 "
                        "Q8_0 Q5_1 Q5_0 Q4_1 Q4_0 IQ4_NL E4M3G",
                        name);
    return ANYKV_OK;
}

anykv_status anykv_format_pair_parse(const char *name, anykv_format *k_out, anykv_format *v_out)
{
    if (!name || !k_out || !v_out)
        return akv_fail(NULL, ANYKV_E_ARG, "%s: NULL", !name ? "name" : !k_out ? "k_out" : "v_out");
    size_t length = strlen(name);
    for (size_t i = 0; i < PROFILE_COUNT; i++)
        if (same_name(name, length, profiles[i].name)) {
            *k_out = profiles[i].k;
            *v_out = profiles[i].v;
            return ANYKV_OK;
        }
    const char *slash = strchr(name, '/');
    size_t k_length = slash ? (size_t)(slash - name) : length;
    const char *v_name = slash ? slash + 1 : name;
    anykv_format k, v;
    if (!find_format(name, k_length, &k) || !find_format(v_name, strlen(v_name), &v))
        return akv_fail(
            NULL, ANYKV_E_ARG,
            "format pair: \"%.32s\" is neither a profile (lossless q8 q6 q5 q4 q3 q2) nor K/V of "
            "F32 F16 BF16 I8 N6 N5 N4 N3 N2 E4M3 Q8_0 Q5_1 Q5_0 Q4_1 Q4_0 IQ4_NL E4M3G",
            name);
    *k_out = k;
    *v_out = v;
    return ANYKV_OK;
}

anykv_status anykv_profile_set(const char *name, anykv_layer *layers, uint32_t count,
                               anykv_cache_options *options)
{
    anykv_format k, v;
    if (!layers && count)
        return akv_fail(NULL, ANYKV_E_ARG, "layers: NULL");
    if (options && options->size < offsetof(anykv_cache_options, clock))
        return akv_fail(NULL, ANYKV_E_ARG, "options.size: %zu (use the initialiser macro)", options->size);
    anykv_status status = anykv_format_pair_parse(name, &k, &v);
    if (status)
        return status;
    const bool lossless = same_name(name, strlen(name), "lossless");
    for (uint32_t l = 0; l < count; l++) {
        layers[l].k_format = k;
        layers[l].v_format = v;
        if (lossless)
            layers[l].hot_type = ANYKV_BF16;
    }
    if (lossless && options)
        options->flags |= ANYKV_CACHE_COMPRESS_CACHED;
    return ANYKV_OK;
}

double anykv_format_bits(anykv_format format, uint32_t head_dim)
{
    if (format < ANYKV_F32 || format > ANYKV_E4M3G || head_dim == 0 || head_dim > AKV_MAX_HEAD_DIM)
        return 0.0;
    akv_u32 number = (akv_u32)format;
    if (akv_format_raw(number))
        return 8.0 * akv_raw_bytes(number);
    if (akv_format_blocks(number))
        return 8.0 * akv_block_bytes(number) * (akv_padded_dim(head_dim) / 32u) / head_dim;
    akv_u32 codes =
        akv_padded_dim(head_dim) * (akv_format_plane0(number) + akv_format_plane1(number));
    akv_u32 scales = 8u * akv_scale_count(number, head_dim) * akv_scale_bytes(number);
    return (double)(codes + scales) / head_dim;
}
