/* SPDX-License-Identifier: Apache-2.0 */
/* Shell of the attend family, GPU shape.  A chunk is T positions.  For scores, a work-item multiplies one slice
 * of KE dimensions of a key with all query rows; the products meet in local memory.  For values, a work-item
 * owns one slice of VE dimensions of the sums and takes every VL-th quad of positions. */
#if defined(AKV_ATTEND) && !defined(AKV_CPU_SHAPE)
/* Where a run of 16 positions stands. */
typedef struct run {
    akv_u64 block;      /* pool address */
    akv_u32 kind, t0;   /* t0: of its first position in the block */
    akv_u32 type;       /* bit 0: rotated keys, bit 1: rotated values; 4: not held */
} run;
static inline run run_of(akv_u64 block, akv_u32 info)
{
    run x;
    x.block = block;
    x.kind = info & 15u;
    x.t0 = (info >> 8) & 0xFFFFu;
    x.type = info & HELD ? (info >> 4) & 3u : 4u;
    return x;
}

__kernel SHAPE void akv_k_attend(__global const uchar *step, ulong step_at, __global const uchar *q,
                                 ulong q_at, __global uchar *out, ulong out_at, __global uchar *lse,
                                 ulong lse_at, __global const uchar *mask, ulong mask_at,
                                 __global const uchar *sinks, ulong sinks_at, __global uchar *scratch,
                                 ulong scratch_at, __global const uchar *maps, ulong maps_at,
                                  const akv_attend_params p, uint least, uint most,
                                 uint slots, SLABS)
{
    __local float shared[SHARED];      /* products of slices; sums that are handed over */
    __local float query[2 * R * KD];   /* scaled rows as they came, then rotated */
    __local float total[R * VD];       /* sums of finished segments */
    __local float score[R * T], weight[R * T];
    __local float keep[R], top[R], whole_m[R], whole_l[R];
    __local float book[64];
#ifdef AKV_MAP
    __local float met[R * KD], rest[R]; /* products with the mean, pair by pair */
#endif
    __local ulong run_block[BATCH];
    __local uint run_info[BATCH];
    const akv_u32 item = (akv_u32)get_local_id(0), number = (akv_u32)get_group_id(2);
    const akv_u32 kv = (akv_u32)get_group_id(1);
    akv_u32 r, d, i, n;
    step += step_at;
    mask += mask_at;
    if (number >= ((__global const akv_step_head *)step)->sequences)
        return;
    const cut c = cut_of(step, &p, number, least, most);
    const akv_u32 tokens = ((__global const akv_step_head *)step)->block_tokens;
    akv_u32 rows = c.count * c.repeat;
    if (c.count == 0u || (akv_u32)get_group_id(0) / c.parts * R >= rows)
        return;
#ifdef AKV_NOT_ONE
    if (c.count == 1u)
        return;
#endif
    const akv_u32 part = (akv_u32)get_group_id(0) % c.parts;
    const akv_u32 first_row = (akv_u32)get_group_id(0) / c.parts * R;
    rows = AKV_MIN(rows - first_row, (akv_u32)R);

    for (i = item; i < R * KD; i += WG) {
        akv_u32 row = first_row + i / KD, head = kv * c.repeat + row % c.repeat;
        float x = 0.0f;
        if (i / KD < rows)
            x = akv_as_f32(akv_load_bits(
                    q + q_at,
                    akv_page_source(&p.q, c.first_token + row / c.repeat, head) + i % KD, p.q.dtype)) *
                p.scale;
        query[i] = x;
        query[R * KD + i] = x;
    }
    for (i = item; i < R * VD; i += WG)
        total[i] = 0.0f;
    if (item < R) {
        whole_m[item] = akv_minus_infinity();
        whole_l[item] = 0.0f;
        top[item] = akv_minus_infinity();
    }
    fill_books(book, item);
    barrier(CLK_LOCAL_MEM_FENCE);
    if (p.k_flags & AKV_FLAG_ROTATE)
        rotate_local(query + R * KD, KD, item);
#ifdef AKV_MAP
    maps += maps_at;
    __global const akv_map *k_map = akv_map_at(maps, p.k_map), *v_map = akv_map_at(maps, p.v_map);
    const bool has_mean = (p.k_flags & AKV_FLAG_MAP) && k_map->mean;
    __global const float *angles = (__global const float *)(maps + (has_mean ? k_map->table : 0u));
    const akv_u32 pairs = has_mean ? k_map->pairs : 0u;
    float regain[SCORES];
    if ((p.k_flags & AKV_FLAG_MAP) && akv_map_rotates(k_map))
        rotate_local(query + R * KD, KD, item);
    if ((p.k_flags & AKV_FLAG_MAP) && k_map->transform == AKV_TRANSFORM_MATRIX) {
        for (i = item; i < R * KD; i += WG) {
            __global const float *row =
                (__global const float *)(maps + akv_map_inverse_row(k_map, kv, KD, i % KD));
            float y = 0.0f;
            for (d = 0u; d < KD; d++)
                y = MULTIPLY_ADD(row[d], query[i / KD * KD + d], y);
            query[R * KD + i] = y;
        }
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    if ((p.k_flags & AKV_FLAG_MAP) && k_map->scales) {
        for (i = item; i < R * KD; i += WG)
            query[R * KD + i] *= akv_map_scale(maps, k_map, kv, 1u);
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    if (has_mean) {
        akv_u32 mean = k_map->mean + kv * KD * 2u;
        for (i = item; i < R * pairs; i += WG) {
            __local const float *row = query + i / pairs * KD;
            float2 pair = meet_pair(maps, k_map, mean, i % pairs, row[first_of(k_map, i % pairs)],
                                    row[second_of(k_map, i % pairs)]);
            met[i * 2u] = pair.x;
            met[i * 2u + 1u] = pair.y;
        }
        if (item < R) {
            rest[item] = 0.0f;
            for (d = 2u * pairs; d < KD; d++)
                rest[item] += query[item * KD + d] * akv_map_f16(maps, mean, d);
        }
        barrier(CLK_LOCAL_MEM_FENCE);
    }
#endif

    /* Some row sees [begin, end), all rows see [all_begin, all_end). */
    akv_u32 i0 = first_row / c.repeat, i1 = (first_row + rows - 1u) / c.repeat;
    const akv_u32 begin = AKV_MAX(akv_attend_first(c.length + i0, p.window), part * c.each);
    const akv_u32 end = AKV_MIN(akv_attend_end(c.length, c.count, i1, p.flags), (part + 1u) * c.each);
    const akv_u32 all_begin = akv_attend_first(c.length + i1, p.window);
    const akv_u32 all_end = akv_attend_end(c.length, c.count, i0, p.flags);
    const akv_u32 k_slice = item % KS, k_lane = item / KS, v_slice = item % VS, v_lane = item / VS;
    float sum[R * VE], part_l[SCORES], x[KE], mine[R * KE];
    akv_u32 open = 4u, loaded = 2u; /* type of values in `sum`; kind of query in `mine`; none yet */
    for (i = 0u; i < R * VE; i++)
        sum[i] = 0.0f;
    for (i = 0u; i < SCORES; i++)
        part_l[i] = 0.0f;

    akv_u32 chunk, batch = 0xFFFFFFFFu;
    for (chunk = begin / T; chunk * T < end || open < 4u; chunk++) {
        bool last = chunk * T >= end; /* one more turn hands over what is open */
        akv_u32 types = 0u, type, at_run = chunk * RUNS % BATCH;
        if (!last && chunk * RUNS / BATCH != batch) {
            batch = chunk * RUNS / BATCH;
            barrier(CLK_LOCAL_MEM_FENCE); /* the old ones are still read */
            if (item < BATCH) {
                akv_u32 position = (batch * BATCH + item) * RUN, info = 0u;
                akv_u32 entry = position < end && position + RUN > begin
                                    ? entry_of(step, &p, number, position)
                                    : AKV_NO_BLOCK;
                if (entry != AKV_NO_BLOCK) {
                    akv_u32 kind = entry >> 28;
                    info = HELD | kind | position % tokens << 8;
                    info |= akv_format_raw(K_FORMAT(kind)) || !(p.k_flags & TURNED) ? 0u : 16u;
                    info |= akv_format_raw(V_FORMAT(kind)) || !(p.v_flags & TURNED) ? 0u : 32u;
                    run_block[item] = block_at(&p.pool, entry);
                }
                run_info[item] = info;
            }
            barrier(CLK_LOCAL_MEM_FENCE);
        }
        for (i = 0u; i < RUNS && !last; i++)
            types |= 1u << run_of(0u, run_info[at_run + i]).type;
        /* The runs of one type at a time; whole bounds where a loop is cut short by the types. */
        for (type = 0u; type < 5u; type++) {
            if (type < 4u && !(types >> type & 1u))
                continue;
            if (type == 4u && !last)
                continue;
            /* What is open belongs to other values, or nothing follows: hand it over. */
            if (open < 4u && (type == 4u || (type & 2u) != open)) {
                for (n = 0u; n < VL; n++) {
                    if (v_lane == n)
                        for (r = 0u; r < R; r++)
                            for (d = 0u; d < VE; d++)
                                if (v_slice * VE + d < VD) {
                                    akv_u32 at = r * VD + v_slice * VE + d;
                                    shared[at] = (n ? shared[at] : 0.0f) + sum[r * VE + d];
                                }
                    barrier(CLK_LOCAL_MEM_FENCE);
                }
                for (i = 0u; i < SCORES; i++)
                    if (item + i * WG < R * T)
                        score[item + i * WG] = part_l[i];
                barrier(CLK_LOCAL_MEM_FENCE);
#ifdef AKV_MAP
                if (open == 2u && (p.v_flags & AKV_FLAG_MAP) &&
                    v_map->transform == AKV_TRANSFORM_MATRIX) {
                    for (i = item; i < R * VD; i += WG) {
                        float y = 0.0f;
                        for (d = 0u; d < VD; d++) {
                            __global const float *row =
                                (__global const float *)(maps + akv_map_inverse_row(v_map, kv, VD, d));
                            y = MULTIPLY_ADD(shared[i / VD * VD + d], row[i % VD], y);
                        }
                        shared[R * VD + i] = y;
                    }
                    barrier(CLK_LOCAL_MEM_FENCE);
                    for (i = item; i < R * VD; i += WG)
                        shared[i] = shared[R * VD + i];
                    barrier(CLK_LOCAL_MEM_FENCE);
                } else if (open == 2u && (!(p.v_flags & AKV_FLAG_MAP) || akv_map_rotates(v_map)))
                    rotate_local(shared, VD, item);
                const float scale = open == 2u && (p.v_flags & AKV_FLAG_MAP)
                                        ? akv_map_scale(maps, v_map, kv, 1u)
                                        : 1.0f;
#else
                const float scale = 1.0f;
                if (open == 2u)
                    rotate_local(shared, VD, item);
#endif
                for (i = item; i < R * VD; i += WG) {
                    akv_softmax_factors f = akv_softmax_between(whole_m[i / VD], top[i / VD]);
                    total[i] = total[i] * f.keep + (f.take != 0.0f ? shared[i] * scale * f.take : 0.0f);
                }
                barrier(CLK_LOCAL_MEM_FENCE);
                if (item < R) {
                    akv_softmax all;
                    float l = 0.0f;
                    for (i = 0u; i < T; i++)
                        l += score[item * T + i];
                    all.m = whole_m[item];
                    all.l = whole_l[item];
                    akv_softmax_merge(&all, top[item], l);
                    whole_m[item] = all.m;
                    whole_l[item] = all.l;
                    top[item] = akv_minus_infinity();
                }
                for (i = 0u; i < R * VE; i++)
                    sum[i] = 0.0f;
                for (i = 0u; i < SCORES; i++)
                    part_l[i] = 0.0f;
                open = 4u;
                barrier(CLK_LOCAL_MEM_FENCE);
            }
            if (type == 4u)
                continue;
            open = type & 2u;
            if (loaded != (type & 1u)) {
                loaded = type & 1u;
                for (r = 0u; r < R; r++)
                    for (d = 0u; d < KE; d++)
                        mine[r * KE + d] =
                            k_slice * KE + d < KD ? query[(loaded * R + r) * KD + k_slice * KE + d] : 0.0f;
            }
#ifdef AKV_MAP
            /* What scores regain of the mean: queries turned to each run, then to each position. */
            for (i = 0u; i < SCORES; i++)
                regain[i] = 0.0f;
            if (has_mean && (type & 1u)) {
                for (i = item; i < RUNS * R * pairs; i += WG) {
                    akv_u32 row = i / pairs, pair = i % pairs, from = (row % R * pairs + pair) * 2u;
                    float2 turned =
                        turn_pair((float2)(met[from], met[from + 1u]),
                                  akv_rope_at(akv_map_turns(maps, k_map, pair), chunk * T + row / R * RUN));
                    shared[i * 2u] = turned.x;
                    shared[i * 2u + 1u] = turned.y;
                }
                barrier(CLK_LOCAL_MEM_FENCE);
                for (i = 0u; i < SCORES; i++) {
                    akv_u32 at = AKV_MIN(item + i * WG, (akv_u32)(R * T - 1));
                    __local const float *turned = shared + (at % T / RUN * R + at / T) * pairs * 2u;
                    regain[i] = rest[at / T];
                    for (d = 0u; d < pairs; d++)
                        regain[i] = add_pair(regain[i], (float2)(turned[d * 2u], turned[d * 2u + 1u]), angles,
                                             d, at % RUN);
                }
                barrier(CLK_LOCAL_MEM_FENCE);
            }
#endif
            /* Products of slices. */
            for (n = k_lane; n < T && k_lane < KL; n += KL) {
                run at = run_of(run_block[at_run + n / RUN], run_info[at_run + n / RUN]);
                if (at.type != type)
                    continue;
                akv_u32 format = K_FORMAT(at.kind), t = at.t0 + n % RUN;
                __global const uchar *tile = slab_at(at.block, SLAB_NAMES) +
                                             BY_KIND(p.tiles.k_offset, at.kind) +
                                             kv * akv_tile_bytes(format, tokens, KD);
                float unit = 1.0f;
                for (d = 0u; d < KE; d += 8u) {
                    akv_u32 from = k_slice * KE + d;
                    if (from >= KD)
                        for (i = 0u; i < 8u; i++)
                            x[d + i] = 0.0f;
                    else if (akv_format_raw(format))
                        raw_8(x + d, tile + (t * KD + from) * akv_raw_bytes(format), format);
                    else
                        key_8(x + d, tile, format, tokens, t, from, book);
                }
                if (!akv_format_raw(format) && !akv_format_blocks(format))
                    unit = akv_code_unit(format,
                                         akv_scale_get(tile, format, AKV_ORDER_ROW, tokens, KD, t,
                                                       k_slice * KE / akv_scale_width(format)));
                for (r = 0u; r < R; r++) {
                    float dot = 0.0f;
                    for (d = 0u; d < KE; d++)
                        dot = MULTIPLY_ADD(mine[r * KE + d], x[d], dot);
                    shared[(r * T + n) * (KS + 1) + k_slice] = dot * unit;
                }
            }
            barrier(CLK_LOCAL_MEM_FENCE);
            /* Scores. */
            for (i = 0u; i < SCORES; i++) {
                akv_u32 at = item + i * WG, position = chunk * T + at % T;
                float s = akv_minus_infinity();
                if (at < R * T && at / T < rows &&
                    run_of(0u, run_info[at_run + at % T / RUN]).type == type) {
                    akv_u32 token = (first_row + at / T) / c.repeat;
                    if (position >= AKV_MAX(begin, akv_attend_first(c.length + token, p.window)) &&
                        position < AKV_MIN(end, akv_attend_end(c.length, c.count, token, p.flags))) {
                        float product = 0.0f;
                        for (d = 0u; d < KS; d++)
                            product += shared[at * (KS + 1) + d];
#ifdef AKV_MAP
                        product += regain[i];
#endif
                        s = score_of(product, &p, &c, mask, token, position);
                    }
                }
                if (at < R * T)
                    score[at] = s;
            }
            barrier(CLK_LOCAL_MEM_FENCE);
            /* Weights. */
            for (i = 0u; i < SCORES; i++) {
                akv_u32 at = item + i * WG;
                if (at < R * T) {
                    float old = top[at / T], m = old, factor;
                    for (d = 0u; d < T; d++)
                        m = score[at / T * T + d] > m ? score[at / T * T + d] : m;
                    factor = old >= m ? 1.0f : akv_exp(old - m);
                    weight[at] = akv_exp(score[at] - m);
                    part_l[i] = part_l[i] * factor + weight[at];
                    if (at % T == 0u)
                        keep[at / T] = factor;
                }
            }
            barrier(CLK_LOCAL_MEM_FENCE);
            if (item < R) { /* not before: all have read the old one */
                float m = top[item];
                for (d = 0u; d < T; d++)
                    m = score[item * T + d] > m ? score[item * T + d] : m;
                top[item] = m;
            }
            /* Values. */
            for (r = 0u; r < R; r++)
                for (d = 0u; d < VE; d++)
                    sum[r * VE + d] *= keep[r];
            bool careful = chunk * T < all_begin || chunk * T + T > all_end || chunk * T < begin ||
                           chunk * T + T > end || (p.flags & AKV_ATTEND_MASK);
            for (n = v_lane * 4u; n < T && v_lane < VL; n += VL * 4u) {
                run at = run_of(run_block[at_run + n / RUN], run_info[at_run + n / RUN]);
                if (at.type != type)
                    continue;
                akv_u32 format = V_FORMAT(at.kind), t = at.t0 + n % RUN;
                __global const uchar *tile = slab_at(at.block, SLAB_NAMES) +
                                             BY_KIND(p.tiles.v_offset, at.kind) +
                                             kv * akv_tile_bytes(format, tokens, VD);
                float w[R * 4];
                for (r = 0u; r < R; r++)
                    for (i = 0u; i < 4u; i++)
                        w[r * 4u + i] = weight[r * T + n + i];
                for (d = 0u; d < VE; d += 8u) {
                    if (v_slice * VE + d >= VD)
                        continue;
                    if (akv_format_raw(format))
                        add_raw(sum + d, w, tile, format, t, (v_slice * VE + d) / 8u, careful);
                    else
                        add_unit(sum + d, w, tile, format, tokens, t, (v_slice * VE + d) / 8u, careful,
                                 book);
                }
            }
        }
    }

    for (i = item; i < R * VD; i += WG) {
        akv_u32 row = first_row + i / VD, token = row / c.repeat, head = kv * c.repeat + row % c.repeat;
        akv_softmax all;
        if (i / VD >= rows)
            continue;
        all.m = whole_m[i / VD];
        all.l = whole_l[i / VD];
        if (c.parts > 1u) {
            __global float *to = slot_of(scratch + scratch_at, &p, &c, token, head, part, slots);
            to[2u + i % VD] = total[i];
            if (i % VD == 0u) {
                to[0] = all.m;
                to[1] = all.l;
            }
        } else {
            float factor = finish(&all, &p, sinks + sinks_at, head);
            akv_u64 to = akv_page_source(&p.out, c.first_token + token, head) + i % VD;
            akv_store_bits(out + out_at, to, p.out.dtype, akv_as_u32(total[i] * factor));
            if (i % VD == 0u)
                store_lse(&all, &p, lse + lse_at, c.first_token + token, head);
        }
    }
#ifdef AKV_SCRUB
    barrier(CLK_LOCAL_MEM_FENCE);
    for (i = item; i < SHARED; i += WG)
        shared[i] = 0.0f;
    for (i = item; i < 2 * R * KD; i += WG)
        query[i] = 0.0f;
    for (i = item; i < R * VD; i += WG)
        total[i] = 0.0f;
    for (i = item; i < R * T; i += WG)
        score[i] = weight[i] = 0.0f;
#endif
}
#endif
