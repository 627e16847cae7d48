/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of GGUF tensors to F32: the number types and ggml's blocks. */
#include "gguf.h"
#include <string.h>

static float half(const uint8_t *at)
{
    uint32_t h = (uint32_t)at[0] | (uint32_t)at[1] << 8;
    uint32_t sign = (h & 0x8000u) << 16, exponent = h >> 10 & 31, fraction = h & 1023, bits;
    if (exponent == 31) {
        bits = sign | 0x7F800000u | fraction << 13;
    } else if (exponent) {
        bits = sign | (exponent + 112) << 23 | fraction << 13;
    } else {
        float tiny = (float)fraction * 0x1p-24f;
        return sign ? -tiny : tiny;
    }
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static float brain(const uint8_t *at)
{
    uint32_t bits = ((uint32_t)at[0] | (uint32_t)at[1] << 8) << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* 32 nibbles: the low halves are elements 0 … 15. */
static void nibbles(const uint8_t *at, float scale, float base, float *out)
{
    for (int i = 0; i < 16; i++) {
        out[i] = scale * (float)(at[i] & 15) + base;
        out[i + 16] = scale * (float)(at[i] >> 4) + base;
    }
}

/* Q6_K, 256 elements: 128 bytes of low nibbles, 64 of high pairs, 16 scales, one half. */
static void q6_k(const uint8_t *low, float *out)
{
    const uint8_t *high = low + 128;
    const int8_t *scales = (const int8_t *)(low + 192);
    float scale = half(low + 208);
    for (int part = 0; part < 2; part++, low += 64, high += 32, scales += 8, out += 128) {
        for (int i = 0; i < 32; i++) {
            int at = i / 16;
            int a = ((low[i] & 15) | (high[i] & 3) << 4) - 32;
            int b = ((low[i + 32] & 15) | (high[i] >> 2 & 3) << 4) - 32;
            int c = (low[i] >> 4 | (high[i] >> 4 & 3) << 4) - 32;
            int d = (low[i + 32] >> 4 | (high[i] >> 6 & 3) << 4) - 32;
            out[i] = scale * (float)(scales[at] * a);
            out[i + 32] = scale * (float)(scales[at + 2] * b);
            out[i + 64] = scale * (float)(scales[at + 4] * c);
            out[i + 96] = scale * (float)(scales[at + 6] * d);
        }
    }
}

void gguf_row(const struct gguf_tensor *tensor, uint64_t row, float *out)
{
    const uint8_t *at = tensor->at + row * tensor->row_bytes;
    switch (tensor->type) {
    case 0:
        memcpy(out, at, (size_t)tensor->row_bytes);
        break;
    case 1:
        for (uint64_t i = 0; i < tensor->columns; i++)
            out[i] = half(at + 2 * i);
        break;
    case 30:
        for (uint64_t i = 0; i < tensor->columns; i++)
            out[i] = brain(at + 2 * i);
        break;
    case 2: /* a half, nibbles with offset 8 */
        for (uint64_t i = 0; i < tensor->columns; i += 32, at += 18)
            nibbles(at + 2, half(at), -8.0f * half(at), out + i);
        break;
    case 3: /* a half, a half for the minimum, nibbles */
        for (uint64_t i = 0; i < tensor->columns; i += 32, at += 20)
            nibbles(at + 4, half(at), half(at + 2), out + i);
        break;
    case 8: /* a half, bytes */
        for (uint64_t i = 0; i < tensor->columns; i += 32, at += 34)
            for (int j = 0; j < 32; j++)
                out[i + (uint64_t)j] = half(at) * (float)(int8_t)at[2 + j];
        break;
    default: /* gguf_tensor() lets only Q6_K come here */
        for (uint64_t i = 0; i < tensor->columns; i += 256, at += 210)
            q6_k(at, out + i);
    }
}
