/* SPDX-License-Identifier: Apache-2.0 */
/* Compress family on CUDA: BX16.  EXACT.
 *
 * A warp takes a piece of 1024 elements: four times a lane eight neighbours of it.  Encoding takes three
 * launches: pieces with the number of escapes before each in its group, the sum of the groups', escapes. */
#include "sums.cuh"
#include "../lib/kernel/bx16.h"

/* backends/cuda/kernel.c has the same numbers. */
#define COUNT_PIECES 24u /* that a thread block counts before it adds up: fewer than 256 a lane */
#define COUNTERS     4u  /* warps of count */
#define GROUP        32u /* pieces that a thread block encodes */
#define ENCODERS     16u /* warps of it */
#define SEARCHERS    8u  /* warps of escapes, a group each */

#define LANES      128u
#define RUN        4u
#define AHEAD      4u
#define SHELL      extern "C" __global__ void __launch_bounds__(128)
#define WIDE_SHELL extern "C" __global__ void __launch_bounds__(1024)
#define OCTETS     (AKV_BX16_PIECE / 8u)
#define ALL        0xFFFFFFFFu

typedef struct octet {
    akv_u32 word[4]; /* two elements each, zeros behind the end */
} octet;

AKV_FN akv_u32 octet_count(akv_u32 m, akv_u32 g)
{
    return g * 8u < m ? AKV_MIN(8u, m - g * 8u) : 0u;
}

/* Octet g of m elements; WHOLE: it is there, and x aligned to 16 bytes. */
template <bool WHOLE> AKV_FN octet octet_of(const akv_u16 *x, akv_u32 m, akv_u32 g)
{
    octet o;
    akv_u32 i, count;
    if (WHOLE) {
        uint4 all = *(const uint4 *)(x + g * 8u);
        o.word[0] = all.x;
        o.word[1] = all.y;
        o.word[2] = all.z;
        o.word[3] = all.w;
        return o;
    }
    count = octet_count(m, g);
#pragma unroll
    for (i = 0u; i < 4u; i++) {
        o.word[i] = 2u * i < count ? x[g * 8u + 2u * i] : 0u;
        o.word[i] |= 2u * i + 1u < count ? (akv_u32)x[g * 8u + 2u * i + 1u] << 16 : 0u;
    }
    return o;
}

/* Which index each exponent has. */
AKV_FN void fill_index(akv_u8 *index, const akv_bx16_params *p)
{
    akv_u32 i = threadIdx.x, word = p->table[0];
    if (i < 64u)
        ((akv_u32 *)index)[i] = AKV_BX16_ESCAPE * 0x01010101u;
    word = i / 4u == 1u ? p->table[1] : word; /* the parameters have no address of their own */
    word = i / 4u == 2u ? p->table[2] : word;
    word = i / 4u == 3u ? p->table[3] : word;
    __syncthreads();
    if (i < 16u)
        index[word >> 8u * (i & 3u) & 0xFFu] = (akv_u8)i;
    __syncthreads();
}

/* Elements of a chunk, a byte for each exponent and lane: byte e/64 of word 32*(e%64) + lane, so that lanes meet
 * in no bank.  mine: of this lane. */
template <bool WHOLE> AKV_FN void count_octet(akv_u8 *mine, const octet &o, akv_u32 count)
{
    akv_u32 i;
#pragma unroll
    for (i = 0u; i < 8u; i++) {
        akv_u32 bits = o.word[i / 2u] >> 16u * (i & 1u);
        if (WHOLE || i < count)
            mine[(bits & 0x1F80u) | (bits >> 13 & 3u)]++;
    }
}
/* AHEAD octets are on their way while as many are counted. */
template <bool WHOLE> AKV_FN void count_chunk(akv_u8 *mine, const akv_u16 *x, akv_u32 m)
{
    octet next[AHEAD];
    akv_u32 g = threadIdx.x, j;
#pragma unroll
    for (j = 0u; j < AHEAD; j++)
        next[j] = octet_of<WHOLE>(x, m, g + j * LANES);
    for (; g < COUNT_PIECES * OCTETS; g += LANES * AHEAD) {
        octet o[AHEAD];
#pragma unroll
        for (j = 0u; j < AHEAD; j++)
            o[j] = next[j];
        if (g + LANES * AHEAD < COUNT_PIECES * OCTETS)
#pragma unroll
            for (j = 0u; j < AHEAD; j++)
                next[j] = octet_of<WHOLE>(x, m, g + (AHEAD + j) * LANES);
#pragma unroll
        for (j = 0u; j < AHEAD; j++)
            count_octet<WHOLE>(mine, o[j], WHOLE ? 8u : octet_count(m, g + j * LANES));
    }
}

