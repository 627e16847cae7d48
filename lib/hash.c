/* SPDX-License-Identifier: Apache-2.0 */
/* SHA-256 by nettle, which chooses the processor's SHA instructions by itself. */
#include "internal.h"
#include <nettle/nettle-meta.h>
#include <nettle/sha2.h>

_Static_assert(sizeof(struct sha256_ctx) <= sizeof(akv_sha256), "nettle's state fits");
_Static_assert(_Alignof(struct sha256_ctx) <= _Alignof(akv_sha256), "nettle's state is aligned");

static struct sha256_ctx *context_of(akv_sha256 *state)
{
    return (struct sha256_ctx *)(void *)state;
}

void akv_sha256_init(akv_sha256 *state)
{
    sha256_init(context_of(state));
}

void akv_sha256_update(akv_sha256 *state, const void *data, size_t bytes)
{
    if (bytes)
        sha256_update(context_of(state), bytes, data);
}

void akv_sha256_u32(akv_sha256 *state, uint32_t value)
{
    uint8_t byte[4];
    for (unsigned i = 0; i < 4; i++)
        byte[i] = (uint8_t)(value >> (8 * i));
    sha256_update(context_of(state), sizeof byte, byte);
}

void akv_sha256_u64(akv_sha256 *state, uint64_t value)
{
    akv_sha256_u32(state, (uint32_t)value);
    akv_sha256_u32(state, (uint32_t)(value >> 32));
}

akv_digest akv_sha256_final(akv_sha256 *state)
{
    akv_digest digest;
    sha256_digest(context_of(state), sizeof digest.byte, digest.byte);
    return digest;
}
