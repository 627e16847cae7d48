/* SPDX-License-Identifier: Apache-2.0 */
/* How a warp reads a tile of 16 positions in shared memory as operands of the matrix units, format by
 * format.  Lane = 4*r + c.  A key tile is the A operand of S = K q (rows: positions, 32 dimensions of a
 * group in two steps); a value tile that of O = V^T p (rows: dimensions, columns: positions).
 *
 * Positions of packed tiles: matrix row r is position 4*(r/2) + r%2, row r + 8 the one two further, so that
 * lane c's four positions in V are one quad.  Values enter as integers or c/128, scales outside. */
#ifndef AKV_READERS_CUH
#define AKV_READERS_CUH
#include "common.cuh"
#include "mma.cuh"
#include "../lib/kernel/format.h"

/* 256 entries byte -> two halves, one copy a lane: entry e of lane i stands at e * 256 + i * 4 behind an
 * address that is a multiple of 64 KiB, so that one byte permutation makes the address {lane * 4, byte,
 * high half} and lanes never share a bank.  Each 256 bytes hold two tables: N4's codebook over 128 and the
 * magnitudes of N5's; or, where codes have two bits in plane 0, N3's (two codes, then their two bits of
 * plane 1, 64 entries) and N2's (16 entries). */
#define TABLE_BYTES 65536u
#define TABLE_UPPER 128u /* bytes from a lane's entry of the first to that of the second */

AKV_FN unsigned table_half(unsigned magnitude, bool negative)
{
    return __half_as_ushort(__hmul(__ushort2half_rn((unsigned short)(magnitude & 0xFFu)), __float2half(1.0f / 128))) |
           (negative ? 0x8000u : 0u);
}
template <bool TWO> AKV_FN void fill_table(unsigned char *table)
{
    for (unsigned e = threadIdx.x; e < (TWO ? 128u : 512u); e += blockDim.x) {
        unsigned byte = e >> 1, upper = e & 1u, pair[2];
#pragma unroll
        for (int j = 0; j < 2; j++) {
            if (TWO) {
                unsigned low = (byte >> (2 * j)) & 3u, high = (byte >> (4 + j)) & 1u;
                if (upper) /* -127 -38 38 127 */
                    pair[j] = table_half(low == 0u || low == 3u ? 127u : 38u, low < 2u);
                else /* 14 45 79 127, mirrored */
                    pair[j] = table_half(akv_prmt(0x7F4F2D0Eu, 0u, high ? low : 3u - low), !high);
            } else {
                unsigned index = (byte >> (4 * j)) & 15u, level = (index ^ (index & 8u ? 0u : 7u)) & 7u;
                unsigned magnitude = akv_prmt(0x2C1F1206u, 0x7F604B3Au, level); /* 6 18 31 44 58 75 96 127 */
                if (upper) /* 3 8 13 18 24 29 35 41, 47 54 61 70 79 90 105 127 */
                    magnitude = index & 8u ? akv_prmt(0x463D362Fu, 0x7F695A4Fu, index & 7u)
                                           : akv_prmt(0x120D0803u, 0x29231D18u, index & 7u);
                pair[j] = table_half(magnitude, !upper && !(index & 8u));
            }
        }
        unsigned x = pair[0] | (pair[1] << 16);
#pragma unroll
        for (unsigned i = 0u; i < 8u; i++) /* eight lanes at eight places, so that they do not share banks */
            *(uint4 *)(table + e * TABLE_UPPER + ((i ^ e) & 7u) * 16u) = make_uint4(x, x, x, x);
    }
}
/* Byte J of a word through the table. */
template <int J> AKV_FN unsigned through_table(unsigned w, unsigned lane_table)
{
    return akv_lds_table(akv_prmt(w, lane_table, 0x7604 | (J << 4)));
}
/* Four signed bytes as two pairs of halves, exactly. */
AKV_FN void bytes_to_halves(unsigned w, unsigned *lo, unsigned *hi)
{
    unsigned u = w ^ 0x80808080u;
    *lo = akv_hsub2(akv_prmt(u, 0x64646464u, 0x4140), 0x64806480u); /* 1024 + u - 1152 */
    *hi = akv_hsub2(akv_prmt(u, 0x64646464u, 0x4342), 0x64806480u);
}
/* Two scale bytes (UE5M3) as halves: bytes J and J + 1 of w. */
template <int J> AKV_FN unsigned scale_pair(unsigned w)
{
    return akv_prmt(w, 0u, 0x4040 | J | ((J + 1) << 8)) << 7;
}