extern "C" __global__ void __launch_bounds__(LANES, 6)
    akv_k_bx16_count(const __grid_constant__ akv_bx16_params p,
                     const __grid_constant__ akv_cu_args a)
{
    __shared__ __align__(16) akv_u32 own[COUNTERS * 64u * 32u];
    const akv_u32 thread = threadIdx.x, each = COUNT_PIECES * AKV_BX16_PIECE;
    const akv_u32 row = thread % 64u; /* its four exponents, of two warps, are added up here */
    const bool wide = ((akv_u64)a.arg[0] & 15u) == 0u;
    akv_u32 sum[4] = {0u, 0u, 0u, 0u}, first, i, w;
    akv_u8 *mine = (akv_u8 *)(own + thread / 32u * 64u * 32u + thread % 32u);
    for (first = blockIdx.x * each; first < p.elements; first += gridDim.x * each) {
        const akv_u16 *x = (const akv_u16 *)a.arg[0] + first;
        akv_u32 m = AKV_MIN(each, p.elements - first), low = 0u, high = 0u;
        for (i = thread; i < COUNTERS * 64u * 32u / 4u; i += LANES)
            ((uint4 *)own)[i] = make_uint4(0u, 0u, 0u, 0u);
        __syncthreads();
        if (m == each && wide)
            count_chunk<true>(mine, x, m);
        else
            count_chunk<false>(mine, x, m);
        __syncthreads();
        for (w = 0u; w < 2u; w++)
#pragma unroll 8
            for (i = 0u; i < 32u; i++) { /* two sums of 64 bytes in a word */
                akv_u32 word = own[((thread / 64u * 2u + w) * 64u + row) * 32u + (thread + i) % 32u];
                low += word & 0x00FF00FFu;
                high += word >> 8 & 0x00FF00FFu;
            }
        sum[0] += low & 0xFFFFu;
        sum[1] += high & 0xFFFFu;
        sum[2] += low >> 16;
        sum[3] += high >> 16;
        __syncthreads();
    }
#pragma unroll
    for (i = 0u; i < 4u; i++)
        if (sum[i])
            atomicAdd((akv_u32 *)a.arg[1] + i * 64u + row, sum[i]);
}

/* Indices of eight elements, of escapes 0, and how many those are. */
template <bool WHOLE>
AKV_FN akv_u32 nibbles_of(const akv_u8 *index, const octet &o, akv_u32 count, akv_u32 *escapes)
{
    akv_u32 nibbles = 0u, any = 0u, i;
#pragma unroll
    for (i = 0u; i < 8u; i++) {
        akv_u32 k = index[akv_bx16_exponent(o.word[i / 2u] >> 16u * (i & 1u))];
        k = WHOLE || i < count ? k : 0u;
        nibbles += k << 4u * i;
        any |= k;
    }
    if ((any & AKV_BX16_ESCAPE) == 0u)
        return nibbles;
    nibbles = 0u;
#pragma unroll
    for (i = 0u; i < 8u; i++) {
        akv_u32 k = index[akv_bx16_exponent(o.word[i / 2u] >> 16u * (i & 1u))];
        k = WHOLE || i < count ? k : 0u;
        nibbles |= (k & 15u) << 4u * i;
        *escapes += k / AKV_BX16_ESCAPE;
    }
    return nibbles;
}

/* The rests of four elements, a byte each. */
AKV_FN akv_u32 rests_of(akv_u32 a, akv_u32 b)
{
    const akv_u32 mask = 0x007F007Fu; /* bytes 1 and 3 do not matter */
    return __byte_perm((a & mask) | (a >> 8 & ~mask), (b & mask) | (b >> 8 & ~mask), 0x6420u);
}

