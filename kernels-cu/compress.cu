/* SPDX-License-Identifier: Apache-2.0 */
/* Compress family on CUDA: BX16.  EXACT.
 *
 * A thread block takes a piece of 1024 elements, a thread eight neighbours of it; count takes
 * COUNT_PIECES pieces, records all. */
#include "sums.cuh"
#include "../lib/kernel/bx16.h"

#define LANES        128u
#define COUNT_PIECES 64u /* backends/cuda/kernel.c has the same number */
#define RUN          16u
#define SHELL        extern "C" __global__ void __launch_bounds__(128)
#define WIDE_SHELL   extern "C" __global__ void __launch_bounds__(1024)
#define OCTETS       (AKV_BX16_PIECE / 8u)

typedef struct octet {
    akv_u32 word[4]; /* two elements each, zeros behind the end */
    akv_u32 count;   /* elements */
} octet;

/* wide: x is aligned to 16 bytes. */
AKV_FN octet octet_of(const akv_u16 *x, akv_u32 m, akv_u32 g, bool wide)
{
    octet o;
    akv_u32 i;
    o.count = g * 8u < m ? AKV_MIN(8u, m - g * 8u) : 0u;
    if (wide && o.count == 8u) {
        uint4 all = *(const uint4 *)(x + g * 8u);
        o.word[0] = all.x;
        o.word[1] = all.y;
        o.word[2] = all.z;
        o.word[3] = all.w;
        return o;
    }
#pragma unroll
    for (i = 0u; i < 4u; i++) {
        o.word[i] = 2u * i < o.count ? x[g * 8u + 2u * i] : 0u;
        o.word[i] |= 2u * i + 1u < o.count ? (akv_u32)x[g * 8u + 2u * i + 1u] << 16 : 0u;
    }
    return o;
}

/* Which index each exponent has. */
AKV_FN void fill_index(akv_u8 *index, const akv_bx16_params *p)
{
    akv_u32 lane = threadIdx.x, i, own = 0u;
    if (lane < 64u)
        ((akv_u32 *)index)[lane] = AKV_BX16_ESCAPE * 0x01010101u;
#pragma unroll
    for (i = 0u; i < 16u; i++) /* the parameters have no address of their own */
        own = i == lane ? akv_bx16_entry(p, i) : own;
    __syncthreads();
    if (lane < 16u)
        index[own] = (akv_u8)lane;
    __syncthreads();
}

SHELL akv_k_bx16_count(const __grid_constant__ akv_bx16_params p,
                       const __grid_constant__ akv_cu_args a)
{
    __shared__ akv_u32
        own[LANES / 32u * 256u]; /* one for each warp: all count the same few exponents */
    akv_u32 lane = threadIdx.x, i;
    akv_u32 first = blockIdx.x * COUNT_PIECES * AKV_BX16_PIECE;
    akv_u32 end = AKV_MIN(p.elements, first + COUNT_PIECES * AKV_BX16_PIECE);
    const akv_u16 *x = (const akv_u16 *)a.arg[0];
    bool wide = ((akv_u64)a.arg[0] & 15u) == 0u;
    akv_u32 *mine = own + lane / 32u * 256u, at;
    for (i = lane; i < LANES / 32u * 256u; i += LANES)
        own[i] = 0u;
    __syncthreads();
    for (at = first + lane * 8u; at < end; at += LANES * 8u) {
        octet o = octet_of(x, end, at / 8u, wide);
#pragma unroll
        for (i = 0u; i < 8u; i++)
            if (i < o.count)
                atomicAdd(&mine[akv_bx16_exponent(o.word[i / 2u] >> 16u * (i & 1u))], 1u);
    }
    __syncthreads();
    for (i = lane; i < 256u; i += LANES) {
        akv_u32 sum = 0u;
        for (at = 0u; at < LANES / 32u; at++)
            sum += own[at * 256u + i];
        if (sum)
            atomicAdd((akv_u32 *)a.arg[1] + i, sum);
    }
}