/* Eight codes of a codebook format as four pairs of halves, c/128 each.  lo: the codes of plane 0 from bit 0
 * on, hi: the 8 bits of plane 1.  In N5 plane 1 is the sign: the lower half of the codebook mirrors the
 * upper, so that its codes are complemented and the halves negated. */
template <int F> AKV_FN void decode8(unsigned lo, unsigned hi, unsigned lane_table, unsigned *h)
{
    if constexpr (F == AKV_N4) {
        h[0] = through_table<0>(lo, lane_table), h[1] = through_table<1>(lo, lane_table);
        h[2] = through_table<2>(lo, lane_table), h[3] = through_table<3>(lo, lane_table);
    } else if constexpr (F == AKV_N5) {
        unsigned x = ~hi & 0xFFu; /* one bit a code, spread to one a nibble */
        x = (x | (x << 12)) & 0x000F000Fu;
        x = (x | (x << 6)) & 0x03030303u;
        x = (x | (x << 3)) & 0x11111111u;
        unsigned w = lo ^ (x * 15u), t = lane_table + TABLE_UPPER;
        h[0] = through_table<0>(w, t) ^ (((x & 0x11u) * 0x08008000u) & 0x80008000u);
        h[1] = through_table<1>(w, t) ^ ((((x >> 8) & 0x11u) * 0x08008000u) & 0x80008000u);
        h[2] = through_table<2>(w, t) ^ ((((x >> 16) & 0x11u) * 0x08008000u) & 0x80008000u);
        h[3] = through_table<3>(w, t) ^ (((x >> 24) * 0x08008000u) & 0x80008000u);
    } else { /* two codes a byte */
        unsigned w = akv_prmt(lo, 0u, 0x4140), t = lane_table + (F == AKV_N2 ? TABLE_UPPER : 0u);
        w = (w | (w << 4)) & 0x0F0F0F0Fu;
        if constexpr (F == AKV_N3) { /* and their two bits of plane 1 */
            unsigned x = hi & 0xFFu;
            x = (x | (x << 12)) & 0x000F000Fu;
            x = (x | (x << 6)) & 0x03030303u;
            w |= x << 4;
        }
        h[0] = through_table<0>(w, t), h[1] = through_table<1>(w, t);
        h[2] = through_table<2>(w, t), h[3] = through_table<3>(w, t);
    }
}
/* G consecutive words of shared memory. */
template <int G> AKV_FN void load_words(unsigned at, unsigned *x)
{
    if constexpr (G == 2) {
        uint2 u = akv_lds2(at);
        x[0] = u.x, x[1] = u.y;
    } else {
#pragma unroll
        for (int i = 0; i < G / 4; i++) {
            uint4 u = akv_lds4(at + 16 * i);
            x[4 * i] = u.x, x[4 * i + 1] = u.y, x[4 * i + 2] = u.z, x[4 * i + 3] = u.w;
        }
    }
}
/* G scale bytes of a row. */
template <int G> AKV_FN void load_scales(unsigned at, unsigned *x)
{
    if constexpr (G == 2)
        x[0] = akv_lds_u16(at);
    else if constexpr (G == 4)
        x[0] = akv_lds1(at);
    else
        load_words<2>(at, x);
}
/* Geometry of a codebook format's tile of 16 rows of G groups: bits of plane 0, whether there is plane 1. */
template <int F, int G> struct CodebookTile {
    static constexpr int format = F, bits = F == AKV_N5 || F == AKV_N4 ? 4 : 2;
    static constexpr bool high = F == AKV_N5 || F == AKV_N3, table = true, two = bits == 2;
    static constexpr int plane1 = 64 * G * bits, scales = plane1 + (high ? 64 * G : 0), bytes = scales + 16 * G;
};

