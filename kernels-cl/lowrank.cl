/* SPDX-License-Identifier: Apache-2.0 */
/* Shells of the compress family: low rank, and dense products where no library does them.
 *
 * Options: AKV_PROJECT, AKV_READ, AKV_ROWS_OUT, AKV_MULTIPLY choose the kernel.  A work-group of
 * project takes LOW rows of a head, of multiply LOW rows and as many columns as it has work-items
 * (CPU shape: 16), of the others AKV_CL_LOW_UNITS elements or pairs. */
#ifdef AKV_CPU_SHAPE
#define LANES 1u
#else
#define LANES WG
#endif
#define LOW AKV_CL_LOW_ROWS

static inline float centre_at(__global const uchar *centre, akv_u32 there, akv_u32 i)
{
    return there ? akv_as_f32(akv_f32_from_f16(akv_load_u16(centre + 2u * i))) : 0.0f;
}

#ifdef AKV_PROJECT
/* Coefficients: a work-item has column after column of LOW rows, whose elements are in local
 * memory. */
__kernel SHAPE void akv_k_lowrank_project(__global const uchar *rows, ulong rows_at,
                                          __global const uchar *basis, ulong basis_at,
                                          __global const uchar *centre, ulong centre_at_,
                                          __global const uchar *turns, ulong turns_at,
                                          __global uchar *out, ulong out_at,
                                          const akv_lowrank_params p, akv_u32 centred)
{
    __local float x[LOW * AKV_MAX_HEAD_DIM];
    akv_u32 lane = (akv_u32)get_local_id(0), head = (akv_u32)get_group_id(0) % p.heads;
    akv_u32 first = (akv_u32)get_group_id(0) / p.heads * LOW, units = p.dim - p.pairs, u, r, j, i;
    akv_u32 count = AKV_MIN(LOW, p.tokens - first);
    size_t wide = (size_t)p.heads * p.dim;
    __global const ulong *turn_of = (__global const ulong *)(turns + turns_at);
    for (u = lane; u < LOW * units; u += LANES) {
        akv_u32 a, b;
        r = u / units;
        akv_lowrank_unit(&p, u % units, &a, &b);
        float first_ = 0.0f, second = 0.0f;
        if (r < count) {
            size_t start = (first + r) * wide + (size_t)head * p.dim;
            first_ = akv_as_f32(akv_sane(akv_load_bits(rows + rows_at, start + a, p.dtype)));
            second = akv_as_f32(akv_sane(akv_load_bits(rows + rows_at, start + b, p.dtype)));
        }
        if (a != b) {
            akv_turn turn = akv_rope_at(turn_of[u % units], p.position + first + r);
            turn.s = -turn.s;
            float turned = akv_rope_first(turn, first_, second);
            second = akv_rope_second(turn, first_, second);
            first_ = turned;
        }
        x[r * p.dim + b] =
            akv_lowrank_before(second, centre_at(centre + centre_at_, centred, head * p.dim + b));
        x[r * p.dim + a] =
            akv_lowrank_before(first_, centre_at(centre + centre_at_, centred, head * p.dim + a));
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    __global const float *from =
        (__global const float *)(basis + basis_at) + (size_t)head * p.dim * p.dim;
    __global float *to = (__global float *)(out + out_at) + first * wide + (size_t)head * p.dim;
    for (j = lane; j < p.dim; j += LANES) {
        float y[LOW];
        for (r = 0u; r < LOW; r++)
            y[r] = 0.0f;
        for (i = 0u; i < p.dim; i++) {
            float each = from[i * p.dim + j];
            for (r = 0u; r < LOW; r++)
                y[r] = AKV_FMA(each, x[r * p.dim + i], y[r]);
        }
        for (r = 0u; r < count; r++)
            to[r * wide + j] = y[r];
    }
#ifdef AKV_SCRUB
    barrier(CLK_LOCAL_MEM_FENCE);
    for (i = lane; i < LOW * AKV_MAX_HEAD_DIM; i += LANES)
        x[i] = 0.0f;
#endif
}
#endif

#ifdef AKV_READ
__kernel SHAPE void akv_k_lowrank_read(__global const uchar *codes, ulong codes_at,
                                       __global const uchar *shifts, ulong shifts_at,
                                       __global uchar *out, ulong out_at,
                                       const akv_lowrank_params p)
{
    akv_u32 wide = p.heads * p.dim,
            i = (akv_u32)get_group_id(0) * AKV_CL_LOW_UNITS + (akv_u32)get_local_id(0);
    akv_u32 end = AKV_MIN(i - (akv_u32)get_local_id(0) + AKV_CL_LOW_UNITS, p.tokens * wide);
    for (; i < end; i += LANES) {
        akv_u32 column = i % wide;
        char code = (char)codes[codes_at + (size_t)(i / wide) * p.columns + column];
        ((__global float *)(out + out_at))[i] =
            (float)code * akv_lowrank_more(akv_as_f32(p.step), shifts[shifts_at + column]);
    }
}
#endif

#ifdef AKV_ROWS_OUT
__kernel SHAPE void akv_k_lowrank_rows(__global const uchar *sums, ulong sums_at,
                                       __global const uchar *centre, ulong centre_at_,
                                       __global const uchar *turns, ulong turns_at,
                                       __global uchar *rows, ulong rows_at,
                                       const akv_lowrank_params p, akv_u32 centred)
{
    akv_u32 units = p.dim - p.pairs,
            i = (akv_u32)get_group_id(0) * AKV_CL_LOW_UNITS + (akv_u32)get_local_id(0);
    akv_u32 end =
        AKV_MIN(i - (akv_u32)get_local_id(0) + AKV_CL_LOW_UNITS, p.tokens * p.heads * units);
    __global const float *from = (__global const float *)(sums + sums_at);
    __global const ulong *turn_of = (__global const ulong *)(turns + turns_at);
    for (; i < end; i += LANES) {
        akv_u32 row = i / units, head = row % p.heads, a, b;
        size_t start = (size_t)row * p.dim;
        akv_lowrank_unit(&p, i % units, &a, &b);
        float first = akv_lowrank_after(from[start + a],
                                        centre_at(centre + centre_at_, centred, head * p.dim + a));
        float second = akv_lowrank_after(from[start + b],
                                         centre_at(centre + centre_at_, centred, head * p.dim + b));
        if (a != b) {
            akv_turn turn = akv_rope_at(turn_of[i % units], p.position + row / p.heads);
            float turned = akv_rope_first(turn, first, second);
            second = akv_rope_second(turn, first, second);
            first = turned;
            akv_store_bits(rows + rows_at, start + b, p.dtype, akv_as_u32(second));
        }
        akv_store_bits(rows + rows_at, start + a, p.dtype, akv_as_u32(first));
    }
}
#endif

#ifdef AKV_MULTIPLY
__kernel SHAPE void akv_k_multiply(__global const uchar *a_, ulong a_at, __global const uchar *b_,
                                   ulong b_at, __global uchar *c_, ulong c_at,
                                   const akv_multiply_params p)
{
    akv_u32 row = (akv_u32)get_group_id(1) * LOW, l, r;
    __global const float *a =
        (__global const float *)(a_ + a_at) + get_group_id(2) * p.a_step + (size_t)row * p.lda;
    __global const float *b = (__global const float *)(b_ + b_at) + get_group_id(2) * p.b_step;
    __global float *c =
        (__global float *)(c_ + c_at) + get_group_id(2) * p.c_step + (size_t)row * p.ldc;
    akv_u32 count = AKV_MIN(LOW, p.m - row);
#ifdef AKV_CPU_SHAPE
    akv_u32 column = (akv_u32)get_group_id(0) * AKV_CL_LOW_COLUMNS, j;
    if (p.n - column >= AKV_CL_LOW_COLUMNS) {
        for (r = 0u; r < count; r++) {
            float16 sum = 0.0f;
            for (l = 0u; l < p.k; l++)
                sum = fma((float16)a[r * (size_t)p.lda + l],
                          vload16(0, b + l * (size_t)p.ldb + column), sum);
            vstore16(sum, 0, c + r * (size_t)p.ldc + column);
        }
        return;
    }
    for (j = column; j < p.n; j++)
        for (r = 0u; r < count; r++) {
            float sum = 0.0f;
            for (l = 0u; l < p.k; l++)
                sum = AKV_FMA(a[r * (size_t)p.lda + l], b[l * (size_t)p.ldb + j], sum);
            c[r * (size_t)p.ldc + j] = sum;
        }
#else
    akv_u32 column = (akv_u32)get_group_id(0) * WG + (akv_u32)get_local_id(0);
    float sum[LOW];
    if (column >= p.n)
        return;
    for (r = 0u; r < LOW; r++)
        sum[r] = 0.0f;
    for (l = 0u; l < p.k; l++) {
        float each = b[l * (size_t)p.ldb + column];
        for (r = 0u; r < LOW; r++) /* rows behind the end are the last one again */
            sum[r] = AKV_FMA(each, a[AKV_MIN(r, count - 1u) * (size_t)p.lda + l], sum[r]);
    }
    for (r = 0u; r < count; r++)
        c[r * (size_t)p.ldc + column] = sum[r];
#endif
}
#endif
