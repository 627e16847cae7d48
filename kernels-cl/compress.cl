/* SPDX-License-Identifier: Apache-2.0 */
/* Shells of the compress family: BX16.
 *
 * Options: AKV_COUNT, AKV_PIECES, AKV_RECORDS, AKV_ESCAPES, AKV_MERGE choose the kernel.  A work-group of
 * LANES work-items takes a piece of 1024 elements, a lane eight neighbours of it at a time; count takes
 * COUNT_PIECES pieces, records all. */
#ifdef AKV_CPU_SHAPE
#define LANES 1u
#else
#define LANES WG
#endif
#define OCTETS (AKV_BX16_PIECE / 8u)

typedef struct octet {
    akv_u32 word[4]; /* two elements each, zeros behind the end */
    akv_u32 count;   /* elements */
} octet;

/* wide: x is aligned to 16 bytes. */
static inline void octet_of(octet *to, __global const ushort *x, akv_u32 m, akv_u32 g, bool wide)
{
    akv_u32 i;
    to->count = g * 8u < m ? AKV_MIN(8u, m - g * 8u) : 0u;
    if (wide && to->count == 8u) {
        uint4 all = *(__global const uint4 *)(x + g * 8u);
        to->word[0] = all.x;
        to->word[1] = all.y;
        to->word[2] = all.z;
        to->word[3] = all.w;
        return;
    }
    for (i = 0u; i < 4u; i++) {
        to->word[i] = 2u * i < to->count ? x[g * 8u + 2u * i] : 0u;
        to->word[i] |= 2u * i + 1u < to->count ? (akv_u32)x[g * 8u + 2u * i + 1u] << 16 : 0u;
    }
}

/* Which index each exponent has. */
static inline void fill_index(__local uchar *index, const akv_bx16_params *p)
{
    akv_u32 e;
    for (e = (akv_u32)get_local_id(0); e < 256u; e += LANES)
        index[e] = (uchar)akv_bx16_index(p, e);
    barrier(CLK_LOCAL_MEM_FENCE);
}

#ifdef AKV_COUNT
__kernel SHAPE void akv_k_bx16_count(__global const uchar *rows, ulong rows_at, __global uchar *counts,
                                     ulong counts_at, const akv_bx16_params p)
{
    __local akv_u32 own[256];
    akv_u32 lane = (akv_u32)get_local_id(0), i;
    akv_u32 first = (akv_u32)get_group_id(0) * AKV_CL_COUNT_PIECES * AKV_BX16_PIECE;
    akv_u32 end = AKV_MIN(p.elements, first + AKV_CL_COUNT_PIECES * AKV_BX16_PIECE);
    __global const ushort *x = (__global const ushort *)(rows + rows_at);
    for (i = lane; i < 256u; i += LANES)
        own[i] = 0u;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (i = first + lane; i < end; i += LANES)
        atomic_inc(&own[akv_bx16_exponent(x[i])]);
    barrier(CLK_LOCAL_MEM_FENCE);
    for (i = lane; i < 256u; i += LANES)
        if (own[i])
            atomic_add((__global akv_u32 *)(counts + counts_at) + i, own[i]);
}
#endif