/* ---- keys: q_dim is the dimension of the query's half h (0 … 7) in the operands of group g for lane c;
 * scores adds the products of rows r, r + 8 and columns 2c, 2c + 1 to s ---- */

template <int F, int G> struct KeyCodebook : CodebookTile<F, G> {
    typedef CodebookTile<F, G> tile_type;
    static AKV_MEMBER unsigned q_dim(unsigned g, unsigned c, unsigned h) { return 32u * g + 8u * c + h; }
    static AKV_MEMBER void scores(unsigned tile, const unsigned (*q)[4], float *s, unsigned r, unsigned c,
                                  unsigned lane_table)
    {
        constexpr int bits = tile_type::bits;
        unsigned t = 4u * (r >> 1) + (r & 1u), x[G], y[G], xh[G], yh[G], sx[(G + 3) / 4], sy[(G + 3) / 4];
        unsigned at = tile + t * (4 * bits * G) + (bits == 4 ? c : c >> 1) * (4 * G);
        load_words<G>(at, x);
        load_words<G>(at + 2 * (4 * bits * G), y);
        if constexpr (tile_type::high) {
            load_words<G>(tile + tile_type::plane1 + t * (4 * G), xh);
            load_words<G>(tile + tile_type::plane1 + (t + 2u) * (4 * G), yh);
        }
        load_scales<G>(tile + tile_type::scales + t * G, sx);
        load_scales<G>(tile + tile_type::scales + (t + 2u) * G, sy);
#pragma unroll
        for (int g = 0; g < G; g++) {
            float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
            unsigned u[4], v[4], part = bits == 4 ? 0u : 16u * (c & 1u);
            decode8<F>(x[g] >> part, tile_type::high ? xh[g] >> (8u * c) : 0u, lane_table, u);
            decode8<F>(y[g] >> part, tile_type::high ? yh[g] >> (8u * c) : 0u, lane_table, v);
            akv_mma(d, u[0], v[0], u[1], v[1], q[g][0], q[g][1]);
            akv_mma(d, u[2], v[2], u[3], v[3], q[g][2], q[g][3]);
            float2 fx = akv_half2_floats(g & 2 ? scale_pair<2>(sx[g / 4]) : scale_pair<0>(sx[g / 4]));
            float2 fy = akv_half2_floats(g & 2 ? scale_pair<2>(sy[g / 4]) : scale_pair<0>(sy[g / 4]));
            float a = g & 1 ? fx.y : fx.x, b = g & 1 ? fy.y : fy.x;
            s[0] += d[0] * a, s[1] += d[1] * a, s[2] += d[2] * b, s[3] += d[3] * b;
        }
    }
};
template <int G> struct KeyI8 {
    static constexpr int chunks = (G + 3) / 4; /* of 128 elements, one scale each */
    static constexpr int format = AKV_I8, bytes = 16 * G * 32 + 32 * chunks;
    static constexpr bool table = false, two = false;
    static AKV_MEMBER unsigned q_dim(unsigned g, unsigned c, unsigned h)
    {
        if (G == 2) /* a unit of 16 bytes a lane */
            return 16u * c + 8u * g + h;
        return 128u * (g / 4u) + 64u * ((g & 3u) / 2u) + 16u * c + 8u * (g & 1u) + h;
    }
    static AKV_MEMBER void scores(unsigned tile, const unsigned (*q)[4], float *s, unsigned r, unsigned c, unsigned)
    {
        unsigned t = 4u * (r >> 1) + (r & 1u);
#pragma unroll
        for (int k = 0; k < chunks; k++) {
            float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
            for (int i = 0; i < (G == 2 ? 1 : 2); i++) {
                unsigned at = tile + t * (32 * G) + 128 * k + 64 * i + c * 16u;
                uint4 u = akv_lds4(at), v = akv_lds4(at + 2 * 32 * G);
                unsigned x[4] = {u.x, u.y, u.z, u.w}, y[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    unsigned x0, x1, y0, y1;
                    bytes_to_halves(x[j], &x0, &x1);
                    bytes_to_halves(y[j], &y0, &y1);
                    akv_mma(d, x0, y0, x1, y1, q[4 * k + 2 * i + j / 2][2 * (j & 1)],
                            q[4 * k + 2 * i + j / 2][2 * (j & 1) + 1]);
                }
            }
            float a = __half2float(__ushort_as_half((unsigned short)akv_lds_u16(tile + 512 * G + (t * chunks + k) * 2)));
            float b = __half2float(
                __ushort_as_half((unsigned short)akv_lds_u16(tile + 512 * G + ((t + 2u) * chunks + k) * 2)));
            s[0] += d[0] * a, s[1] += d[1] * a, s[2] += d[2] * b, s[3] += d[3] * b;
        }
    }
};