/* A piece by a warp; its number of escapes and its check, to be summed over the lanes. */
template <bool WHOLE>
AKV_FN void put_piece(const akv_u8 *index, const octet o[4], akv_u32 m, akv_u32 *rests, akv_u32 *indices,
                      akv_u32 *escapes, akv_u32 *check)
{
    akv_u32 j, i, lane = threadIdx.x % 32u;
#pragma unroll
    for (j = 0u; j < 4u; j++) {
        akv_u32 g = j * 32u + lane, count = WHOLE ? 8u : octet_count(m, g);
        akv_u32 nibbles = nibbles_of<WHOLE>(index, o[j], count, escapes);
        /* Both are padded to 16 bytes: of rests 16 elements, of indices 32. */
        if (WHOLE || g * 8u < akv_pad16(m))
            *(uint2 *)(rests + g * 2u) = make_uint2(rests_of(o[j].word[0], o[j].word[1]),
                                                    rests_of(o[j].word[2], o[j].word[3]));
        if (WHOLE || g * 8u < ((m + 31u) & ~31u))
            indices[g] = nibbles;
#pragma unroll
        for (i = 0u; i < 4u; i++)
            *check += WHOLE || 2u * i < count ? akv_bx16_mix(o[j].word[i], g * 4u + i) : 0u;
    }
}

/* Rests, indices, and the record: number of escapes of the group's earlier pieces, in the first one that of
 * the group. */
extern "C" __global__ void __launch_bounds__(ENCODERS * 32u, 2)
    akv_k_bx16_pieces(const __grid_constant__ akv_bx16_params p,
                      const __grid_constant__ akv_cu_args a)
{
    __shared__ __align__(4) akv_u8 index[256];
    __shared__ akv_u32 counts[GROUP], checks[GROUP];
    const akv_u32 lane = threadIdx.x % 32u, pieces = akv_bx16_pieces(p.elements);
    const bool wide = ((akv_u64)a.arg[0] & 15u) == 0u;
    akv_u8 *body = a.arg[1];
    akv_u32 k, i, piece;
    fill_index(index, &p);
#pragma unroll 1
    for (k = threadIdx.x / 32u; k < GROUP; k += ENCODERS) {
        akv_u32 escapes = 0u, check = 0u, m;
        octet o[4];
        piece = blockIdx.x * GROUP + k;
        if (piece >= pieces)
            break;
        m = akv_bx16_length(p.elements, piece);
        const akv_u16 *x = (const akv_u16 *)a.arg[0] + (akv_u64)piece * AKV_BX16_PIECE;
        akv_u32 *rests = (akv_u32 *)(body + akv_bx16_piece_at(p.elements, piece));
        akv_u32 *indices = (akv_u32 *)(body + akv_bx16_indices_at(p.elements, piece));
        if (m == AKV_BX16_PIECE && wide) {
#pragma unroll
            for (i = 0u; i < 4u; i++)
                o[i] = octet_of<true>(x, m, i * 32u + lane);
            put_piece<true>(index, o, m, rests, indices, &escapes, &check);
        } else {
#pragma unroll
            for (i = 0u; i < 4u; i++)
                o[i] = octet_of<false>(x, m, i * 32u + lane);
            put_piece<false>(index, o, m, rests, indices, &escapes, &check);
        }
        escapes = warp_sum(escapes);
        check = warp_sum(check);
        if (lane == 0u) {
            counts[k] = escapes;
            checks[k] = check + piece;
        }
    }
    __syncthreads();
    piece = blockIdx.x * GROUP + lane;
    if (threadIdx.x >= GROUP) /* the first warp has a lane for each */
        return;
    k = piece < pieces ? counts[lane] : 0u;
    i = warp_scan(k, lane);
    const akv_u32 all = __shfl_sync(ALL, i, GROUP - 1u);
    k = lane ? i - k : all;
    if (piece < pieces)
        *(uint2 *)(body + (size_t)piece * 8u) = make_uint2(k, checks[lane]);
}

/* One thread block: the groups' numbers of escapes to sums of the earlier ones, a run of RUN groups a thread at
 * a time; and what pads records and escapes. */