#ifdef AKV_PIECES
/* Rests, indices, and the record with the number of escapes. */
__kernel SHAPE void akv_k_bx16_pieces(__global const uchar *rows, ulong rows_at, __global uchar *body,
                                      ulong body_at, const akv_bx16_params p)
{
    __local uchar index[256];
    __local akv_u32 sums[LANES];
    akv_u32 lane = (akv_u32)get_local_id(0), piece = (akv_u32)get_group_id(0), g, i;
    akv_u32 m = akv_bx16_length(p.elements, piece), own = 0u, check = 0u;
    __global const ushort *x = (__global const ushort *)(rows + rows_at) + (akv_u64)piece * AKV_BX16_PIECE;
    fill_index(index, &p);
    body += body_at;
    __global akv_u32 *rests = (__global akv_u32 *)(body + akv_bx16_piece_at(p.elements, piece));
    __global akv_u32 *indices = (__global akv_u32 *)(body + akv_bx16_indices_at(p.elements, piece));
    /* Both are padded to 16 bytes: of rests 16 elements, of indices 32. */
    for (g = lane; g < OCTETS && g * 8u < ((m + 31u) & ~31u); g += LANES) {
        octet o;
        octet_of(&o, x, m, g, (rows_at & 15u) == 0u);
        akv_u32 rest[2] = {0u, 0u}, nibbles = 0u;
        for (i = 0u; i < o.count; i++) {
            akv_u32 bits = o.word[i / 2u] >> 16u * (i & 1u), k = index[akv_bx16_exponent(bits)];
            rest[i / 4u] |= akv_bx16_rest(bits) << 8u * (i & 3u);
            own += k / AKV_BX16_ESCAPE;
            nibbles |= (k & 15u) << 4u * i;
        }
        for (i = 0u; i < (o.count + 1u) / 2u; i++)
            check += akv_bx16_mix(o.word[i], g * 4u + i);
        if (g * 8u < akv_pad16(m)) {
            rests[g * 2u] = rest[0];
            rests[g * 2u + 1u] = rest[1];
        }
        indices[g] = nibbles;
    }
    own = akv_group_sum(sums, own, LANES);
    check = akv_group_sum(sums, check, LANES);
    if (lane == 0u) {
        ((__global akv_u32 *)body)[piece * 2u] = own;
        ((__global akv_u32 *)body)[piece * 2u + 1u] = check + piece;
    }
}
#endif

#ifdef AKV_RECORDS
/* One work-group: numbers of escapes to sums of the earlier ones, a run of RUN records a lane at a time;
 * and what pads records and escapes. */
#define RUN 16u
__kernel SHAPE void akv_k_bx16_records(__global const uchar *rows, ulong rows_at, __global uchar *body,
                                       ulong body_at, const akv_bx16_params p)
{
    __local akv_u32 sums[LANES];
    akv_u32 lane = (akv_u32)get_local_id(0), pieces = akv_bx16_pieces(p.elements), base, before = 0u, i;
    body += body_at;
    __global akv_u32 *records = (__global akv_u32 *)body;
    for (base = 0u; base < pieces; base += LANES * RUN) {
        akv_u32 first = AKV_MIN(base + lane * RUN, pieces), end = AKV_MIN(first + RUN, pieces), sum = 0u, all;
        for (i = first; i < end; i++)
            sum += records[i * 2u];
        sum = before + akv_group_scan(sums, sum, LANES, &all);
        for (i = first; i < end; i++) {
            akv_u32 own = records[i * 2u];
            records[i * 2u] = sum;
            sum += own;
        }
        before += all;
    }
    if (lane == 0u) {
        __global akv_u32 *escapes = (__global akv_u32 *)(body + akv_bx16_escapes_at(p.elements));
        for (i = pieces * 2u; i & 3u; i++)
            records[i] = 0u;
        for (i = p.escapes; i & 3u; i++)
            escapes[i] = 0u;
    }
}
#endif

