/* SPDX-License-Identifier: Apache-2.0 */
/* From key to node: open addressing under a version that searches check. */
#include "find.h"
#include "evict.h" /* AKV_NO_ID */

#define FIRST_NODES 64u
#define TRIES       64u /* of a search; a change takes tens of nanoseconds */
#define EMPTY       UINT64_MAX

static uint64_t get(const _Atomic uint64_t *word)
{
    return atomic_load_explicit(word, memory_order_acquire);
}

static void put(_Atomic uint64_t *word, uint64_t value)
{
    atomic_store_explicit(word, value, memory_order_release);
}

static struct akv_find_table *table_of(const struct akv_find *find)
{
    return atomic_load_explicit(&find->table, memory_order_acquire);
}

/* Called before and after a change. */
static void turn(struct akv_find *find)
{
    const uint32_t version = atomic_load_explicit(&find->version, memory_order_relaxed);
    atomic_store_explicit(&find->version, version + 1, memory_order_release);
}

/* ---- slots ---- */

static uint32_t home_of(uint64_t first_word)
{
    return (uint32_t)first_word;
}

static uint64_t slot_for(uint64_t first_word, uint32_t node)
{
    return (first_word & UINT64_C(0xFFFFFFFF00000000)) | node;
}

static bool same_key(const struct akv_find_table *table, uint32_t node, const uint64_t word[4])
{
    const _Atomic uint64_t *key = table->keys + (size_t)node * 4;
    return get(&key[0]) == word[0] && get(&key[1]) == word[1] && get(&key[2]) == word[2] &&
           get(&key[3]) == word[3];
}

/* The slot of a key, or AKV_NO_ID.  While a change is under way it may miss, and ends all the same.
 */
static uint32_t find_slot(const struct akv_find_table *table, const uint64_t word[4])
{
    uint32_t at = home_of(word[0]) & table->mask;
    for (uint32_t left = table->mask; left > 0; left--, at = (at + 1) & table->mask) {
        const uint64_t slot = get(&table->slots[at]);
        if (slot == EMPTY)
            return AKV_NO_ID;
        if (slot >> 32 == word[0] >> 32 && same_key(table, (uint32_t)slot, word))
            return at;
    }
    return AKV_NO_ID;
}

static void place_slot(struct akv_find_table *table, uint64_t first_word, uint32_t node)
{
    uint32_t at = home_of(first_word) & table->mask;
    while (get(&table->slots[at]) != EMPTY)
        at = (at + 1) & table->mask;
    put(&table->slots[at], slot_for(first_word, node));
}

/* Empties a slot and moves later ones of the run forward, so that no tombstones are needed. */
static void clear_slot(struct akv_find_table *table, uint32_t hole)
{
    const uint32_t mask = table->mask;
    for (uint32_t at = (hole + 1) & mask;; at = (at + 1) & mask) {
        const uint64_t slot = get(&table->slots[at]);
        if (slot == EMPTY)
            break;
        const uint32_t home = home_of(get(&table->keys[(size_t)(uint32_t)slot * 4])) & mask;
        if (((at - home) & mask) < ((at - hole) & mask))
            continue; /* its home lies behind the hole */
        put(&table->slots[hole], slot);
        hole = at;
    }
    put(&table->slots[hole], EMPTY);
}

/* ---- memory ---- */

static struct akv_find_table *new_table(const struct akv_find *find, uint32_t capacity)
{
    const size_t node_bytes =
        2 * sizeof(uint64_t) + 4 * sizeof(uint64_t) + sizeof(uint32_t) + find->groups;
    const size_t head = (sizeof(struct akv_find_table) + 15) / 16 * 16;
    struct akv_find_table *table =
        akv_alloc(find->context, capacity + head / node_bytes + 1, node_bytes);
    if (!table)
        return NULL;
    table->capacity = capacity;
    table->mask = capacity * 2 - 1;
    table->slots = (_Atomic uint64_t *)(void *)((uint8_t *)table + head);
    table->keys = table->slots + (size_t)capacity * 2;
    table->births = (_Atomic uint32_t *)(void *)(table->keys + (size_t)capacity * 4);
    table->kinds = (_Atomic uint8_t *)(void *)(table->births + capacity);
    for (size_t i = 0; i <= table->mask; i++)
        put(&table->slots[i], EMPTY);
    return table;
}

/* No search is in `to` yet. */
static void copy_table(const struct akv_find *find, const struct akv_find_table *from,
                       struct akv_find_table *to)
{
    const size_t words = (size_t)from->capacity * 4, kinds = (size_t)from->capacity * find->groups;
    for (size_t i = 0; i < words; i++)
        put(&to->keys[i], get(&from->keys[i]));
    for (size_t i = 0; i < from->capacity; i++)
        atomic_store_explicit(&to->births[i], from->births[i], memory_order_relaxed);
    for (size_t i = 0; i < kinds; i++)
        atomic_store_explicit(&to->kinds[i], from->kinds[i], memory_order_relaxed);
    for (size_t i = 0; i <= from->mask; i++) {
        const uint64_t slot = get(&from->slots[i]);
        if (slot != EMPTY)
            place_slot(to, get(&to->keys[(size_t)(uint32_t)slot * 4]), (uint32_t)slot);
    }
}

