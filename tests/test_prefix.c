/* SPDX-License-Identifier: Apache-2.0 */
/* Keys, the prefix index and the policy: alone, against plain models, and on a request trace. */
#include "engine.h"

/* ---- keys ---- */

Test(prefix, keys_by_hand)
{
    uint8_t identity[32];
    memset(identity, 5, sizeof identity);
    const akv_digest root = akv_prefix_root(identity, "salt", 4, "extra", 5);
    const uint32_t length = 4, tokens[16] = {1, 2, 3};
    akv_sha256 state;
    akv_sha256_init(&state);
    akv_sha256_update(&state, "anykv1", 6);
    akv_sha256_update(&state, identity, 32);
    akv_sha256_update(&state, &length, 4);
    akv_sha256_update(&state, "saltextra", 9);
    akv_digest wanted = akv_sha256_final(&state);
    cr_expect_arr_eq(root.byte, wanted.byte, 32);
    akv_sha256_init(&state);
    akv_sha256_update(&state, wanted.byte, 32);
    akv_sha256_update(&state, tokens, sizeof tokens);
    wanted = akv_sha256_final(&state);
    const akv_digest key = akv_prefix_key(&root, tokens, 16);
    cr_expect_arr_eq(key.byte, wanted.byte, 32);
    const akv_digest moved = akv_prefix_root(identity, "salte", 5, "xtra", 4);
    cr_expect(memcmp(root.byte, moved.byte, 32) != 0, "salt and extra run together");
}

/* ---- the index ---- */

Test(prefix, leaves_before_parents)
{
    struct akv_prefix prefix;
    OK(akv_prefix_init(&prefix, NULL, 0, ANYKV_POLICY_LRU));
    uint32_t node[4], parent = AKV_NO_ID;
    for (uint32_t i = 0; i < 3; i++) {
        const akv_digest key = akv_prefix_key_of(i);
        parent = node[i] = akv_prefix_insert(&prefix, &key, parent, 0, false);
    }
    const akv_digest key = akv_prefix_key_of(9);
    node[3] = akv_prefix_insert(&prefix, &key, node[0], 0, false); /* a second child of the first */
    cr_expect(akv_prefix_victim(&prefix) == AKV_NO_ID, "everything is in use");
    /* Touched in the wrong order, parents first: still no parent goes before its child. */
    for (uint32_t i = 0; i < 4; i++) {
        akv_prefix_touch(&prefix, node[i]);
        akv_prefix_drop(&prefix, node[i]);
    }
    const uint32_t order[] = {2, 1, 3, 0};
    for (uint32_t i = 0; i < 4; i++) {
        cr_assert(akv_prefix_victim(&prefix) == node[order[i]], "victim %u", i);
        akv_prefix_remove(&prefix, node[order[i]]);
    }
    cr_expect(prefix.count == 0);
    akv_prefix_finish(&prefix);
}

Test(prefix, pins_and_users_keep_ancestors)
{
    struct akv_prefix prefix;
    OK(akv_prefix_init(&prefix, NULL, 0, ANYKV_POLICY_LRU));
    uint32_t node[3], parent = AKV_NO_ID;
    for (uint32_t i = 0; i < 3; i++) {
        const akv_digest key = akv_prefix_key_of(i);
        parent = node[i] = akv_prefix_insert(&prefix, &key, parent, 0, false);
    }
    akv_prefix_pin(&prefix, node[2]);
    for (uint32_t i = 3; i-- > 0;)
        akv_prefix_drop(&prefix, node[i]);
    cr_expect(akv_prefix_victim(&prefix) == AKV_NO_ID, "a pinned leaf went");
    cr_expect(akv_prefix_busy(&prefix, node[0]) && prefix.nodes[node[0]].busy_children == 1);
    akv_prefix_unpin(&prefix, node[2]);
    akv_prefix_unpin(&prefix, node[2]); /* without a pin: nothing */
    cr_expect(akv_prefix_victim(&prefix) == node[2] && !akv_prefix_busy(&prefix, node[0]));
    akv_prefix_hold(&prefix, node[1]);
    akv_prefix_remove(&prefix, node[2]);
    cr_expect(akv_prefix_victim(&prefix) == AKV_NO_ID);
    akv_prefix_drop(&prefix, node[1]);
    cr_expect(akv_prefix_victim(&prefix) == node[1]);
    akv_prefix_finish(&prefix);
}

