/* SPDX-License-Identifier: Apache-2.0 */
/* What kernels-cu/mma.cuh does by single instructions. */
#include "mma.cuh"
#include <map>
#include <vector>

unsigned akv_shared(const void *p)
{
    return cu_shared_address(p);
}
unsigned akv_lds1(unsigned a)
{
    return *(const unsigned *)cu_shared_at(a, 4);
}
unsigned akv_lds_table(unsigned a)
{
    return akv_lds1(a);
}
unsigned akv_lds_u16(unsigned a)
{
    return *(const unsigned short *)cu_shared_at(a, 2);
}
uint2 akv_lds2(unsigned a)
{
    return *(const uint2 *)cu_shared_at(a, 8);
}
uint4 akv_lds4(unsigned a)
{
    return *(const uint4 *)cu_shared_at(a, 16);
}
uint4 akv_lds4_table(unsigned a)
{
    return akv_lds4(a);
}
void akv_sts1(unsigned a, float x)
{
    *(float *)cu_shared_at(a, 4) = x;
}
/* Bit 3 of a selector: the sign of the byte, eight times. */
unsigned akv_prmt(unsigned a, unsigned b, unsigned s)
{
    unsigned bytes = __byte_perm(a, b, s), r = 0;
    for (int i = 0; i < 4; i++) {
        unsigned byte = bytes >> (8 * i) & 255u;
        if (s >> (4 * i) & 8u)
            byte = byte & 128u ? 255u : 0u;
        r |= byte << (8 * i);
    }
    return r;
}

static float low(unsigned x)
{
    return __half2float({(unsigned short)x});
}
static float high(unsigned x)
{
    return low(x >> 16);
}
static unsigned pair(double a, double b)
{
    return __half_as_ushort(__float2half_rn((float)a)) | (unsigned)__half_as_ushort(__float2half_rn((float)b)) << 16;
}
float2 akv_half2_floats(unsigned a)
{
    return {low(a), high(a)};
}
unsigned akv_pack_half2(float a, float b)
{
    return pair(a, b);
}
unsigned akv_hmul2(unsigned a, unsigned b)
{
    return pair(low(a) * low(b), high(a) * high(b));
}
unsigned akv_hsub2(unsigned a, unsigned b)
{
    return pair(low(a) - low(b), high(a) - high(b));
}
unsigned akv_hfma2(unsigned a, unsigned b, unsigned c)
{
    return pair((double)low(a) * low(b) + low(c), (double)high(a) * high(b) + high(c));
}
float akv_exp2(float x)
{
    float y = exp2f(x);
    return y < 1.17549435e-38f ? 0.0f : y;
}
void akv_sincos(float x, float *s, float *c)
{
    if (!(fabsf(x) < 3.1416f))
        abort(); /* the instruction is coarse there */
    *s = sinf(x);
    *c = cosf(x);
}

/* Lane i gives the address of row i % 8 of matrix i / 8. */
static void load_matrices(unsigned *d, unsigned a, bool trans)
{
    cu_shared_at(a, 16);
    cu_mine()->word[0] = a;
    const cu_slot *all = cu_meet(trans ? "ldmatrix.trans" : "ldmatrix");
    unsigned lane = cu_lane(), at[32];
    for (unsigned i = 0; i < 32; i++)
        at[i] = (unsigned)all[i].word[0];
    for (unsigned j = 0; j < 4; j++) {
        unsigned short h[2];
        for (unsigned k = 0; k < 2; k++) {
            unsigned row = trans ? 2u * (lane % 4u) + k : lane / 4u, column = trans ? lane / 4u : 2u * (lane % 4u) + k;
            h[k] = *(const unsigned short *)cu_shared_at(at[8u * j + row] + 2u * column, 2);
        }
        d[j] = h[0] | (unsigned)h[1] << 16;
    }
}
void akv_ldmatrix4(unsigned *d, unsigned a)
{
    load_matrices(d, a, false);
}
void akv_ldmatrix4_trans(unsigned *d, unsigned a)
{
    load_matrices(d, a, true);
}
/* Lane 4 r + c: a0 and a2 of row r, a1 and a3 of row r + 8, columns 2 c and 2 c + 1, a2 and a3 8 further; b0 and
 * b1 the same rows of column r; d of rows r and r + 8, columns 2 c, 2 c + 1. */