anykv_status akv_find_reserve(struct akv_find *find, uint32_t nodes)
{
    struct akv_find_table *old = table_of(find);
    uint32_t capacity = old ? old->capacity : FIRST_NODES;
    while (capacity < nodes)
        capacity *= 2;
    if (old && capacity == old->capacity)
        return ANYKV_OK;
    struct akv_find_table *table = new_table(find, capacity);
    if (!table)
        return ANYKV_E_MEMORY;
    if (old)
        copy_table(find, old, table);
    table->older = old;
    turn(find);
    atomic_store_explicit(&find->table, table, memory_order_release);
    turn(find);
    return ANYKV_OK;
}

void akv_find_finish(struct akv_find *find)
{
    struct akv_find_table *table = table_of(find);
    while (table) {
        struct akv_find_table *older = table->older;
        akv_free(find->context, table);
        table = older;
    }
    atomic_store_explicit(&find->table, NULL, memory_order_relaxed);
}

/* ---- one thread at a time ---- */

void akv_find_add(struct akv_find *find, const akv_digest *key, uint32_t node)
{
    struct akv_find_table *table = table_of(find);
    uint64_t word[4];
    memcpy(word, key->byte, sizeof word);
    assert(node < table->capacity && find_slot(table, word) == AKV_NO_ID);
    find->births += find->births == UINT32_MAX ? 2 : 1; /* never 0 */
    turn(find);
    for (uint32_t i = 0; i < 4; i++)
        put(&table->keys[(size_t)node * 4 + i], word[i]);
    for (uint32_t g = 0; g < find->groups; g++)
        akv_find_show(find, node, g, AKV_KIND_NONE);
    atomic_store_explicit(&table->births[node], find->births, memory_order_release);
    place_slot(table, word[0], node);
    turn(find);
}

void akv_find_remove(struct akv_find *find, uint32_t node)
{
    struct akv_find_table *table = table_of(find);
    const akv_digest key = akv_find_key(find, node);
    uint64_t word[4];
    memcpy(word, key.byte, sizeof word);
    const uint32_t at = find_slot(table, word);
    assert(at != AKV_NO_ID);
    turn(find);
    atomic_store_explicit(&table->births[node], 0, memory_order_release);
    clear_slot(table, at);
    turn(find);
}

void akv_find_show(struct akv_find *find, uint32_t node, uint32_t group, uint32_t kind)
{
    atomic_store_explicit(&table_of(find)->kinds[(size_t)node * find->groups + group],
                          (uint8_t)kind, memory_order_release);
    const uint32_t shown = atomic_load_explicit(&find->shown, memory_order_relaxed);
    atomic_store_explicit(&find->shown, shown + 1, memory_order_release);
}

uint64_t akv_find_state(const struct akv_find *find)
{
    const uint64_t shown = atomic_load_explicit(&find->shown, memory_order_acquire);
    return shown << 32 | atomic_load_explicit(&find->version, memory_order_acquire);
}

uint32_t akv_find_node(const struct akv_find *find, const akv_digest *key)
{
    const struct akv_find_table *table = table_of(find);
    uint64_t word[4];
    memcpy(word, key->byte, sizeof word);
    const uint32_t at = find_slot(table, word);
    return at == AKV_NO_ID ? AKV_NO_ID : (uint32_t)get(&table->slots[at]);
}

akv_digest akv_find_key(const struct akv_find *find, uint32_t node)
{
    const struct akv_find_table *table = table_of(find);
    akv_digest key;
    for (uint32_t i = 0; i < 4; i++) {
        const uint64_t word = get(&table->keys[(size_t)node * 4 + i]);
        memcpy(key.byte + i * sizeof word, &word, sizeof word);
    }
    return key;
}

uint64_t akv_find_tag(const struct akv_find *find, uint32_t node)
{
    return get(&table_of(find)->keys[(size_t)node * 4]);
}

uint32_t akv_find_birth(const struct akv_find *find, uint32_t node)
{
    return atomic_load_explicit(&table_of(find)->births[node], memory_order_relaxed);
}

const _Atomic uint8_t *akv_find_kinds(const struct akv_find *find, uint32_t node)
{
    return table_of(find)->kinds + (size_t)node * find->groups;
}

/* ---- any thread ---- */

void akv_find_prefetch(const struct akv_find *find, const akv_digest *key)
{
#if defined(__GNUC__)
    const struct akv_find_table *table = table_of(find);
    uint64_t word;
    memcpy(&word, key->byte, sizeof word);
    __builtin_prefetch((const void *)&table->slots[home_of(word) & table->mask]);
#else
    (void)find;
    (void)key;
#endif
}

bool akv_find_peek(const struct akv_find *find, const akv_digest *key, struct akv_found *found,
                   uint8_t *kinds_out)
{
    uint64_t word[4];
    memcpy(word, key->byte, sizeof word);
    for (uint32_t i = 0; i < TRIES; i++) {
        const uint32_t version = atomic_load_explicit(&find->version, memory_order_acquire);
        if (version & 1u)
            continue;
        const struct akv_find_table *table = table_of(find);
        const uint32_t at = find_slot(table, word);
        found->node = found->birth = AKV_NO_ID;
        if (at != AKV_NO_ID) {
            const uint64_t slot = get(&table->slots[at]);
            found->node = (uint32_t)slot;
            if (slot == EMPTY)
                continue; /* it went meanwhile */
            found->birth = atomic_load_explicit(&table->births[found->node], memory_order_acquire);
            for (uint32_t g = 0; g < find->groups; g++)
                kinds_out[g] = atomic_load_explicit(
                    &table->kinds[(size_t)found->node * find->groups + g], memory_order_acquire);
        }
        if (atomic_load_explicit(&find->version, memory_order_relaxed) == version)
            return true;
    }
    return false;
}
