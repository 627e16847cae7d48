/* SPDX-License-Identifier: Apache-2.0 */
/* Rows, formats and hashes of the known-answer test that a device passes when it is opened: encoded
 * (rotated, with scale search) and decoded bytes that portable code gives on every machine. */
#ifndef AKV_KNOWN_H
#define AKV_KNOWN_H
#include "backend.h"

enum { AKV_KNOWN_ROWS = 8, AKV_KNOWN_DIM = 96, AKV_KNOWN_TILE = AKV_KNOWN_ROWS * AKV_KNOWN_DIM * 4 };

static const struct {
    uint32_t format;
    uint64_t hash; /* akv_known_hash of the tile, zero behind its end, and of the decoded rows */
} akv_known[] = {
    {AKV_I8, UINT64_C(0xFEC6670E0BECE101)}, {AKV_N6, UINT64_C(0x94E224AD7D1F147B)},
    {AKV_N5, UINT64_C(0xFC1B18BF0147CD91)}, {AKV_N4, UINT64_C(0x1ABC3F8A82A4E8AF)},
    {AKV_N3, UINT64_C(0x4ECDFD3A29DF3E95)}, {AKV_N2, UINT64_C(0xF040D8A695ABCF3B)},
    {AKV_E4M3, UINT64_C(0xC60449EDF8F06057)}, {AKV_E4M3G, UINT64_C(0xD92E23F8CAF74205)},
    {AKV_Q8_0, UINT64_C(0xE6C85A38BDB1AD3A)}, {AKV_Q5_1, UINT64_C(0xF61DE04D21F20825)},
    {AKV_Q5_0, UINT64_C(0xC585060FC55F91CA)}, {AKV_Q4_1, UINT64_C(0xEA8C0C1CEF692B0E)},
    {AKV_Q4_0, UINT64_C(0xD14F4ECC0CE3AE1E)}, {AKV_IQ4_NL, UINT64_C(0x994693C376832430)},
};

/* Rows of every magnitude, ties and special values among them, from a fixed generator. */
static inline void akv_known_rows(float rows[AKV_KNOWN_ROWS * AKV_KNOWN_DIM])
{
    uint32_t state = 0x2545F491u;
    for (unsigned i = 0; i < AKV_KNOWN_ROWS * AKV_KNOWN_DIM; i++) {
        state = state * 1664525u + 1013904223u;
        uint32_t exponent = 120u + (state >> 28), bits = (state & 0x807FFFFFu) | exponent << 23;
        memcpy(&rows[i], &bits, sizeof bits);
    }
    static const float special[] = {0.0f, -0.0f, 1.0f, -1.0f, 0.5f, 1e-30f, 1e-45f, 65504.0f};
    memcpy(rows + AKV_KNOWN_DIM, special, sizeof special);
}

static inline akv_encode_params akv_known_params(uint32_t format)
{
    return (akv_encode_params){.rows = {AKV_KNOWN_DIM, AKV_KNOWN_DIM, AKV_F32, 1},
                               .tokens = AKV_KNOWN_ROWS,
                               .dim = AKV_KNOWN_DIM,
                               .format = format,
                               .flags = AKV_FLAG_ROTATE | AKV_FLAG_SEARCH};
}

static inline uint64_t akv_known_fnv(const void *data, size_t count)
{
    const uint8_t *bytes = data;
    uint64_t hash = 0xCBF29CE484222325u;
    for (size_t i = 0; i < count; i++)
        hash = (hash ^ bytes[i]) * 0x100000001B3u;
    return hash;
}
static inline uint64_t akv_known_hash(const uint8_t tile[AKV_KNOWN_TILE],
                                      const float back[AKV_KNOWN_ROWS * AKV_KNOWN_DIM])
{
    return akv_known_fnv(tile, AKV_KNOWN_TILE) ^
           akv_known_fnv(back, AKV_KNOWN_ROWS * AKV_KNOWN_DIM * sizeof(float));
}

/* The failure of a device whose hash is wrong. */
static inline anykv_status akv_known_fail(const struct akv_device *device, const char *backend,
                                          uint32_t format, uint64_t hash, uint64_t wanted)
{
    return akv_fail(device->context, ANYKV_E_DEVICE,
                    "%s: known-answer test of %s gives %016llx, not %016llx", backend,
                    anykv_format_name((anykv_format)format), (unsigned long long)hash,
                    (unsigned long long)wanted);
}

#endif
