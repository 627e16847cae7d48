/* SPDX-License-Identifier: Apache-2.0 */
/* The block pool alone: places, counts, ledger, room, relocation, tenants. */
#include "engine.h"

#define CLASSES (2 * AKV_POOL_KINDS)

/* Two groups; chunks of 960 bytes: 3 hot blocks of group 0 or 12 packed ones, 6 hot ones of
 * group 1. */
static void start(struct akv_pool *pool, uint32_t chunks, uint32_t per_slab)
{
    static const uint32_t bytes[CLASSES] = {320, 80, [AKV_CLASS(1, 0)] = 160};
    const struct akv_pool_shape shape = {960, per_slab, 2, bytes};
    OK(akv_pool_init(pool, NULL, &shape));
    for (uint32_t slab = 0; chunks; slab++) {
        const uint32_t here = chunks < per_slab ? chunks : per_slab;
        OK(akv_pool_add_slab(pool, slab, here));
        chunks -= here;
    }
}

static uint32_t take(struct akv_pool *pool, uint32_t group, uint32_t kind)
{
    bool scrub;
    return akv_pool_alloc(pool, group, kind, 7, &scrub);
}

Test(pool, fills_and_empties)
{
    struct akv_pool pool;
    start(&pool, 5, 2); /* slabs of 2, 2 and 1 */
    uint32_t id[15];
    for (uint32_t i = 0; i < 15; i++) {
        id[i] = take(&pool, 0, 0);
        cr_assert(id[i] != AKV_NO_ID, "block %u", i);
        cr_expect(akv_pool_used_bytes(&pool) == 960 * (i / 3 + 1), "after %u blocks", i + 1);
    }
    cr_expect(take(&pool, 0, 0) == AKV_NO_ID && take(&pool, 1, 0) == AKV_NO_ID, "more than fits");
    for (uint32_t i = 0; i < 15; i++)
        for (uint32_t k = 0; k < i; k++)
            cr_expect(akv_pool_address(&pool, 0, pool.blocks[id[i]].entry) !=
                          akv_pool_address(&pool, 0, pool.blocks[id[k]].entry),
                      "blocks %u and %u share a place", i, k);
    akv_pool_acquire(&pool, id[4]);
    cr_expect(!akv_pool_release(&pool, id[4]), "released with a reference left");
    for (uint32_t i = 0; i < 15; i++)
        cr_expect(akv_pool_release(&pool, id[i]));
    cr_expect(akv_pool_used_bytes(&pool) == 0 && pool.used_bytes_peak == 5 * 960);
    akv_pool_finish(&pool);
}

Test(pool, addresses_are_the_kernels)
{
    struct akv_pool pool;
    start(&pool, 5, 2);
    for (uint32_t i = 0; i < 40; i++) {
        const uint32_t kind = i % 2, id = take(&pool, 0, kind);
        if (id == AKV_NO_ID)
            break;
        const akv_pool_map map = akv_pool_group_map(&pool, 0, 3);
        const uint32_t entry = pool.blocks[id].entry;
        cr_expect(akv_block_address(&map, entry) == akv_pool_address(&pool, 0, entry), "entry %x",
                  entry);
        cr_expect(AKV_ADDR_OFFSET(akv_pool_address(&pool, 0, entry)) + map.block_bytes[kind] <=
                  2 * 960);
    }
    akv_pool_finish(&pool);
}

Test(pool, room_before_and_after_relocation)
{
    struct akv_pool pool;
    start(&pool, 3, 3);
    uint32_t hot[9];
    for (uint32_t i = 0; i < 9; i++)
        hot[i] = take(&pool, 0, 0);
    for (uint32_t i = 0; i < 9; i++)
        if (i % 3)
            akv_pool_release(&pool, hot[i]); /* one left in each chunk */
    uint32_t need[CLASSES] = {0, 1, 0, 0};
    cr_expect(!akv_pool_fits(&pool, need) && akv_pool_could_fit(&pool, need, false, 3));
    need[1] = 25; /* three chunks of packed blocks */
    cr_expect(!akv_pool_could_fit(&pool, need, false, 3));
    need[1] = 24;
    cr_expect(akv_pool_could_fit(&pool, need, false, 3));
    need[0] = 1; /* the three hot ones left fill a chunk */
    cr_expect(!akv_pool_could_fit(&pool, need, false, 3));
    need[0] = 0;
    uint32_t emptied = 0;
    while (!akv_pool_fits(&pool, need)) {
        const uint32_t chunk = akv_pool_sparse_chunk(&pool, need);
        cr_assert(chunk != AKV_NO_ID);
        akv_move moves[4];
        uint32_t from[4], to[4];
        const uint32_t count = akv_pool_plan_moves(&pool, chunk, 4, moves, from, to);
        cr_assert(count == 1, "%u moves", count);
        const uint32_t before = pool.blocks[from[0]].entry;
        cr_expect(akv_pool_address(&pool, 0, before) == moves[0].src);
        akv_pool_commit_moves(&pool, from, to, count);
        cr_expect(akv_pool_address(&pool, 0, pool.blocks[from[0]].entry) == moves[0].dst);
        cr_expect(pool.blocks[from[0]].refs == 1 && moves[0].src != moves[0].dst);
        emptied++;
    }
    cr_expect(emptied == 2 && pool.free_chunks == 2, "%u emptied, %u free", emptied,
              pool.free_chunks);
    akv_pool_finish(&pool);
}

