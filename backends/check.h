/* SPDX-License-Identifier: Apache-2.0 */
/* What the files that check launches share: spans of arguments, single fields, room. */
#ifndef AKV_CHECK_H
#define AKV_CHECK_H
#include "backend.h"

struct akv_arg_spec {
    const char *name;
    bool written;
    bool optional;
    uint32_t align; /* of the offset; rows are checked against their dtype instead */
};

extern const struct akv_arg_spec akv_arg_specs[AKV_KERNEL_COUNT][AKV_MAX_ARGS]; /* check.c */

/* What the checks of one launch or of bare parameters share; launch is NULL for the latter. */
struct check {
    struct akv_device *device;
    const struct akv_launch *launch;
    const char *kernel;
    bool empty;
};

#define REFUSE(check, code, ...) akv_fail((check)->device->context, code, __VA_ARGS__)
#define RETURN_IF(expression)                                                                      \
    do {                                                                                           \
        anykv_status status_ = (expression);                                                       \
        if (AKV_UNLIKELY(status_ != ANYKV_OK))                                                     \
            return status_;                                                                        \
    } while (0)

/* ---- single fields ---- */

static inline anykv_status check_dim(const struct check *check, const char *field, akv_u32 dim)
{
    if (dim == 0 || dim > AKV_MAX_HEAD_DIM || dim % 16)
        return REFUSE(check, ANYKV_E_ARG, "%s.%s: %u is not a multiple of 16 up to %u",
                      check->kernel, field, dim, AKV_MAX_HEAD_DIM);
    return ANYKV_OK;
}

static inline anykv_status check_format(const struct check *check, const char *field, akv_u32 format)
{
    if (format < AKV_F32 || format >= AKV_FORMATS)
        return REFUSE(check, ANYKV_E_ARG, "%s.%s: %u is not a format", check->kernel, field,
                      format);
    return ANYKV_OK;
}

static inline anykv_status check_raw(const struct check *check, const char *field, akv_u32 type)
{
    if (type < AKV_F32 || type > AKV_BF16)
        return REFUSE(check, ANYKV_E_ARG, "%s.%s: %u is none of F32, F16, BF16", check->kernel,
                      field, type);
    return ANYKV_OK;
}

static inline anykv_status check_flags(const struct check *check, const char *field, akv_u32 flags,
                                akv_u32 known)
{
    if (flags & ~known)
        return REFUSE(check, ANYKV_E_ARG, "%s.%s: 0x%x has unknown bits", check->kernel, field,
                      flags);
    return ANYKV_OK;
}

static inline anykv_status check_block_tokens(const struct check *check, akv_u32 tokens)
{
    if (tokens < 16 || tokens > 256 || (tokens & (tokens - 1)))
        return REFUSE(check, ANYKV_E_ARG, "%s.block_tokens: %u is none of 16, 32, 64, 128, 256",
                      check->kernel, tokens);
    return ANYKV_OK;
}

static inline anykv_status check_heads(const struct check *check, const char *field, akv_u32 heads)
{
    if (heads == 0 || heads > AKV_MAX_HEADS)
        return REFUSE(check, ANYKV_E_ARG, "%s.%s: %u is not between 1 and %u", check->kernel, field,
                      heads, AKV_MAX_HEADS);
    return ANYKV_OK;
}

/* At least `bytes` in argument `arg`. */
static inline anykv_status check_room(const struct check *check, unsigned arg, uint64_t bytes)
{
    if (!check->launch)
        return ANYKV_OK;
    const struct akv_span *span = &check->launch->arg[arg];
    if (bytes && !span->mem)
        return REFUSE(check, ANYKV_E_ARG, "%s.%s: no memory", check->kernel,
                      akv_arg_specs[check->launch->kernel][arg].name);
    if (span->bytes < bytes)
        return REFUSE(check, ANYKV_E_SHAPE, "%s.%s: %llu bytes, %llu are needed", check->kernel,
                      akv_arg_specs[check->launch->kernel][arg].name, (unsigned long long)span->bytes,
                      (unsigned long long)bytes);
    return ANYKV_OK;
}

/* ---- check_compress.c ---- */
anykv_status akv_check_bx16(struct check *check, enum akv_kernel_id kernel, const akv_bx16_params *p);
anykv_status akv_check_rans(struct check *check, enum akv_kernel_id kernel, const akv_rans_params *p);
anykv_status akv_check_lowrank(struct check *check, enum akv_kernel_id kernel, const akv_lowrank_params *p);
anykv_status akv_check_multiply(struct check *check, const akv_multiply_params *p);

#endif