/* Rests, indices, and the record with the number of escapes. */
SHELL akv_k_bx16_pieces(const __grid_constant__ akv_bx16_params p,
                        const __grid_constant__ akv_cu_args a)
{
    __shared__ __align__(4) akv_u8 index[256];
    __shared__ akv_u32 warps[2][LANES / 32u];
    akv_u32 lane = threadIdx.x, piece = blockIdx.x, g, i;
    akv_u32 m = akv_bx16_length(p.elements, piece), own = 0u, check = 0u;
    const akv_u16 *x = (const akv_u16 *)a.arg[0] + (akv_u64)piece * AKV_BX16_PIECE;
    fill_index(index, &p);
    akv_u8 *body = a.arg[1];
    akv_u32 *rests = (akv_u32 *)(body + akv_bx16_piece_at(p.elements, piece));
    akv_u32 *indices = (akv_u32 *)(body + akv_bx16_indices_at(p.elements, piece));
    /* Both are padded to 16 bytes: of rests 16 elements, of indices 32. */
    for (g = lane; g < OCTETS && g * 8u < ((m + 31u) & ~31u); g += LANES) {
        octet o = octet_of(x, m, g, ((akv_u64)a.arg[0] & 15u) == 0u);
        akv_u32 rest[2] = {0u, 0u}, nibbles = 0u;
#pragma unroll
        for (i = 0u; i < 8u; i++) { /* known numbers: arrays stay in registers */
            akv_u32 bits = o.word[i / 2u] >> 16u * (i & 1u), k = index[akv_bx16_exponent(bits)];
            k = i < o.count ? k : 0u;
            rest[i / 4u] |= akv_bx16_rest(bits) << 8u * (i & 3u); /* of what is not there: 0 */
            own += k / AKV_BX16_ESCAPE;
            nibbles |= (k & 15u) << 4u * i;
        }
#pragma unroll
        for (i = 0u; i < 4u; i++)
            check += 2u * i < o.count ? akv_bx16_mix(o.word[i], g * 4u + i) : 0u;
        if (g * 8u < akv_pad16(m))
            *(uint2 *)(rests + g * 2u) = make_uint2(rest[0], rest[1]);
        indices[g] = nibbles;
    }
    own = block_sum(own, warps[0], LANES);
    check = block_sum(check, warps[1], LANES);
    if (lane == 0u) {
        ((akv_u32 *)body)[piece * 2u] = own;
        ((akv_u32 *)body)[piece * 2u + 1u] = check + piece;
    }
}

/* One thread block: numbers of escapes to sums of the earlier ones, a run of RUN records a thread
 * at a time; and what pads records and escapes. */
WIDE_SHELL akv_k_bx16_records(const __grid_constant__ akv_bx16_params p,
                              const __grid_constant__ akv_cu_args a)
{
    __shared__ akv_u32 warps[32];
    akv_u32 lane = threadIdx.x, pieces = akv_bx16_pieces(p.elements), base, before = 0u, all, i;
    akv_u8 *body = a.arg[1];
    akv_u32 *records = (akv_u32 *)body;
    for (base = 0u; base < pieces; base += 1024u * RUN) {
        akv_u32 first = AKV_MIN(base + lane * RUN, pieces), sum = 0u, own[RUN];
#pragma unroll
        for (i = 0u; i < RUN; i++) {
            own[i] = first + i < pieces ? records[(first + i) * 2u] : 0u;
            sum += own[i];
        }
        sum = before + block_scan(sum, warps, &all);
#pragma unroll
        for (i = 0u; i < RUN; i++) {
            if (first + i < pieces)
                records[(first + i) * 2u] = sum;
            sum += own[i];
        }
        before += all;
        __syncthreads();
    }
    if (lane == 0u) {
        akv_u32 *escapes = (akv_u32 *)(body + akv_bx16_escapes_at(p.elements));
        for (i = pieces * 2u; i & 3u; i++)
            records[i] = 0u;
        for (i = p.escapes; i & 3u; i++)
            escapes[i] = 0u;
    }
}

SHELL akv_k_bx16_escapes(const __grid_constant__ akv_bx16_params p,
                         const __grid_constant__ akv_cu_args a)
{
    __shared__ __align__(4) akv_u8 index[256];
    __shared__ akv_u8 counts[OCTETS];
    akv_u32 lane = threadIdx.x, piece = blockIdx.x, g, i;
    akv_u32 m = akv_bx16_length(p.elements, piece);
    akv_u8 *body = a.arg[1];
    const akv_u32 *records = (const akv_u32 *)body;
    akv_u32 *escapes = (akv_u32 *)(body + akv_bx16_escapes_at(p.elements));
    akv_u32 first = records[piece * 2u];
    akv_u32 end = piece + 1u < akv_bx16_pieces(p.elements) ? records[piece * 2u + 2u] : p.escapes;
    const akv_u16 *x = (const akv_u16 *)a.arg[0] + (akv_u64)piece * AKV_BX16_PIECE;
    if (first >= end) /* the block as one: most pieces have none */
        return;
    fill_index(index, &p);
    for (g = lane; g < OCTETS; g += LANES) {
        akv_u32 own = 0u;
        for (i = g * 8u; i < AKV_MIN(g * 8u + 8u, m); i++)
            own += index[akv_bx16_exponent(x[i])] / AKV_BX16_ESCAPE;
        counts[g] = (akv_u8)own;
    }
    __syncthreads();
    for (g = lane; g < OCTETS; g += LANES) {
        akv_u32 at = first;
        if (counts[g] == 0u)
            continue;
        for (i = 0u; i < g; i++)
            at += counts[i];
        for (i = g * 8u; i < AKV_MIN(g * 8u + 8u, m); i++) {
            akv_u32 exponent = akv_bx16_exponent(x[i]);
            if (index[exponent] == AKV_BX16_ESCAPE && at < AKV_MIN(end, p.escapes))
                escapes[at++] = i | exponent << 16;
        }
    }
}