/* Chains of two; what is used late is told in order, with its time, and once for a burst. */
Test(prefix, late_uses)
{
    enum { CHAINS = AKV_LATE + 2 };
    struct akv_prefix prefix;
    uint32_t node[CHAINS][2];
    OK(akv_prefix_init(&prefix, NULL, 0, ANYKV_POLICY_LRU));
    akv_prefix_clock(&prefix, 100.0);
    for (uint32_t c = 0; c < CHAINS; c++)
        for (uint32_t i = 0; i < 2; i++) {
            const akv_digest key = akv_prefix_key_of(2 * c + i);
            node[c][i] = akv_prefix_insert(&prefix, &key, i ? node[c][0] : AKV_NO_ID, 0, false);
            akv_prefix_touch(&prefix, node[c][i]);
        }
    /* More than there is room for, the last chain first. */
    for (uint32_t c = CHAINS; c-- > 0;) {
        akv_prefix_clock(&prefix, 200.0 - c);
        akv_prefix_use_path(&prefix, node[c][1], false);
    }
    cr_expect(prefix.lates == CHAINS - AKV_LATE, "%u are late", prefix.lates);
    cr_expect(akv_prefix_age(&prefix, node[1][1]) == 1.0); /* late */
    cr_expect(akv_prefix_age(&prefix, node[CHAINS - 1][1]) == CHAINS - 1.0);
    akv_prefix_clock(&prefix, 200.0 + 0.5 * AKV_BURST);
    const uint64_t before = prefix.evict.stamp;
    akv_prefix_use_path(&prefix, node[1][1], false); /* a burst: moves behind chain 0 */
    cr_expect(prefix.lates == 3, "a second apart: no burst");
    akv_prefix_use_path(&prefix, node[1][1], false);
    akv_prefix_use_path(&prefix, node[0][1], false);
    cr_expect(prefix.lates == 3, "%u are late", prefix.lates);
    akv_prefix_catch_up(&prefix);
    cr_expect(prefix.lates == 0 && prefix.evict.stamp - before == 6, "%llu touches",
              (unsigned long long)(prefix.evict.stamp - before));
    cr_expect(prefix.evict.entry[node[0][0]].t == 200.0 + 0.5 * AKV_BURST);
    cr_expect(prefix.evict.now == 200.0 + 0.5 * AKV_BURST, "the time is another one");
    for (uint32_t c = 0; c < CHAINS; c++)
        for (uint32_t i = 2; i-- > 0;)
            akv_prefix_drop(&prefix, node[c][i]);
    /* A use that is still late when a victim is asked for: chain 9, the oldest, goes last. */
    akv_prefix_clock(&prefix, 300.0);
    akv_prefix_use_path(&prefix, node[9][1], false);
    static const uint32_t order[] = {8, 7, 6, 5, 4, 3, 2, 1, 0, 9};
    for (uint32_t i = 0; i < CHAINS; i++)
        for (uint32_t n = 2; n-- > 0;) {
            cr_assert(akv_prefix_victim(&prefix) == node[order[i]][n], "chain %u, node %u", order[i], n);
            akv_prefix_remove(&prefix, node[order[i]][n]);
        }
    akv_prefix_finish(&prefix);
}

/* A path that goes while its use is late is told of before. */
Test(prefix, late_use_of_what_goes)
{
    struct akv_prefix prefix;
    OK(akv_prefix_init(&prefix, NULL, 0, ANYKV_POLICY_LFU));
    akv_prefix_clock(&prefix, 100.0);
    const akv_digest key = akv_prefix_key_of(1), other = akv_prefix_key_of(2);
    const uint32_t node = akv_prefix_insert(&prefix, &key, AKV_NO_ID, 0, false);
    akv_prefix_drop(&prefix, node);
    akv_prefix_use_path(&prefix, node, true);
    akv_prefix_use_path(&prefix, node, false);
    cr_expect(prefix.lates == 2, "an end is no beginning");
    akv_prefix_remove(&prefix, node);
    cr_expect(prefix.lates == 0);
    cr_expect(akv_prefix_insert(&prefix, &other, AKV_NO_ID, 0, false) == node, "the place is used again");
    cr_expect(akv_prefix_age(&prefix, node) < 0.0, "an earlier node's use counts for it");
    akv_prefix_finish(&prefix);
}

Test(prefix, withdrawn_names_are_not_found)
{
    struct akv_prefix prefix;
    OK(akv_prefix_init(&prefix, NULL, 0, ANYKV_POLICY_LRU));
    const akv_digest key = akv_prefix_key_of(1);
    const uint32_t old = akv_prefix_insert(&prefix, &key, AKV_NO_ID, 0, false);
    akv_prefix_withdraw(&prefix, old);
    akv_prefix_withdraw(&prefix, old);
    cr_expect(akv_prefix_find(&prefix, &key) == AKV_NO_ID);
    const uint32_t fresh = akv_prefix_insert(&prefix, &key, AKV_NO_ID, 0, false);
    cr_expect(fresh != old && akv_prefix_find(&prefix, &key) == fresh);
    akv_prefix_drop(&prefix, old);
    akv_prefix_remove(&prefix, old);
    cr_expect(akv_prefix_find(&prefix, &key) == fresh, "the old node took the new one's key along");
    akv_prefix_finish(&prefix);
}