#ifdef AKV_ESCAPES
__kernel SHAPE void akv_k_bx16_escapes(__global const uchar *rows, ulong rows_at, __global uchar *body,
                                       ulong body_at, const akv_bx16_params p)
{
    __local uchar index[256], counts[OCTETS];
    akv_u32 lane = (akv_u32)get_local_id(0), piece = (akv_u32)get_group_id(0), g, i;
    akv_u32 m = akv_bx16_length(p.elements, piece);
    body += body_at;
    __global const akv_u32 *records = (__global const akv_u32 *)body;
    __global akv_u32 *escapes = (__global akv_u32 *)(body + akv_bx16_escapes_at(p.elements));
    akv_u32 first = records[piece * 2u];
    akv_u32 end = piece + 1u < akv_bx16_pieces(p.elements) ? records[piece * 2u + 2u] : p.escapes;
    /* No early return: with one in front of the barriers PoCL 3.1 left groups out behind the first. */
    akv_u32 some = first < end;
    __global const ushort *x = (__global const ushort *)(rows + rows_at) + (akv_u64)piece * AKV_BX16_PIECE;
    fill_index(index, &p);
    for (g = lane; some && g < OCTETS; g += LANES) {
        akv_u32 own = 0u;
        for (i = g * 8u; i < AKV_MIN(g * 8u + 8u, m); i++)
            own += index[akv_bx16_exponent(x[i])] / AKV_BX16_ESCAPE;
        counts[g] = (uchar)own;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (g = lane; some && g < OCTETS; g += LANES) {
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
#endif

#ifdef AKV_MERGE
__kernel SHAPE void akv_k_bx16_decode(__global const uchar *body, ulong body_at, __global uchar *rows,
                                      ulong rows_at, __global uchar *damaged, ulong damaged_at,
                                      const akv_bx16_params p)
{
    __local akv_u32 checks[LANES], bad[1];
    __local ushort escaped[AKV_BX16_PIECE]; /* exponents of escapes; 256: none */
    akv_u32 lane = (akv_u32)get_local_id(0), piece = (akv_u32)get_group_id(0), g, i;
    akv_u32 m = akv_bx16_length(p.elements, piece), check = 0u, some;
    body += body_at;
    __global const akv_u32 *records = (__global const akv_u32 *)body;
    __global const akv_u32 *escapes = (__global const akv_u32 *)(body + akv_bx16_escapes_at(p.elements));
    __global const akv_u32 *rests = (__global const akv_u32 *)(body + akv_bx16_piece_at(p.elements, piece));
    __global const akv_u32 *indices = (__global const akv_u32 *)(body + akv_bx16_indices_at(p.elements, piece));
    __global ushort *x = (__global ushort *)(rows + rows_at) + (akv_u64)piece * AKV_BX16_PIECE;
    akv_u32 first = records[piece * 2u];
    akv_u32 end = piece + 1u < akv_bx16_pieces(p.elements) ? records[piece * 2u + 2u] : p.escapes;
    akv_u32 fault = first > end || end > p.escapes || (piece == 0u && first != 0u);
    some = !fault && first < end;
    if (lane == 0u)
        bad[0] = fault;
    for (i = lane; some && i < AKV_BX16_PIECE; i += LANES)
        escaped[i] = 256u;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (i = first + lane; some && i < end; i += LANES) {
        akv_u32 position = escapes[i] & 0xFFFFu, exponent = escapes[i] >> 16;
        if (position >= m || exponent > 255u || (i > first && (escapes[i - 1u] & 0xFFFFu) >= position))
            atomic_or(&bad[0], 1u);
        else
            escaped[position] = (ushort)exponent;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (g = lane; g < OCTETS && g * 8u < m; g += LANES) {
        akv_u32 count = AKV_MIN(8u, m - g * 8u), nibbles = indices[g], word[4] = {0u, 0u, 0u, 0u};
        akv_u32 rest[2];
        rest[0] = rests[g * 2u];
        rest[1] = rests[g * 2u + 1u];
        for (i = 0u; i < count; i++) {
            akv_u32 exponent = akv_bx16_entry(&p, nibbles >> 4u * i & 15u);
            if (some && escaped[g * 8u + i] < 256u)
                exponent = escaped[g * 8u + i];
            word[i / 2u] |= akv_bx16_join(rest[i / 4u] >> 8u * (i & 3u) & 0xFFu, exponent) << 16u * (i & 1u);
        }
        if (count == 8u && (rows_at & 15u) == 0u)
            *(__global uint4 *)(x + g * 8u) = (uint4)(word[0], word[1], word[2], word[3]);
        else
            for (i = 0u; i < count; i++)
                x[g * 8u + i] = (ushort)(word[i / 2u] >> 16u * (i & 1u));
        for (i = 0u; i < (count + 1u) / 2u; i++)
            check += akv_bx16_mix(word[i], g * 4u + i);
    }
    check = akv_group_sum(checks, check, LANES);
    if (lane == 0u && (bad[0] || check + piece != records[piece * 2u + 1u]))
        *(__global akv_u32 *)(damaged + damaged_at) = 1u;
}
#endif