SHELL akv_k_bx16_decode(const __grid_constant__ akv_bx16_params p,
                        const __grid_constant__ akv_cu_args a)
{
    __shared__ akv_u32 warps[LANES / 32u], bad[1];
    __shared__ akv_u16 escaped[AKV_BX16_PIECE]; /* exponents of escapes; 256: none */
    __shared__ akv_u32 entry[4];
    akv_u32 lane = threadIdx.x, piece = blockIdx.x, g, i;
    akv_u32 m = akv_bx16_length(p.elements, piece), check = 0u, some;
    const akv_u8 *body = a.arg[0];
    const akv_u32 *records = (const akv_u32 *)body;
    const akv_u32 *escapes = (const akv_u32 *)(body + akv_bx16_escapes_at(p.elements));
    const akv_u32 *rests = (const akv_u32 *)(body + akv_bx16_piece_at(p.elements, piece));
    const akv_u32 *indices = (const akv_u32 *)(body + akv_bx16_indices_at(p.elements, piece));
    akv_u16 *x = (akv_u16 *)a.arg[1] + (akv_u64)piece * AKV_BX16_PIECE;
    akv_u32 first = records[piece * 2u];
    akv_u32 end = piece + 1u < akv_bx16_pieces(p.elements) ? records[piece * 2u + 2u] : p.escapes;
    akv_u32 fault = first > end || end > p.escapes || (piece == 0u && first != 0u);
    some = !fault && first < end;
    if (lane == 0u)
        bad[0] = fault;
#pragma unroll
    for (i = 0u; i < 4u; i++)
        if (lane == i)
            entry[i] = p.table[i];
    for (i = lane; some && i < AKV_BX16_PIECE; i += LANES)
        escaped[i] = 256u;
    __syncthreads();
    for (i = first + lane; some && i < end; i += LANES) {
        akv_u32 position = escapes[i] & 0xFFFFu, exponent = escapes[i] >> 16;
        if (position >= m || exponent > 255u ||
            (i > first && (escapes[i - 1u] & 0xFFFFu) >= position))
            atomicOr(&bad[0], 1u);
        else
            escaped[position] = (akv_u16)exponent;
    }
    __syncthreads();
    for (g = lane; g < OCTETS && g * 8u < m; g += LANES) {
        akv_u32 count = AKV_MIN(8u, m - g * 8u), nibbles = indices[g], word[4] = {0u, 0u, 0u, 0u};
        uint2 both = *(const uint2 *)(rests + g * 2u);
        akv_u32 rest[2];
        rest[0] = both.x;
        rest[1] = both.y;
#pragma unroll
        for (i = 0u; i < 8u; i++) { /* known numbers: arrays stay in registers */
            akv_u32 exponent = ((const akv_u8 *)entry)[nibbles >> 4u * i & 15u];
            if (some && escaped[g * 8u + i] < 256u)
                exponent = escaped[g * 8u + i];
            akv_u32 bits = akv_bx16_join(rest[i / 4u] >> 8u * (i & 3u) & 0xFFu, exponent);
            word[i / 2u] |= i < count ? bits << 16u * (i & 1u) : 0u;
        }
        if (count == 8u && ((akv_u64)a.arg[1] & 15u) == 0u)
            *(uint4 *)(x + g * 8u) = make_uint4(word[0], word[1], word[2], word[3]);
        else {
#pragma unroll
            for (i = 0u; i < 8u; i++)
                if (i < count)
                    x[g * 8u + i] = (akv_u16)(word[i / 2u] >> 16u * (i & 1u));
        }
#pragma unroll
        for (i = 0u; i < 4u; i++)
            check += 2u * i < count ? akv_bx16_mix(word[i], g * 4u + i) : 0u;
    }
    check = block_sum(check, warps, LANES);
    if (lane == 0u) {
        if (bad[0] || check + piece != records[piece * 2u + 1u])
            *(akv_u32 *)a.arg[2] = 1u;
    }
}