/* ---- values: add adds O of the 2*G row tiles of 16 dimensions; o_dim is the dimension of row r (high: r + 8)
 * of row tile n; together: those of row tiles n and n + 1, n even, are four that follow each other ---- */

template <int F, int G> struct ValueCodebook : CodebookTile<F, G> {
    typedef CodebookTile<F, G> tile_type;
    static constexpr bool together = true;
    static AKV_MEMBER unsigned o_dim(unsigned n, unsigned r, unsigned high)
    {
        return 32u * (n >> 1) + 4u * r + 2u * (n & 1u) + high;
    }
    static AKV_MEMBER void add(unsigned tile, unsigned p0, unsigned p1, float (*o)[4], unsigned r, unsigned c,
                               unsigned lane_table)
    {
#pragma unroll
        for (int g = 0; g < G; g++) {
            unsigned unit = (4 * g + (r >> 1)) * 4u + c, low[2], high = 0u;
            if constexpr (tile_type::bits == 4) {
                uint2 x = akv_lds2(tile + unit * 16u + (r & 1u) * 8u);
                low[0] = x.x, low[1] = x.y;
            } else {
                low[0] = akv_lds1(tile + unit * 8u + (r & 1u) * 4u);
                low[1] = low[0] >> 16;
            }
            if constexpr (tile_type::high)
                high = akv_lds_u16(tile + tile_type::plane1 + unit * 4u + (r & 1u) * 2u);
            unsigned scale = akv_lds1(tile + tile_type::scales + (c * G + g) * 4u);
            unsigned q0 = akv_hmul2(p0, scale_pair<0>(scale)), q1 = akv_hmul2(p1, scale_pair<2>(scale));
#pragma unroll
            for (int n = 0; n < 2; n++) {
                unsigned h[4];
                decode8<F>(low[n], high >> (8 * n), lane_table, h);
                akv_mma(o[2 * g + n], h[0], h[2], h[1], h[3], q0, q1);
            }
        }
    }
};
template <int G> struct ValueI8 {
    static constexpr int chunks = (G + 3) / 4;
    static constexpr bool together = true;
    static constexpr int format = AKV_I8, bytes = 16 * G * 32 + 32 * chunks;
    static constexpr bool table = false, two = false;
    static AKV_MEMBER unsigned o_dim(unsigned n, unsigned r, unsigned high)
    {
        return 64u * (n >> 2) + 8u * r + ((2u * (n & 3u) + 4u * (r & 1u)) & 7u) + high;
    }
    static AKV_MEMBER void add(unsigned tile, unsigned p0, unsigned p1, float (*o)[4], unsigned r, unsigned c, unsigned)
    {
#pragma unroll
        for (int k = 0; k < chunks; k++) {
            uint2 scale = akv_lds2(tile + 512 * G + (c * chunks + k) * 8u);
            unsigned q0 = akv_hmul2(p0, scale.x), q1 = akv_hmul2(p1, scale.y);
#pragma unroll
            for (int j = 0; j < (G == 2 ? 1 : 2); j++) { /* 64 dimensions: unit r of eight */
                unsigned at = tile + ((16 * k + 8 * j + r) * 4u + c) * 32u;
                uint4 u = akv_lds4(at + 16u * (r & 1u)), v = akv_lds4(at + 16u * (1u - (r & 1u)));
                unsigned x[8] = {u.x, u.y, u.z, u.w, v.x, v.y, v.z, v.w};
#pragma unroll
                for (int n = 0; n < 4; n++) {
                    unsigned a0, a1, a2, a3;
                    bytes_to_halves(x[2 * n], &a0, &a2);
                    bytes_to_halves(x[2 * n + 1], &a1, &a3);
                    akv_mma(o[8 * k + 4 * j + n], a0, a1, a2, a3, q0, q1);
                }
            }
        }
    }
};