/* Searches while another thread changes the index: a search finds a node with the kind that its key
 * was given, or nothing, and keys that stay are always found. */
#define KEYS  3000u /* the table grows several times meanwhile */
#define STAYS 64u

struct search {
    struct akv_prefix prefix;
    atomic_bool over;
    atomic_uint wrong, found;
};

static akv_digest search_key(uint32_t i)
{
    akv_digest key = akv_prefix_key_of(i);
    if (i % 3 == 0)
        memset(key.byte, 0, 4); /* long runs of slots */
    return key;
}

static void *search(void *argument)
{
    struct search *s = argument;
    uint64_t random = 5;
    uint32_t wrong = 0, seen = 0;
    for (uint32_t answers = 0; answers < 20000 || !atomic_load(&s->over);) {
        const uint32_t i = house_random(&random) % KEYS;
        const akv_digest key = search_key(i);
        struct akv_found found;
        uint8_t kind = AKV_KIND_NONE;
        if (!akv_find_peek(&s->prefix.find, &key, &found, &kind))
            continue; /* the index changed meanwhile */
        answers++;
        if (found.node == AKV_NO_ID) {
            wrong += i < STAYS;
            continue;
        }
        seen++;
        wrong += found.birth == 0 || (kind != AKV_KIND_NONE && kind != i % 7);
    }
    atomic_fetch_add(&s->wrong, wrong);
    atomic_fetch_add(&s->found, seen);
    return NULL;
}

Test(prefix, searches_take_no_lock)
{
    static struct search s;
    static uint32_t node[KEYS];
    akv_thread threads[3];
    memset(&s, 0, sizeof s);
    OK(akv_prefix_init(&s.prefix, NULL, 1, ANYKV_POLICY_LRU));
    uint64_t random = 3;
    for (uint32_t i = 0; i < KEYS; i++)
        node[i] = AKV_NO_ID;
    for (uint32_t i = 0; i < STAYS; i++) {
        const akv_digest key = search_key(i);
        node[i] = akv_prefix_insert(&s.prefix, &key, AKV_NO_ID, 0, false);
    }
    for (uint32_t t = 0; t < 3; t++)
        OK(akv_thread_start(NULL, &threads[t], search, &s));
    for (uint32_t step = 0; step < 100000; step++) {
        const uint32_t i = STAYS + house_random(&random) % (KEYS - STAYS);
        if (node[i] == AKV_NO_ID) {
            const akv_digest key = search_key(i);
            node[i] = akv_prefix_insert(&s.prefix, &key, AKV_NO_ID, 0, false);
            akv_find_show(&s.prefix.find, node[i], 0, i % 7);
        } else {
            akv_prefix_drop(&s.prefix, node[i]);
            akv_prefix_remove(&s.prefix, node[i]);
            node[i] = AKV_NO_ID;
        }
    }
    atomic_store(&s.over, true);
    for (uint32_t t = 0; t < 3; t++)
        akv_thread_join(&threads[t]);
    cr_expect_eq(atomic_load(&s.wrong), 0);
    cr_expect(atomic_load(&s.found) > 20000);
    akv_prefix_finish(&s.prefix);
}

/* Keys whose hashes collide on purpose: runs of slots that wrap and close up again. */
Test(prefix, random_inserts_and_removals)
{
    struct akv_prefix prefix;
    OK(akv_prefix_init(&prefix, NULL, 1, ANYKV_POLICY_LRU));
    uint32_t node[400];
    for (uint32_t i = 0; i < 400; i++)
        node[i] = AKV_NO_ID;
    uint64_t random = 11;
    for (int step = 0; step < 40000; step++) {
        const uint32_t i = house_random(&random) % 400;
        akv_digest key;
        memset(&key, 0, sizeof key);
        key.byte[0] = (uint8_t)(i % 7 * 37);
        key.byte[1] = i % 7 == 6 ? 0xFF : 0;
        key.byte[2] = key.byte[1];
        key.byte[3] = key.byte[1];
        key.byte[8] = (uint8_t)i;
        key.byte[9] = (uint8_t)(i >> 8);
        cr_assert(akv_prefix_find(&prefix, &key) == node[i], "step %d, key %u", step, i);
        if (node[i] == AKV_NO_ID) {
            node[i] = akv_prefix_insert(&prefix, &key, AKV_NO_ID, 0, false);
            *akv_prefix_blocks(&prefix, node[i]) = i;
        } else {
            cr_assert(*akv_prefix_blocks(&prefix, node[i]) == i, "step %d, key %u", step, i);
            akv_prefix_drop(&prefix, node[i]);
            akv_prefix_remove(&prefix, node[i]);
            node[i] = AKV_NO_ID;
        }
    }
    akv_prefix_finish(&prefix);
}