void akv_mma(float *d, unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1)
{
    const unsigned given[6] = {a0, a1, a2, a3, b0, b1};
    unsigned lane = cu_lane(), r = lane / 4u, c = lane % 4u;
    float a[2][16], b[2][16];
    cu_slot *mine = cu_mine();
    for (int i = 0; i < 6; i++)
        mine->word[i] = given[i];
    const cu_slot *all = cu_meet("mma");
    for (unsigned k = 0; k < 8; k++) { /* pair k of sixteen columns: lane k % 4 of a row, half k / 4 */
        for (unsigned h = 0; h < 2; h++) {
            unsigned x = (unsigned)all[4u * r + k % 4u].word[2u * (k / 4u) + h];
            unsigned y = (unsigned)all[4u * (2u * c + h) + k % 4u].word[4u + k / 4u];
            a[h][2u * k] = low(x), a[h][2u * k + 1u] = high(x);
            b[h][2u * k] = low(y), b[h][2u * k + 1u] = high(y);
        }
    }
    for (unsigned i = 0; i < 4; i++) {
        float sum = d[i];
        for (unsigned k = 0; k < 16; k++)
            sum += a[i / 2u][k] * b[i % 2u][k];
        d[i] = sum;
    }
}
unsigned akv_transpose8x8(unsigned x)
{
    cu_mine()->word[0] = x;
    const cu_slot *all = cu_meet("movmatrix");
    unsigned lane = cu_lane(), row = 2u * (lane % 4u), column = lane / 4u, r = 0;
    for (unsigned k = 0; k < 2; k++) {
        unsigned from = (unsigned)all[4u * (row + k) + column / 2u].word[0];
        r |= (column & 1u ? from >> 16 : from & 0xFFFFu) << (16u * k);
    }
    return r;
}

/* ---- barriers of bulk copies ---- */
struct bulk {
    unsigned to, bytes;
    const void *from;
};
struct barrier {
    int count, arrived;
    unsigned phase, expected;
    std::vector<bulk> bulks;
};
static std::map<unsigned, barrier> barriers;

static void broken(const char *what)
{
    fprintf(stderr, "barrier: %s\n", what);
    abort();
}
void akv_bar_init(unsigned bar, int count)
{
    cu_shared_at(bar, 8);
    barriers[bar] = {count, 0, 0, 0, {}};
}
void akv_bar_fence(void)
{
}
void akv_bar_expect(unsigned bar, unsigned bytes)
{
    barrier &b = barriers.at(bar);
    b.expected += bytes;
    if (++b.arrived > b.count)
        broken("more arrivals than it counts");
}
void akv_bulk(unsigned dst, const void *src, unsigned bytes, unsigned bar)
{
    if ((uintptr_t)src % 16u || bytes % 16u || bytes == 0u || dst % 16u)
        broken("a bulk copy that is not aligned");
    cu_shared_at(dst, 1);
    memset(cu_shared_at(dst + bytes - 16u, 16), 0xFF, 16);
    memset(cu_shared_at(dst, 16), 0xFF, bytes);
    barriers.at(bar).bulks.push_back({dst, bytes, src});
}
void akv_bar_wait(unsigned bar, unsigned parity)
{
    barrier &b = barriers.at(bar);
    while ((b.phase & 1u) == parity) {
        unsigned sum = 0;
        for (const bulk &c : b.bulks)
            sum += c.bytes;
        if (b.arrived == b.count && sum == b.expected) {
            for (const bulk &c : b.bulks)
                memcpy(cu_shared_at(c.to, 16), c.from, c.bytes);
            b.bulks.clear();
            b.arrived = 0;
            b.expected = 0;
            b.phase++;
            return;
        }
        cu_give_way(CU_POLL, "mbarrier");
    }
}