/* Names without a comma, for macros. */
template <int G> using KeyN5 = KeyCodebook<AKV_N5, G>;
template <int G> using KeyN4 = KeyCodebook<AKV_N4, G>;
template <int G> using KeyN3 = KeyCodebook<AKV_N3, G>;
template <int G> using KeyN2 = KeyCodebook<AKV_N2, G>;
template <int G> using ValueN5 = ValueCodebook<AKV_N5, G>;
template <int G> using ValueN4 = ValueCodebook<AKV_N4, G>;
template <int G> using ValueN3 = ValueCodebook<AKV_N3, G>;
template <int G> using ValueN2 = ValueCodebook<AKV_N2, G>;

/* ---- raw f16 rows, 16-byte pieces of a row exchanged by its number (piece ^ row % 8); matrix rows are
 * positions in order ---- */
template <int G> struct RawF16 {
    static constexpr int bytes = 16 * G * 64; /* of K or of V */
    static constexpr bool together = false;
    static AKV_MEMBER unsigned q_dim(unsigned g, unsigned c, unsigned h)
    {
        return 32u * g + 16u * (h >> 2) + 2u * c + 8u * ((h >> 1) & 1u) + (h & 1u);
    }
    static AKV_MEMBER unsigned o_dim(unsigned n, unsigned r, unsigned high) { return 16u * n + r + 8u * high; }
    static AKV_MEMBER unsigned piece(unsigned row, unsigned i) { return row * (64 * G) + ((i ^ (row & 7u)) * 16u); }
    static AKV_MEMBER void scores(unsigned tile, const unsigned (*q)[4], float *s, unsigned lane)
    {
        unsigned row = lane & 15u, half = lane >> 4;
#pragma unroll
        for (int k = 0; k < 2 * G; k++) {
            unsigned a[4];
            akv_ldmatrix4(a, tile + piece(row, 2 * k + half));
            akv_mma(s, a[0], a[1], a[2], a[3], q[k / 2][2 * (k & 1)], q[k / 2][2 * (k & 1) + 1]);
        }
    }
    static AKV_MEMBER void add(unsigned tile, unsigned p0, unsigned p1, float (*o)[4], unsigned lane)
    {
        /* matrices: (positions 0-7, dims 0-7), (0-7, 8-15), (8-15, 0-7), (8-15, 8-15), each transposed */
        unsigned row = (lane & 7u) + 8u * (lane >> 4), half = (lane >> 3) & 1u;
#pragma unroll
        for (int n = 0; n < 2 * G; n++) {
            unsigned a[4];
            akv_ldmatrix4_trans(a, tile + piece(row, 2 * n + half));
            akv_mma(o[n], a[0], a[1], a[2], a[3], p0, p1);
        }
    }
};

#endif