static anykv_status fill_index(void)
{
    struct akv_prefix prefix;
    anykv_status status = akv_prefix_init(&prefix, NULL, 2, ANYKV_POLICY_LRU);
    if (status)
        return status;
    for (uint64_t i = 0; i < 300 && !status; i++) {
        const akv_digest key = akv_prefix_key_of(i);
        const uint32_t count = prefix.count;
        if (akv_prefix_insert(&prefix, &key, AKV_NO_ID, 0, false) == AKV_NO_ID) {
            status = ANYKV_E_MEMORY;
            cr_expect(prefix.count == count && akv_prefix_find(&prefix, &key) == AKV_NO_ID);
            for (uint64_t k = 0; k < i; k++) {
                const akv_digest before = akv_prefix_key_of(k);
                cr_expect(akv_prefix_find(&prefix, &before) != AKV_NO_ID, "key %llu is lost",
                          (unsigned long long)k);
            }
        }
    }
    akv_prefix_finish(&prefix);
    return status;
}

Test(prefix, failed_allocations)
{
    house_fail_allocations("index", fill_index);
}

/* ---- a real trace: leaf-LRU's published hit rates ---- */

struct request {
    uint32_t first, count;
};
static uint32_t *ids;
static struct request *requests;
static uint32_t id_count, request_count;

static bool read_trace(const char *path)
{
    FILE *file = fopen(path, "r");
    if (!file)
        return false;
    char *line = NULL;
    size_t room = 0;
    uint32_t id_room = 0, request_room = 0;
    while (getline(&line, &room, file) > 0) {
        char *at = strstr(line, "\"hash_ids\"");
        if (!at || !(at = strchr(at, '[')))
            continue;
        if (request_count == request_room)
            requests = realloc(requests, (request_room += 4096) * sizeof *requests);
        struct request *request = &requests[request_count++];
        *request = (struct request){id_count, 0};
        for (at++; *at && *at != ']'; request->count++) {
            if (id_count == id_room)
                ids = realloc(ids, (id_room += 1u << 16) * sizeof *ids);
            ids[id_count++] = (uint32_t)strtoul(at, &at, 10);
            while (*at == ',' || *at == ' ')
                at++;
        }
    }
    free(line);
    fclose(file);
    return request_count > 0;
}

static double replay(uint32_t capacity)
{
    struct akv_prefix prefix;
    OK(akv_prefix_init(&prefix, NULL, 0, ANYKV_POLICY_LRU));
    uint32_t *nodes = calloc(65536, sizeof *nodes);
    uint64_t hits = 0, lookups = 0;
    for (uint32_t r = 0; r < request_count; r++) {
        const uint32_t *id = ids + requests[r].first, count = requests[r].count;
        uint32_t n = 0;
        lookups += count;
        for (; n < count; n++) {
            const akv_digest key = akv_prefix_key_of(id[n]);
            const uint32_t node = akv_prefix_find(&prefix, &key);
            if (node == AKV_NO_ID)
                break;
            akv_prefix_hold(&prefix, node);
            nodes[n] = node;
        }
        hits += n;
        for (; n < count && n < capacity; n++) {
            if (prefix.count == capacity) {
                const uint32_t victim = akv_prefix_victim(&prefix);
                if (victim == AKV_NO_ID)
                    break;
                akv_prefix_remove(&prefix, victim);
            }
            const akv_digest key = akv_prefix_key_of(id[n]);
            nodes[n] = akv_prefix_insert(&prefix, &key, n ? nodes[n - 1] : AKV_NO_ID, 0, false);
        }
        akv_prefix_request(&prefix, nodes, n);
        for (uint32_t i = n; i-- > 0;)
            akv_prefix_drop(&prefix, nodes[i]);
    }
    free(nodes);
    akv_prefix_finish(&prefix);
    return 100.0 * (double)hits / (double)lookups;
}

Test(prefix, hit_rates_of_the_conversation_trace, .timeout = 120)
{
    const char *data = getenv("ANYKV_TEST_DATA");
    char path[512];
    snprintf(path, sizeof path, "%s/traces/mooncake_conversation.jsonl", data ? data : "");
    if (!data || !read_trace(path))
        cr_skip(
            "ANYKV_TEST_DATA does not name a directory with traces/mooncake_conversation.jsonl");
    const struct {
        uint32_t blocks;
        double percent;
    } wanted[] = {{1000, 4.5}, {3000, 6.5}, {10000, 21.2}, {30000, 32.6}};
    for (int i = 0; i < 4; i++) {
        const double percent = replay(wanted[i].blocks);
        cr_expect(percent > wanted[i].percent - 0.2 && percent < wanted[i].percent + 0.2,
                  "%u blocks: %.2f %%, not %.1f", wanted[i].blocks, percent, wanted[i].percent);
    }
    free(ids);
    free(requests);
}