WIDE_SHELL akv_k_bx16_records(const __grid_constant__ akv_bx16_params p,
                              const __grid_constant__ akv_cu_args a)
{
    __shared__ akv_u32 warps[32];
    akv_u32 lane = threadIdx.x, pieces = akv_bx16_pieces(p.elements), base, before = 0u, all, i;
    akv_u32 groups = (pieces + GROUP - 1u) / GROUP;
    akv_u8 *body = a.arg[1];
    akv_u32 *records = (akv_u32 *)body;
    for (base = 0u; base < groups; base += 1024u * RUN) {
        akv_u32 first = AKV_MIN(base + lane * RUN, groups), sum = 0u, own[RUN];
#pragma unroll
        for (i = 0u; i < RUN; i++) {
            own[i] = first + i < groups ? records[(first + i) * GROUP * 2u] : 0u;
            sum += own[i];
        }
        sum = before + block_scan(sum, warps, &all);
#pragma unroll
        for (i = 0u; i < RUN; i++) {
            if (first + i < groups)
                records[(first + i) * GROUP * 2u] = sum;
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

/* Escapes of a piece by a warp, to first … end-1.  They are among the elements of index 0, which are few: the
 * exponents' lowest.  A lane takes 32 neighbours. */
AKV_FN void put_escapes(const akv_u8 *index, const akv_u16 *x, const akv_u32 *indices, akv_u32 m,
                        akv_u32 *escapes, akv_u32 first, akv_u32 end)
{
    akv_u32 lane = threadIdx.x % 32u, from = lane * 32u, found = 0u, i;
    if (from < m) {
        uint4 all = *(const uint4 *)(indices + lane * 4u);
        akv_u32 word[4] = {all.x, all.y, all.z, all.w};
#pragma unroll
        for (i = 0u; i < 4u; i++) {
            akv_u32 zero = word[i] | word[i] >> 1;
            for (zero = ~(zero | zero >> 2) & 0x11111111u; zero; zero &= zero - 1u) {
                akv_u32 at = i * 8u + (akv_u32)(__ffs((int)zero) - 1) / 4u;
                if (from + at < m && index[akv_bx16_exponent(x[from + at])] == AKV_BX16_ESCAPE)
                    found |= 1u << at;
            }
        }
    }
    first += warp_scan((akv_u32)__popc(found), lane) - (akv_u32)__popc(found);
    for (; found && first < end; found &= found - 1u, first++) {
        i = from + (akv_u32)(__ffs((int)found) - 1);
        escapes[first] = i | akv_bx16_exponent(x[i]) << 16;
    }
}

/* A warp takes a group: its records as they stay, and the escapes of its pieces. */
extern "C" __global__ void __launch_bounds__(256)
    akv_k_bx16_escapes(const __grid_constant__ akv_bx16_params p,
                       const __grid_constant__ akv_cu_args a)
{
    __shared__ __align__(4) akv_u8 index[256];
    const akv_u32 lane = threadIdx.x % 32u, pieces = akv_bx16_pieces(p.elements);
    const akv_u32 piece = (blockIdx.x * SEARCHERS + threadIdx.x / 32u) * GROUP + lane;
    akv_u8 *body = a.arg[1];
    akv_u32 *records = (akv_u32 *)body, first = p.escapes, next = p.escapes, end, some;
    fill_index(index, &p);
    if (piece < pieces)
        first = records[(size_t)piece * 2u];
    if (piece - lane + GROUP < pieces) /* the next group's first record stays as it is */
        next = records[(size_t)(piece - lane + GROUP) * 2u];
    end = __shfl_sync(ALL, first, 0);
    if (lane != 0u && piece < pieces) {
        first += end;
        records[(size_t)piece * 2u] = first;
    }
    end = __shfl_sync(ALL, first, (lane + 1u) & 31u);
    end = lane == GROUP - 1u ? next : end;
    end = AKV_MIN(end, p.escapes); /* what the parameters promise is not trusted with memory */
    for (some = __ballot_sync(ALL, first < end); some; some &= some - 1u) {
        akv_u32 which = (akv_u32)(__ffs((int)some) - 1), at = piece - lane + which;
        put_escapes(index, (const akv_u16 *)a.arg[0] + (akv_u64)at * AKV_BX16_PIECE,
                    (const akv_u32 *)(body + akv_bx16_indices_at(p.elements, at)),
                    akv_bx16_length(p.elements, at),
                    (akv_u32 *)(body + akv_bx16_escapes_at(p.elements)),
                    __shfl_sync(ALL, first, which), __shfl_sync(ALL, end, which));
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