Test(pool, undone_moves_change_nothing)
{
    struct akv_pool pool;
    start(&pool, 2, 2);
    uint32_t id[4];
    for (uint32_t i = 0; i < 4; i++)
        id[i] = take(&pool, 0, 0);
    akv_pool_release(&pool, id[0]);
    const uint32_t entry = pool.blocks[id[3]].entry;
    akv_move moves[4];
    uint32_t from[4], to[4];
    const uint32_t count = akv_pool_plan_moves(&pool, 1, 4, moves, from, to);
    cr_assert(count == 1 && from[0] == id[3]);
    akv_pool_undo_moves(&pool, to, count);
    cr_expect(pool.blocks[id[3]].entry == entry && pool.class_[0].used == 3 &&
              pool.free_chunks == 0);
    akv_pool_finish(&pool);
}

Test(pool, locked_blocks_stay)
{
    struct akv_pool pool;
    start(&pool, 2, 2);
    uint32_t id[6];
    for (uint32_t i = 0; i < 6; i++)
        id[i] = take(&pool, 0, 0);
    for (uint32_t i = 0; i < 6; i++)
        if (i != 0 && i != 3)
            akv_pool_release(&pool, id[i]);
    uint32_t need[CLASSES] = {0, 1, 0, 0};
    akv_pool_lock(&pool, id[0]);
    akv_pool_lock(&pool, id[3]);
    akv_pool_lock(&pool, id[3]);
    cr_expect(!akv_pool_could_fit(&pool, need, false, 2), "locked chunks cannot be emptied");
    cr_expect(akv_pool_sparse_chunk(&pool, need) == AKV_NO_ID);
    akv_pool_unlock(&pool, id[3]);
    cr_expect(akv_pool_sparse_chunk(&pool, need) == AKV_NO_ID, "one of two locks is left");
    akv_pool_unlock(&pool, id[3]);
    cr_expect(akv_pool_could_fit(&pool, need, false, 2));
    cr_expect(akv_pool_sparse_chunk(&pool, need) == (pool.blocks[id[3]].entry & 0xFFFFFFFu) / 3);
    akv_pool_unlock(&pool, id[0]);
    akv_pool_finish(&pool);
}

Test(pool, slabs_come_and_go)
{
    struct akv_pool pool;
    start(&pool, 6, 2);
    uint32_t low = take(&pool, 0, 0);
    cr_expect((pool.blocks[low].entry & 0xFFFFFFFu) / 3 < 2, "low chunks are taken first");
    akv_pool_doom_slab(&pool, 2, true);
    cr_expect(pool.present == 4 && pool.free_chunks == 3);
    akv_pool_doom_slab(&pool, 2, false);
    cr_expect(pool.present == 6 && pool.free_chunks == 5);
    akv_pool_doom_slab(&pool, 2, true);
    akv_pool_drop_slab(&pool, 2);
    for (uint32_t i = 0; i < 11; i++)
        cr_assert(take(&pool, 0, 0) != AKV_NO_ID);
    cr_expect(take(&pool, 0, 0) == AKV_NO_ID, "a dropped slab gave a block");
    OK(akv_pool_add_slab(&pool, 2, 1));
    const uint32_t id = take(&pool, 0, 0);
    cr_assert(id != AKV_NO_ID);
    cr_expect(AKV_ADDR_SLAB(akv_pool_address(&pool, 0, pool.blocks[id].entry)) == 2);
    akv_pool_finish(&pool);
}

Test(pool, scrub_when_the_tenant_changes)
{
    struct akv_pool pool;
    start(&pool, 1, 1);
    bool scrub = true;
    uint32_t id = akv_pool_alloc(&pool, 0, 0, 7, &scrub);
    cr_expect(!scrub, "fresh memory");
    akv_pool_release(&pool, id);
    id = akv_pool_alloc(&pool, 0, 0, 7, &scrub);
    cr_expect(!scrub, "the same tenant");
    akv_pool_release(&pool, id);
    id = akv_pool_alloc(&pool, 0, 0, 8, &scrub);
    cr_expect(scrub, "another tenant");
    akv_pool_release(&pool, id);
    id = akv_pool_alloc(&pool, 1, 0, 8, &scrub);
    cr_expect(scrub, "another class, a chunk of several tenants");
    akv_pool_release(&pool, id);
    akv_pool_finish(&pool);
}

/* Random use against plain counting. */
Test(pool, random_use)
{
    uint64_t random = 42;
    struct akv_pool pool;
    start(&pool, 8, 3);
    uint32_t held[128], count = 0;
    static const uint32_t classes[3] = {AKV_CLASS(0, 0), AKV_CLASS(0, 1), AKV_CLASS(1, 0)};
    uint64_t used[CLASSES] = {0};
    for (int step = 0; step < 20000; step++) {
        if (house_random(&random) % 2 && count < 128) {
            const uint32_t class_ = classes[house_random(&random) % 3];
            const uint32_t id = take(&pool, class_ / AKV_POOL_KINDS, class_ % AKV_POOL_KINDS);
            if (id == AKV_NO_ID) {
                uint32_t need[CLASSES] = {0};
                need[class_] = 1;
                cr_assert(!akv_pool_fits(&pool, need));
                continue;
            }
            held[count++] = id;
            used[class_]++;
        } else if (count) {
            const uint32_t which = house_random(&random) % count;
            used[akv_pool_class_of(&pool.blocks[held[which]])]--;
            akv_pool_release(&pool, held[which]);
            held[which] = held[--count];
        }
        uint32_t chunks = 0;
        for (uint32_t c = 0; c < pool.chunk_count; c++)
            chunks += pool.chunks[c].class_ < CLASSES;
        for (uint32_t c = 0; c < CLASSES; c++)
            cr_assert(pool.class_[c].used == used[c], "step %d class %u", step, c);
        cr_assert(akv_pool_used_bytes(&pool) == chunks * 960u, "step %d", step);
    }
    akv_pool_finish(&pool);
}
